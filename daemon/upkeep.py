"""Verification, repair and garbage collection of a collection, as reports for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.redaction import redact_text
from daemon.rendering import ROWS_SHOWN, make_table, print_table, printable, seconds, short, styled
from zcollection_engine.garbage import GarbageReport
from zcollection_engine.opening import open_collection
from zcollection_engine.repairing import repair as repair_collection
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.repairs import RepairReport
from zcollection_engine.verification.report import Chunks, Finding, Severity, VerifyReport
from zcollection_engine.verification.verifying import verify as verify_collection

FORMAT_VERSION = 1


#: What people read for the kinds of garbage.
_KINDS = {
    "chunk": "chunks that no commit reaches",
    "checkpoint": "old checkpoints of the log",
    "record": "old records of the log",
    "table": "unused tables of the ledger",
    "config": "unused configurations",
    "staged": "left by failed creations",
    "probe": "left by probes of the store",
    "part": "hidden files of killed writers",
}


@dataclass(frozen=True, slots=True)
class Ages:
    """How old something must be to be garbage; see `zcollection_engine.garbage.GarbageRules`."""

    min_age: timedelta
    retention: timedelta


@dataclass(frozen=True, slots=True)
class GarbageCollection:
    """What a garbage collection removed, or would remove.

    Attributes
    ----------
    url
        Root of the collection, without credentials.
    ages
        Those that counted.
    found
        What the engine says.
    """

    url: str
    ages: Ages
    found: GarbageReport

    def to_json(self) -> dict[str, Any]:
        """The report for machines; durations in seconds."""
        found = self.found
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "dry_run": found.dry_run,
            "min_age": self.ages.min_age.total_seconds(),
            "retention": self.ages.retention.total_seconds(),
            "objects": {kind: found.objects[kind] for kind in _KINDS},
            "bytes": {kind: found.size[kind] for kind in _KINDS},
            "busy": {path: redact_text(reason) for path, reason in found.busy.items()},
            "foreign": found.foreign,
        }


def verify(url: str, storage: StorageOptions, *, chunks: Chunks) -> VerifyReport:
    """Compare log, documents and chunks of a collection.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If its log cannot be read.
    StorageError
        If its store cannot be read.
    """
    report = verify_collection(open_collection(url, storage=storage), chunks=chunks)
    return replace(report, url=redact_text(report.url))


def repair(url: str, storage: StorageOptions, writer: WriterOptions, *, chunks: Chunks) -> RepairReport:
    """Verify a collection and put right what the log tells; raises the same errors."""
    # Opening for writing publishes what was left unpublished, so the report is made first.
    report = verify_collection(open_collection(url, storage=storage), chunks=chunks)
    repaired = repair_collection(open_collection(url, mode="w", storage=storage, writer=writer), report)
    return replace(repaired, url=redact_text(repaired.url))


def collect_garbage(
    url: str, storage: StorageOptions, writer: WriterOptions, ages: Ages, *, dry_run: bool
) -> GarbageCollection:
    """Remove what nothing can reach any more, or only tell it: then nothing is written.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If its log cannot be read.
    StorageError
        If its store cannot be read or written.
    """
    kept = replace(ages, retention=max(ages.retention, writer.reader_grace))
    collection = open_collection(url, mode="r" if dry_run else "w", storage=storage, writer=writer)
    report = collection.collect_garbage(dry_run=dry_run, min_age=kept.min_age, retention=kept.retention)
    return GarbageCollection(redact_text(collection.url), kept, report)


def render_verification(report: VerifyReport, console: Console) -> None:
    """Print what a verification found for people."""
    counts = report.counts
    console.print(styled(report.url, "bold"), soft_wrap=True)
    for name, value in (
        ("last commit", "none yet" if report.commit < 0 else str(report.commit)),
        ("documents", f"{counts.documents:,} checked in {counts.partitions:,} partitions"),
        ("chunks", _chunks(report)),
        ("garbage", f"{counts.garbage:,} chunks, {counts.garbage_bytes:,} bytes"),
        ("foreign", f"{counts.foreign:,} objects{_examples(report.foreign)}"),
        ("took", seconds((report.ended - report.started).total_seconds())),
    ):
        console.print(f"  {name:<13}{printable(value)}")
    _print_findings("Findings", report.findings, console)
    console.print()
    console.print(_verdict(report.findings))


def render_repair(report: RepairReport, console: Console) -> None:
    """Print what a repair did for people."""
    console.print(styled(report.url, "bold"), soft_wrap=True)
    print_table(_actions(report), len(report.actions), console)
    print_table(_lost(report), len(report.lost), console)
    print_table(_grants(report), len(report.grants), console)
    _print_findings("Left", report.left, console)
    if report.swept:
        console.print(f"\n{report.swept:,} hidden files of killed writers removed.")
    console.print()
    if not report.ok:
        console.print(f"{len(report.actions):,} repaired; some damage is left: see above.")
    else:
        console.print(
            f"{len(report.actions):,} repaired; no fault is left." if report.actions else "Nothing to repair."
        )


def render_garbage(report: GarbageCollection, console: Console) -> None:
    """Print what a garbage collection did, or would do, for people."""
    found = report.found
    console.print(styled(report.url, "bold"), soft_wrap=True)
    for name, age in (("min. age", report.ages.min_age), ("retention", report.ages.retention)):
        console.print(f"  {name:<13}{seconds(age.total_seconds())}")
    console.print(f"  {'foreign':<13}{found.foreign:,} objects, never touched")
    kinds = [kind for kind in _KINDS if found.objects[kind]]
    table = make_table(
        "Garbage" if found.dry_run else "Removed", "What", "Objects", "Bytes", right=("Objects", "Bytes")
    )
    for kind in kinds:
        table.add_row(_KINDS[kind], f"{found.objects[kind]:,}", f"{found.size[kind]:,}")
    print_table(table, len(kinds), console)
    busy = make_table("Left alone, since another writer is at work", "Partition", "Who")
    for path, reason in islice(sorted(found.busy.items()), ROWS_SHOWN):
        busy.add_row(styled(path), styled(redact_text(reason)))
    print_table(busy, len(found.busy), console)
    console.print()
    total = f"{found.objects.total():,} objects, {found.size.total():,} bytes"
    if not kinds:
        console.print("No garbage.")
    else:
        console.print(f"{total}: --run removes them." if found.dry_run else f"{total} removed.")


def _chunks(report: VerifyReport) -> str:
    match report.chunks:
        case "none":
            return "not looked at"
        case "present":
            return f"{report.counts.chunks:,} looked for"
        case "decode":
            return f"{report.counts.chunks:,} decoded, {report.counts.rows:,} rows"


def _examples(keys: Sequence[str]) -> str:
    return f": {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}" if keys else ""


def _verdict(findings: Sequence[Finding]) -> str:
    faults = sum(f.severity is Severity.FAULT for f in findings)
    notes = len(findings) - faults
    if faults:
        return f"{faults:,} faults, {notes:,} notes."
    return f"No fault, {notes:,} notes." if notes else "All is as the commit log says."


def _print_findings(title: str, findings: Sequence[Finding], console: Console) -> None:
    faults_first = sorted(findings, key=lambda f: f.severity is Severity.NOTE)
    table = make_table(title, "Kind", "Code", "What to do")
    for finding in islice(faults_first, ROWS_SHOWN):
        table.add_row(finding.severity.value, finding.code.value, styled(redact_text(finding.message)))
    print_table(table, len(findings), console)


def _actions(report: RepairReport) -> Table:
    table = make_table("Repaired", "Code", "What was done")
    for action in islice(report.actions, ROWS_SHOWN):
        table.add_row(action.code.value, styled(redact_text(action.message)))
    return table


def _lost(report: RepairReport) -> Table:
    table = make_table("Lost: put these back from a backup, or read their granules again", "Chunk", "Granules")
    for chunk in islice(report.lost, ROWS_SHOWN):
        sources = [source.url or source.key for source in chunk.granules]
        table.add_row(styled(chunk.key), styled(redact_text(", ".join(sources) or "-")))
    return table


def _grants(report: RepairReport) -> Table:
    table = make_table(
        "Open grants, of writers at work or dead", "Grant", "Owner", "Since", "Partitions", right=("Grant",)
    )
    for grant in islice(report.grants, ROWS_SHOWN):
        table.add_row(str(grant.token), styled(grant.owner), short(grant.since), styled(", ".join(grant.partitions)))
    return table
