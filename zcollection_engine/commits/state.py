"""What a collection is after a number of records: partitions, ledger, grants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from zcollection_engine.commits.records import Commit, Creation, Grant, PartitionChange, Record, Release, Renewal
from zcollection_engine.errors import FormatError
from zcollection_engine.identity import GranuleEntry


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition as of a commit.

    Attributes
    ----------
    path
        Its place below the collection.
    commit
        Number of the last commit that changed its arrays.
    rows, generation, axis
        See `PartitionChange`.
    flips
        By generation: a time, by the store's clock, at which it was known to be visible.
    """

    path: str
    commit: int
    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    flips: Mapping[int, datetime] = field(default_factory=dict)

    def after(self, commit: int, change: PartitionChange) -> PartitionState:
        """The state after a further commit."""
        flips = {g: t for g, t in self.flips.items() if g > change.generation - 4}
        if change.flipped is not None:
            flips.setdefault(self.generation, change.flipped)
        return replace(
            self, commit=commit, rows=change.rows, generation=change.generation, axis=change.axis, flips=flips
        )


@dataclass(frozen=True, slots=True)
class HeldGrant:
    """A grant that was neither committed, released nor fenced.

    Attributes
    ----------
    token
        Number of its record.
    alive
        Number of its last sign of life.
    """

    token: int
    grant: Grant
    alive: int


@dataclass
class CollectionState:
    """The fold of all records up to ``number``."""

    number: int = -1
    creation: Creation | None = None
    partitions: dict[str, PartitionState] = field(default_factory=dict)
    ledger: dict[int, GranuleEntry] = field(default_factory=dict)
    latest: dict[tuple[str, str], int] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    members: dict[str, set[int]] = field(default_factory=dict)
    held: dict[str, HeldGrant] = field(default_factory=dict)
    last_commit: int = -1
    last_time: datetime | None = None
    published: int = -1

    def apply_all(self, records: Iterable[tuple[int, Record]]) -> None:
        """Fold further records."""
        for number, record in records:
            self.apply(number, record)

    def apply(self, number: int, record: Record) -> None:
        """Fold the next record; raises `FormatError` when it is not the next one."""
        if number != self.number + 1:
            raise FormatError(f"record {number} of the commit log follows record {self.number}")
        self.number = number
        match record:
            case Creation():
                self.creation = record
            case Grant():
                held = HeldGrant(number, record, number)
                self.held.update(dict.fromkeys(record.partitions, held))
            case Renewal():
                self._renew(number, record.token)
            case Release():
                self._release(record.token)
            case Commit():
                self._release(record.token)
                self._commit(number, record)

    def owners(self, path: str) -> list[GranuleEntry]:
        """Granules with a share in a partition, in ascending rank."""
        entries = (self.ledger[i] for i in self.members.get(path, ()))
        return sorted(entries, key=lambda entry: entry.rank)

    def partition(self, path: str) -> PartitionState:
        """A partition's state; one that never existed has no rows and no generation yet."""
        return self.partitions.get(path) or PartitionState(path, -1, 0, 0, None)

    def unpublished(self) -> list[PartitionState]:
        """Partitions whose last commit is not known to be published."""
        return [p for p in self.partitions.values() if p.commit > self.published]

    def _renew(self, number: int, token: int) -> None:
        for path, held in self.held.items():
            if held.token == token:
                self.held[path] = replace(held, alive=number)

    def _release(self, token: int) -> None:
        self.held = {path: held for path, held in self.held.items() if held.token != token}

    def _commit(self, number: int, commit: Commit) -> None:
        for identity in commit.removed:
            self._remove(identity)
        for entry in commit.granules:
            self.ledger[entry.id] = entry
            self.latest[entry.identity.bucket, entry.identity.key] = entry.id
            for path in entry.shares:
                self.members.setdefault(path, set()).add(entry.id)
        for path, change in commit.partitions.items():
            self.partitions[path] = self.partition(path).after(number, change)
        self.last_commit, self.last_time = number, commit.time
        self.published = max(self.published, commit.published)

    def _remove(self, identity: int) -> None:
        entry = self.ledger.pop(identity)
        self.removed.add(identity)
        for path in entry.shares:
            self.members[path].discard(identity)
