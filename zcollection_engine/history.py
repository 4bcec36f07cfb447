"""What happened to a collection, as far as the log reaches back: its commits, and the difference between two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.opening import Moment, load_state_at
from zcollection_engine.commits.records import Commit, Grant, Record
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.errors import SnapshotExpiredError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.stores.base import ObjectStore


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit as history tells it.

    Attributes
    ----------
    number, time
        Of its record; the time is the writer's, later than that of the commit before.
    operation
        What it did, see `Commit`.
    owner
        Name of the writer; None if the log no longer has its grant.
    rows
        By path: number of rows from then on, of each partition that changed.
    granules, removed
        Keys of the granules that came in, and of those that were taken out.
    lost
        Ids of granules whose rows should have come back but whose source was gone.
    """

    number: int
    time: datetime
    operation: str
    owner: str | None
    rows: Mapping[str, int]
    granules: tuple[str, ...]
    removed: tuple[str, ...]
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What is different between two commits.

    Attributes
    ----------
    older, newer
        Numbers of the records compared.
    partitions
        By path: before and after; None where there were no rows.
    granules
        Those that are in at the newer one only.
    removed
        Those that were in at the older one only.
    """

    older: int
    newer: int
    partitions: Mapping[str, tuple[PartitionState | None, PartitionState | None]]
    granules: tuple[GranuleEntry, ...]
    removed: tuple[GranuleEntry, ...]


@dataclass
class NetChange:
    """What a run of records comes to; each entry as its record tells it.

    Attributes
    ----------
    granules, removed
        Came in, and left.
    passing
        Everything that came in, also if it left again.
    """

    granules: dict[int, GranuleEntry] = field(default_factory=dict)
    removed: dict[int, GranuleEntry] = field(default_factory=dict)
    passing: dict[int, GranuleEntry] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> NetChange:
        """Sum up records."""
        net = cls()
        for record in records:
            if isinstance(record, Commit):
                net._add(record)
        return net

    def _add(self, commit: Commit) -> None:
        for entry in commit.removed:
            if self.granules.pop(entry.id, None) is None:
                self.removed[entry.id] = entry
        for entry in commit.granules:
            self.passing[entry.id] = entry
            if self.removed.pop(entry.id, None) is None:
                self.granules[entry.id] = entry


def history(store: ObjectStore) -> Iterator[CommitInfo]:
    """Yield the commits that the log still has, oldest first.

    Raises
    ------
    SnapshotExpiredError
        At its end, if the log lost some of them while it was read.
    """
    log = CommitLog(store)
    oldest = 0 if log.is_intact(0) else min(Checkpoints(store).numbers(), default=0)
    owners: dict[int, str] = {}
    for number, record in log.follow(oldest - 1):
        if isinstance(record, Grant):
            owners[number] = record.owner
        elif isinstance(record, Commit):
            yield _info(number, record, owners.get(record.token))
    if not log.is_intact(oldest):
        raise SnapshotExpiredError(f"{store.url}: the log was trimmed while it was read; read it again")


def diff(store: ObjectStore, older: Moment, newer: Moment) -> Difference:
    """Compare two commits.

    Parameters
    ----------
    older, newer
        Numbers of records or times, as for `zcollection_engine.commits.opening.load_state_at`.

    Raises
    ------
    InvalidInputError
        If one of them does not exist.
    SnapshotExpiredError
        If the log does not reach back so far.
    """
    before, after = load_state_at(store, older), load_state_at(store, newer)
    if before.number > after.number:
        before, after = after, before
    net = NetChange.of(records_between(store, before.number, after.number))
    return Difference(
        before.number, after.number, _changed(before, after), tuple(net.granules.values()), tuple(net.removed.values())
    )


def records_between(store: ObjectStore, older: int, newer: int) -> list[Record]:
    """Records behind ``older`` up to ``newer``; raises `SnapshotExpiredError` if some are gone."""
    found = []
    for number, record in CommitLog(store).follow(older):
        if number > newer:
            break
        found.append(record)
    if len(found) != newer - older:
        raise SnapshotExpiredError(f"{store.url}: the log was trimmed beyond record {older} while it was read")
    return found


def _changed(
    before: CollectionState, after: CollectionState
) -> dict[str, tuple[PartitionState | None, PartitionState | None]]:
    pairs = {path: (_with_rows(before, path), _with_rows(after, path)) for path in sorted(after.partitions)}
    return {path: (old, new) for path, (old, new) in pairs.items() if not same_rows(old, new)}


def _with_rows(state: CollectionState, path: str) -> PartitionState | None:
    found = state.partitions.get(path)
    return found if found is not None and found.rows else None


def same_rows(a: PartitionState | None, b: PartitionState | None) -> bool:
    """Tell whether two states of one partition show the same rows."""
    if a is None or b is None:
        return a is b
    return (a.generation, a.rows) == (b.generation, b.rows)


def _info(number: int, commit: Commit, owner: str | None) -> CommitInfo:
    return CommitInfo(
        number,
        commit.time,
        commit.operation,
        owner,
        {path: change.rows for path, change in commit.partitions.items()},
        tuple(entry.identity.key for entry in commit.granules),
        tuple(entry.identity.key for entry in commit.removed),
        commit.lost,
    )
