"""The conversion of a collection, with its progress, as a report for people and machines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.redaction import redact_text
from daemon.rendering import ROWS_SHOWN, make_table, print_table, printable, styled
from zcollection_engine.converting import ConvertOptions, ConvertReport, convert
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.transaction import WriterOptions

FORMAT_VERSION = 1

__all__ = ["Conversion", "ConvertOptions", "render", "run"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted."""

    found: ConvertReport

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        found = self.found
        return {
            "format_version": FORMAT_VERSION,
            "source": redact_text(found.source),
            "target": redact_text(found.target),
            "zarr_format": found.zarr_format,
            "partitions": found.partitions,
            "rows": found.rows,
            "granules": found.granules,
            "written": found.written,
            "renamed": dict(found.renamed),
            "verified": found.verified,
            "lost": list(found.lost),
        }


def run(
    source: str, target: str, options: ConvertOptions, storage: StorageOptions, writer: WriterOptions
) -> Conversion:
    """Convert a collection, with a bar on standard error; raises what `zcollection_engine.converting.convert` does."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(path: str, number: int, total: int) -> None:
            bar.update(task, description=printable(path), completed=number - 1, total=total)

        _, report = convert(source, target, options, storage=storage, writer=writer, progress=progress)
    return Conversion(report)


def render(report: Conversion, console: Console) -> None:
    """Print what was converted for people."""
    found = report.found
    console.print(styled(redact_text(found.target), "bold"), soft_wrap=True)
    for name, value in (
        ("made of", redact_text(found.source)),
        ("format", f"Zarr {found.zarr_format}"),
        ("partitions", f"{found.partitions:,}, of which {found.written:,} were written now"),
        ("rows", f"{found.rows:,}"),
        ("granules", f"{found.granules:,}"),
        ("values", "compared, all are the same" if found.verified else "not compared"),
        ("not in it", "; ".join(found.lost) or "nothing is left out"),
    ):
        console.print(f"  {name:<13}{printable(value)}", soft_wrap=True)
    table = make_table("Variables with new names", "Old", "New")
    for old, new in islice(found.renamed.items(), ROWS_SHOWN):
        table.add_row(styled(old), styled(new))
    print_table(table, len(found.renamed), console)
