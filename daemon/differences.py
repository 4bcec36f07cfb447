"""What is different between two commits of a collection, and going back to one, as reports for people and machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from rich.console import Console

from daemon.redaction import redact_text
from daemon.rendering import (
    NAMES_SHOWN,
    ROWS_SHOWN,
    granule_json,
    iso,
    make_table,
    print_granules,
    print_table,
    short,
    styled,
)
from zcollection_engine.amendments import can_go_back
from zcollection_engine.collection import Collection
from zcollection_engine.commits.opening import Moment
from zcollection_engine.commits.state import PartitionState
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jsonvalues import json_value
from zcollection_engine.opening import open_collection
from zcollection_engine.schema import Schema
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.transaction import WriterOptions

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the log.

    Attributes
    ----------
    record
        Number of the record.
    commit, time
        The last commit up to it; None if there was none yet.
    """

    record: int
    commit: int | None
    time: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {"record": self.record, "commit": self.commit, "time": iso(self.time)}

    def __str__(self) -> str:
        return "before the first commit" if self.commit is None else f"commit {self.commit}, {short(self.time)}"


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """An attribute of a variable, or of the collection (``variable`` is empty); None where it is not there."""

    variable: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What is different at ``after`` from what was at ``before``.

    Attributes
    ----------
    url
        Root of the collection, without credentials.
    before, after
        The places compared.
    partitions
        By path: before and after; None where there are no rows.
    came, went
        Granules that are in at ``after`` only, and at ``before`` only.
    attributes
        Those that differ.
    """

    url: str
    before: Point
    after: Point
    partitions: Mapping[str, tuple[PartitionState | None, PartitionState | None]]
    came: tuple[GranuleEntry, ...]
    went: tuple[GranuleEntry, ...]
    attributes: tuple[AttributeChange, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.partitions or self.came or self.went or self.attributes)

    def reversed(self) -> DiffReport:
        """The same the other way round."""
        return DiffReport(
            self.url,
            self.after,
            self.before,
            {path: (after, before) for path, (before, after) in self.partitions.items()},
            self.went,
            self.came,
            tuple(replace(change, before=change.after, after=change.before) for change in self.attributes),
        )

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "partitions": [
                {"path": path, "before": _partition_json(before), "after": _partition_json(after)}
                for path, (before, after) in self.partitions.items()
            ],
            "granules_in": [granule_json(entry) for entry in self.came],
            "granules_out": [granule_json(entry) for entry in self.went],
            "attributes": [
                {
                    "variable": change.variable or None,
                    "name": change.name,
                    "before": json_value(change.before),
                    "after": json_value(change.after),
                }
                for change in self.attributes
            ],
        }


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """What a rollback changed, or would change.

    Attributes
    ----------
    changes
        From the last commit to the one gone back to.
    gone
        Partitions that stand in the way: they were rewritten so often since that their old rows are gone.
    commit
        Number of the commit that did it; None if nothing was done.
    """

    changes: DiffReport
    gone: tuple[str, ...]
    commit: int | None

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {**self.changes.to_json(), "gone": list(self.gone), "commit": self.commit}


def diff(url: str, storage: StorageOptions, older: Moment, newer: Moment) -> DiffReport:
    """Compare two commits, the one that is older in truth first.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If its log cannot be read.
    StorageError
        If its store cannot be read.
    InvalidInputError
        If one of them was never there.
    SnapshotExpiredError
        If the log no longer reaches back so far.
    """
    views = [open_collection(url, at=at, storage=storage) for at in (older, newer)]
    before, after = sorted(views, key=lambda view: view.state.number)
    return _compared(before, after)


def preview(url: str, storage: StorageOptions, to: Moment) -> RollbackReport:
    """Tell what a rollback would change; raises what `diff` raises."""
    then, now = open_collection(url, at=to, storage=storage), open_collection(url, storage=storage)
    changes = _compared(then, now).reversed()
    wanted = [old for _, old in changes.partitions.values() if old is not None]
    gone = [old.path for old in wanted if not can_go_back(now.schema, now.state.partition(old.path), old)]
    return RollbackReport(changes, tuple(gone), None)


def rollback(
    url: str, storage: StorageOptions, to: Moment, writer: WriterOptions, *, timeout: timedelta
) -> RollbackReport:
    """Give a collection the content it had, as a new commit.

    Raises
    ------
    NotFoundError, FormatError, StorageError, SnapshotExpiredError
        As `diff`; the last one also if the data of a partition are gone.
    InvalidInputError
        If the commit was never there, or has the content of the last one already.
    BusyError
        If other writers, or readers, needed longer than ``timeout``.
    """
    collection = open_collection(url, mode="w", storage=storage, writer=writer)
    then, now = open_collection(url, at=to, storage=storage), open_collection(url, storage=storage)
    changes = _compared(then, now).reversed()
    number = collection.rollback(then.state.number, timeout=timeout.total_seconds())
    return RollbackReport(changes, (), number)


def _compared(before: Collection, after: Collection) -> DiffReport:
    found = after.diff(before.state.number, after.state.number)
    return DiffReport(
        redact_text(after.url),
        _point(before),
        _point(after),
        found.partitions,
        found.granules,
        found.removed,
        tuple(_attribute_changes(before.schema, after.schema)),
    )


def _point(view: Collection) -> Point:
    state = view.state
    return Point(state.number, state.last_commit if state.last_time is not None else None, state.last_time)


def _attribute_changes(before: Schema, after: Schema) -> Iterator[AttributeChange]:
    old, new = _attributes(before), _attributes(after)
    for variable, name in sorted(old.keys() | new.keys()):
        change = AttributeChange(variable, name, old.get((variable, name)), new.get((variable, name)))
        if json_value(change.before) != json_value(change.after):
            yield change


def _attributes(schema: Schema) -> dict[tuple[str, str], Any]:
    owners = {"": schema.attributes, **{variable.path: variable.attributes for variable in schema.variables}}
    return {(owner, name): value for owner, attributes in owners.items() for name, value in attributes.items()}


def _partition_json(partition: PartitionState | None) -> dict[str, Any] | None:
    if partition is None:
        return None
    return {"rows": partition.rows, "generation": partition.generation, "commit": partition.commit}


def render_diff(report: DiffReport, console: Console) -> None:
    """Print what is different for people."""
    console.print(styled(report.url, "bold"), soft_wrap=True)
    console.print(f"  {'from':<13}{report.before}")
    console.print(f"  {'to':<13}{report.after}")
    _print_partitions(report, console)
    print_granules("Granules in", report.came, console)
    print_granules("Granules out", report.went, console)
    _print_attributes(report.attributes, console)
    if report.is_empty:
        console.print("\nNo difference.")


def render_rollback(report: RollbackReport, console: Console) -> None:
    """Print what a rollback changed, or would change, for people."""
    render_diff(report.changes, console)
    console.print()
    if report.commit is not None:
        console.print(f"Rolled back: commit {report.commit}.")
    elif report.changes.is_empty:
        console.print("Nothing to roll back.")
    elif report.gone:
        names = f"{', '.join(report.gone[:NAMES_SHOWN])}{', ...' if len(report.gone) > NAMES_SHOWN else ''}"
        console.print(styled(f"Not possible: rewritten so often since that the old rows are gone: {names}"))
    else:
        console.print("Nothing was changed: --yes does it.")


def _print_partitions(report: DiffReport, console: Console) -> None:
    numbers = ("Rows before", "Rows after")
    table = make_table("Partitions", "Path", *numbers, "Change", right=numbers)
    for path, (before, after) in islice(report.partitions.items(), ROWS_SHOWN):
        rows = (f"{p.rows:,}" if p is not None else "-" for p in (before, after))
        table.add_row(styled(path), *rows, _change(before, after))
    print_table(table, len(report.partitions), console)


def _change(before: PartitionState | None, after: PartitionState | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "emptied"
    return "appended" if before.generation == after.generation and before.rows < after.rows else "rewritten"


def _print_attributes(changes: Sequence[AttributeChange], console: Console) -> None:
    table = make_table("Attributes", "Of", "Name", "Before", "After")
    for change in islice(changes, ROWS_SHOWN):
        values = (styled("-" if value is None else str(value)) for value in (change.before, change.after))
        table.add_row(styled(change.variable or "the collection"), styled(change.name), *values)
    print_table(table, len(changes), console)
