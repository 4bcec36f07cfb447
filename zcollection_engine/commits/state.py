"""What a collection is after a number of records: partitions, ledger, grants."""

from __future__ import annotations

from collections.abc import Collection as Members
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from zcollection_engine.commits.ledger import Ledger
from zcollection_engine.commits.records import (
    EVERYTHING,
    Commit,
    Creation,
    Grant,
    PartitionChange,
    Record,
    Release,
    Renewal,
)
from zcollection_engine.errors import FormatError

#: Generations whose flips are remembered: a key space is used again after three.
_FLIPS = 4


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition as of a commit.

    Attributes
    ----------
    path
        Its place below the collection.
    commit
        Number of the last commit that changed its arrays or their metadata; -1 if there never was one.
    rows, generation, axis
        See `PartitionChange`. A dropped partition has no rows and counts its generations on.
    flips
        By generation: a time, by the store's clock, at which it was known to be visible.
    dropped
        Number of the commit that last dropped it; -1 if none did.
    imported
        Number of the commit that took it over as someone else wrote it; -1 if it was written by the engine.
    """

    path: str
    commit: int
    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    flips: Mapping[int, datetime] = field(default_factory=dict)
    dropped: int = -1
    imported: int = -1

    @property
    def is_imported(self) -> bool:
        """Whether its chunks are someone else's."""
        return self.imported >= 0

    @property
    def is_untouched(self) -> bool:
        """Whether its documents are someone else's, too."""
        return self.is_imported and self.commit == self.imported

    def after(self, commit: int, change: PartitionChange) -> PartitionState:
        """The state after a further commit."""
        flips = {g: t for g, t in self.flips.items() if g > change.generation - _FLIPS}
        if change.flipped is not None:
            flips.setdefault(self.generation, change.flipped)
        kept = self.imported if change.generation == self.generation else -1
        return PartitionState(
            self.path,
            commit,
            change.rows,
            change.generation,
            change.axis,
            flips,
            self.dropped,
            commit if change.imported else kept,
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
    """The fold of all records up to ``number``.

    Attributes
    ----------
    creation
        Record 0.
    config, configured
        Name of the configuration in force, and the number of the record that brought it.
    checkpoint
        Number of the checkpoint that the fold started from; -1 if it started from the first record.
    held
        By path (or `EVERYTHING`): who may write it.
    lost
        Ids of granules that are in but lack rows: those should have come back, and their source was gone.
    published
        Partitions whose last commit is not behind this number are known to be published.
    """

    number: int = -1
    creation: Creation | None = None
    config: str = ""
    configured: int = 0
    checkpoint: int = -1
    partitions: dict[str, PartitionState] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    held: dict[str, HeldGrant] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
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
                self.creation, self.config = record, record.transaction
            case Grant():
                self._grant(HeldGrant(number, record, number))
            case Renewal():
                self._renew(number, record.token)
            case Release():
                self._release(record.token)
            case Commit():
                self._release(record.token)
                self._commit(number, record)

    def partition(self, path: str) -> PartitionState:
        """A partition's state; one that never existed has no rows and no generation yet."""
        return self.partitions.get(path) or PartitionState(path, -1, 0, 0, None)

    def unpublished(self) -> list[PartitionState]:
        """Partitions whose last commit is not known to be published."""
        return [p for p in self.partitions.values() if p.commit > self.published]

    def holders(self, paths: Members[str]) -> list[HeldGrant]:
        """Grants that stand in the way of one for ``paths``, each once."""
        all_of_it = EVERYTHING in paths
        found = {h.token: h for path, h in self.held.items() if all_of_it or path == EVERYTHING or path in paths}
        return list(found.values())

    def holds(self, token: int, paths: Iterable[str]) -> bool:
        """Tell whether a grant is still good for all of ``paths``."""
        holders = (self.held.get(path) for path in paths)
        return all(held is not None and held.token == token for held in holders)

    def _grant(self, new: HeldGrant) -> None:
        if EVERYTHING in new.grant.partitions:
            self.held.clear()
        else:
            self.held.pop(EVERYTHING, None)
        self.held.update(dict.fromkeys(new.grant.partitions, new))

    def _renew(self, number: int, token: int) -> None:
        for path, held in self.held.items():
            if held.token == token:
                self.held[path] = replace(held, alive=number)

    def _release(self, token: int) -> None:
        self.held = {path: held for path, held in self.held.items() if held.token != token}

    def _commit(self, number: int, commit: Commit) -> None:
        self.ledger.apply(number, commit)
        self.lost.difference_update(e.id for e in (*commit.removed, *commit.granules))
        self.lost.update(commit.lost)
        if commit.config is not None:
            self.config, self.configured = commit.config, number
            self.partitions = {path: replace(p, commit=number) for path, p in self.partitions.items()}
        for path, change in commit.partitions.items():
            self.partitions[path] = self.partition(path).after(number, change)
        for path in commit.dropped:
            self.partitions[path] = replace(self.partitions[path], dropped=number)
        self.last_commit, self.last_time = number, commit.time
        self.published = max(self.published, commit.published)
