"""What the reports on a terminal have in common: console, tables, granules, texts that others wrote, and times."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from zcollection_engine.identity import GranuleEntry

#: Rows of a table for people; machines get all.
ROWS_SHOWN = 50

#: Partitions named in one cell or line.
NAMES_SHOWN = 4

#: Columns of a report that goes to a file or a pipe.
_WIDTH_OF_FILES = 120


def make_console(stream: TextIO | None = None) -> Console:
    """Return a console on ``stream`` (standard output by default) that shows texts as they are.

    Colours only on a terminal. The width is what COLUMNS says, else the terminal's, else 120.
    """
    target = sys.stdout if stream is None else stream
    width = None if target.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return Console(file=target, width=width, markup=False, highlight=False, emoji=False)


def make_table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return a table whose cells wrap rather than lose text; columns named in ``right`` hold numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold")
    return table


def print_table(table: Table, total: int, console: Console) -> None:
    """Print a table below an empty line, and how many of ``total`` rows it left out; nothing if it has no rows."""
    if not table.row_count:
        return
    console.print()
    console.print(table)
    if total > table.row_count:
        console.print(f"  and {total - table.row_count:,} more: --json prints all")


def print_granules(title: str, entries: Sequence[GranuleEntry], console: Console) -> None:
    """Print a table of granules."""
    numbers = ("Rows", "Partitions")
    table = make_table(title, "Key", *numbers, right=numbers)
    for entry in islice(entries, ROWS_SHOWN):
        table.add_row(styled(entry.identity.key), f"{entry.rows:,}", f"{len(entry.shares):,}")
    print_table(table, len(entries), console)


def granule_json(entry: GranuleEntry) -> dict[str, Any]:
    """Return a granule for machines; the id is a text, since it has 64 bits."""
    shares = {path: share.rows for path, share in entry.shares.items()}
    return {"id": str(entry.id), "bucket": entry.identity.bucket, "key": entry.identity.key, "rows": shares}


def printable(text: str) -> str:
    """Return a text as one line that cannot control a terminal: what is not printable becomes its escape."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def styled(text: str, style: str = "") -> Text:
    """Return a text that others wrote, fit for a console."""
    return Text(printable(text), style=style, overflow="fold")


def iso(time: datetime | None) -> str | None:
    """Return a time as ISO 8601, UTC, microseconds; None stays."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def short(time: datetime | None) -> str:
    """Return a time for people, UTC, seconds; "-" for None."""
    return "-" if time is None else time.astimezone(UTC).isoformat(" ", timespec="seconds").replace("+00:00", "Z")


def seconds(value: float) -> str:
    """Return a duration for people: "0.42 s", "12.3 s", "5 min", "3.2 h", "4.5 d"."""
    for limit, unit, digits, name in ((10, 1, 2, "s"), (120, 1, 1, "s"), (7200, 60, 0, "min"), (172_800, 3600, 1, "h")):
        if abs(value) < limit:
            return f"{value / unit:.{digits}f} {name}"
    return f"{value / 86_400:.1f} d"


def json_text(document: Mapping[str, Any]) -> str:
    """Return a report for machines, in ASCII, so that every locale can print it."""
    return json.dumps(document, indent=2, allow_nan=False)
