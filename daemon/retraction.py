"""Taking granules out of a collection, as a report for people and machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from rich.console import Console

from daemon.redaction import redact_text
from daemon.rendering import NAMES_SHOWN, ROWS_SHOWN, granule_json, make_table, print_granules, print_table, styled
from zcollection_engine.collection import Collection
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.opening import open_collection
from zcollection_engine.sources import Condition, SourceExecutor, condition_of
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.transaction import WriterOptions

FORMAT_VERSION = 1

#: What the report calls a source of which nobody told how it is read.
UNKNOWN = "unknown"

_SOURCES = {
    Condition.THERE: "there",
    Condition.CHANGED: "written again since",
    Condition.GONE: "gone",
    UNKNOWN: "not known how to read it: --config tells",
}


@dataclass(frozen=True, slots=True)
class RetractionReport:
    """What taking granules out changed, or would change.

    Attributes
    ----------
    url
        Root of the collection, without credentials.
    leaving
        The granules.
    partitions
        Paths of the partitions that have rows of theirs or get rows back.
    returning
        Granules that get rows back, which must be read again, and whether their sources are there: a `Condition` or
        `UNKNOWN`.
    lost
        Those of them whose rows do not come back.
    commit
        Number of the commit that did it; None if nothing was done.
    """

    url: str
    leaving: tuple[GranuleEntry, ...]
    partitions: tuple[str, ...]
    returning: tuple[tuple[GranuleEntry, str], ...]
    lost: tuple[GranuleEntry, ...]
    commit: int | None

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "granules_out": [granule_json(entry) for entry in self.leaving],
            "partitions": list(self.partitions),
            "read_again": [{**granule_json(entry), "source": str(source)} for entry, source in self.returning],
            "lost": [granule_json(entry) for entry in self.lost],
            "commit": self.commit,
        }


def preview(url: str, storage: StorageOptions, names: Sequence[str], spec: GranuleSpec | None) -> RetractionReport:
    """Tell what taking granules out would change; writes nothing, and reads no granule.

    Parameters
    ----------
    url, storage
        The collection, and how to reach it and the sources of its granules.
    names
        Keys of granules, or their ids.
    spec
        How its granules are read; None if nobody told.

    Raises
    ------
    NotFoundError
        If there is no collection, or one of the granules is not in.
    InvalidInputError
        If the collection cannot tell their rows from others.
    FormatError, StorageError
        If the log, or a store, cannot be read.
    """
    view = open_collection(url, storage=storage)
    plan = view.plan_retraction(_identified(view, names))
    returning = tuple((e, condition_of(e, storage) if spec is not None else UNKNOWN) for e in plan.restored)
    lost = tuple(entry for entry, source in returning if source != Condition.THERE)
    return RetractionReport(redact_text(view.url), plan.replaced, plan.paths, returning, lost, None)


def retract(
    url: str,
    storage: StorageOptions,
    names: Sequence[str],
    spec: GranuleSpec | None,
    writer: WriterOptions,
    *,
    accept_losses: bool,
    timeout: timedelta,
) -> RetractionReport:
    """Take granules out, as one commit; rows that they had taken come back from their sources.

    Raises
    ------
    NotFoundError, FormatError, StorageError
        As `preview`.
    InvalidInputError
        As `preview`; also if rows would be lost and that is not accepted: then nothing is changed.
    BusyError
        If other writers, or readers, needed longer than ``timeout``.
    """
    planned = preview(url, storage, names, spec)
    if planned.lost and not accept_losses:
        raise InvalidInputError(f"{planned.url}: {_refusal(planned)}; --accept-losses does it all the same")
    collection = open_collection(url, mode="w", storage=storage, writer=writer)
    executor = SourceExecutor(collection, spec, storage, accept_losses=accept_losses)
    chosen = [entry.id for entry in planned.leaving]
    outcome = collection.retract(chosen, executor=executor, timeout=timeout.total_seconds())
    return RetractionReport(
        planned.url, planned.leaving, planned.partitions, planned.returning, outcome.lost, outcome.commit
    )


def _identified(view: Collection, names: Iterable[str]) -> list[int | str]:
    """Take a number for an id if a granule has it, else for a key."""
    ledger = view.state.ledger
    return [int(n) if n.isascii() and n.isdecimal() and int(n) in ledger else n for n in names]


def _refusal(report: RetractionReport) -> str:
    sources = {entry.id: source for entry, source in report.returning}
    shown = [f"{e.identity.key} ({_SOURCES[sources[e.id]]})" for e in report.lost[:NAMES_SHOWN]]
    more = len(report.lost) - len(shown)
    rest = f" and {more:,} more" if more else ""
    return f"rows that would have to be read again would be lost, of {', '.join(shown)}{rest}"


def render(report: RetractionReport, console: Console) -> None:
    """Print what taking granules out changed, or would change, for people."""
    console.print(styled(report.url, "bold"), soft_wrap=True)
    print_granules("Granules out", report.leaving, console)
    table = make_table("Partitions", "Path")
    for path in islice(report.partitions, ROWS_SHOWN):
        table.add_row(styled(path))
    print_table(table, len(report.partitions), console)
    _print_returning(report, console)
    console.print()
    if report.commit is not None:
        console.print(f"Retracted: commit {report.commit}.")
        if report.lost:
            console.print(styled(f"Lost: rows of {', '.join(e.identity.key for e in report.lost[:ROWS_SHOWN])}"))
    elif report.lost:
        console.print(styled(f"Nothing was changed: {_refusal(report)}; --yes --accept-losses does it all the same."))
    else:
        console.print("Nothing was changed: --yes does it.")


def _print_returning(report: RetractionReport, console: Console) -> None:
    table = make_table("Rows come back, from granules that are read again", "Key", "Source")
    for entry, source in islice(report.returning, ROWS_SHOWN):
        table.add_row(styled(entry.identity.key), _SOURCES[source])
    print_table(table, len(report.returning), console)
