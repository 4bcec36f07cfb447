"""The import of a tree of released zcollection, as a report for people and machines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console

from daemon.redaction import redact_text
from daemon.rendering import ROWS_SHOWN, make_table, print_table, printable, styled
from zcollection_engine.importing import ImportReport, import_collection, survey_import
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.resolve import open_store
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.treefindings import Severity

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Import:
    """What was taken over, or would be.

    Attributes
    ----------
    dry_run
        Whether nothing was to be written.
    found
        What the engine says.
    """

    dry_run: bool
    found: ImportReport

    @property
    def ok(self) -> bool:
        """Whether nothing stands against it."""
        return not self.found.obstacles

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        found = self.found
        return {
            "format_version": FORMAT_VERSION,
            "url": redact_text(found.url),
            "dry_run": self.dry_run,
            "ok": self.ok,
            "commit": found.commit,
            "partitions": found.partitions,
            "rows": found.rows,
            "chunks": found.chunks,
            "written": list(found.written),
            "obstacles": [redact_text(obstacle) for obstacle in found.obstacles],
            "findings": [
                {
                    "code": finding.code.value,
                    "severity": finding.code.severity.value,
                    "partition": finding.partition,
                    "variable": finding.variable,
                    "message": redact_text(finding.message),
                }
                for finding in found.findings
            ],
        }


def take_over(url: str, storage: StorageOptions, writer: WriterOptions, *, dry_run: bool) -> Import:
    """Take over a tree, unless something stands against it: then nothing is written.

    Raises
    ------
    NotFoundError
        If there is no ``.zcollection``.
    FormatError
        If it is damaged or has what the engine has no counterpart for.
    ConflictError
        If there is a collection of ours already.
    StorageError
        If the store cannot be read or written.
    """
    surveyed = survey_import(open_store(url, storage))
    if dry_run or surveyed.obstacles:
        return Import(dry_run, surveyed)
    _, report = import_collection(url, storage=storage, writer=writer)
    return Import(dry_run, report)


def render(report: Import, console: Console) -> None:
    """Print what was taken over for people."""
    found = report.found
    console.print(styled(redact_text(found.url), "bold"), soft_wrap=True)
    for name, value in (
        ("partitions", f"{found.partitions:,}"),
        ("rows", f"{found.rows:,}"),
        ("chunks", f"{found.chunks:,}, left as they are"),
        ("added", f"{', '.join(found.written)} and the commit log"),
    ):
        console.print(f"  {name:<13}{printable(value)}")
    notes = [f for f in found.findings if f.code.severity is Severity.NOTE]
    table = make_table("Worth knowing", "Code", "Partition", "Variable", "What")
    for note in islice(notes, ROWS_SHOWN):
        table.add_row(note.code.value, styled(note.partition), styled(note.variable), styled(redact_text(note.message)))
    print_table(table, len(notes), console)
    against = make_table("Stands against it", "What")
    for obstacle in islice(found.obstacles, ROWS_SHOWN):
        against.add_row(styled(redact_text(obstacle)))
    print_table(against, len(found.obstacles), console)
    console.print()
    console.print(_verdict(report))


def _verdict(report: Import) -> str:
    if not report.ok:
        return f"{len(report.found.obstacles):,} obstacles: nothing was written."
    if report.found.commit is None:
        return "It can be taken over: without --dry-run it is."
    return f"Taken over with commit {report.found.commit}."
