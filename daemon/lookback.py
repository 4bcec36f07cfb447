"""The commits of a collection, as a report for people and machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from daemon.redaction import redact_text
from daemon.rendering import NAMES_SHOWN, ROWS_SHOWN, iso, make_table, print_table, short, styled
from zcollection_engine.history import CommitInfo
from zcollection_engine.opening import open_collection
from zcollection_engine.stores.options import StorageOptions

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """Commits of a collection.

    Attributes
    ----------
    url
        Root of the collection, without credentials.
    commits
        Those asked for, oldest first.
    limit
        How many people get to see, the last ones.
    """

    url: str
    commits: tuple[CommitInfo, ...]
    limit: int

    def to_json(self) -> dict[str, Any]:
        """The report for machines; times are ISO 8601 UTC, ids are texts, since they have 64 bits."""
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "commits": [
                {
                    "number": commit.number,
                    "time": iso(commit.time),
                    "operation": commit.operation,
                    "owner": commit.owner,
                    "rows": dict(commit.rows),
                    "granules": list(commit.granules),
                    "removed": list(commit.removed),
                    "lost": [str(identity) for identity in commit.lost],
                }
                for commit in self.commits
            ],
        }


def history(url: str, storage: StorageOptions, *, last: int | None, since: datetime | None) -> HistoryReport:
    """List commits.

    Parameters
    ----------
    url, storage
        The collection.
    last
        So many of them, the last ones; None for all.
    since
        Those from this time on; None for all.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If its log cannot be read.
    StorageError
        If its store cannot be read.
    """
    collection = open_collection(url, storage=storage)
    commits = (commit for commit in collection.history() if since is None or commit.time >= since)
    return HistoryReport(redact_text(collection.url), tuple(deque(commits, maxlen=last)), last or ROWS_SHOWN)


def render_history(report: HistoryReport, console: Console) -> None:
    """Print commits for people."""
    console.print(styled(report.url, "bold"), soft_wrap=True)
    if not report.commits:
        console.print("\nNo commits.")
        return
    numbers = ("Commit", "In", "Out", "Lost")
    table = make_table("Commits", "Commit", "Time", "What", "By", *numbers[1:], "Rows from then on", right=numbers)
    for commit in report.commits[-report.limit :]:
        table.add_row(
            str(commit.number),
            short(commit.time),
            styled(commit.operation),
            styled(commit.owner or "-"),
            *(f"{len(part):,}" for part in (commit.granules, commit.removed, commit.lost)),
            _rows(commit.rows),
        )
    print_table(table, len(report.commits), console)


def _rows(rows: Mapping[str, int]) -> Text:
    parts = [f"{path}: {number:,}" for path, number in islice(rows.items(), NAMES_SHOWN)]
    more = len(rows) - len(parts)
    lines = [*parts, f"and {more:,} more"] if more else parts or ["-"]
    return Text("\n", overflow="fold").join(map(styled, lines))
