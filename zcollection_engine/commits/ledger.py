"""Which granules are in: those of the last records in memory, the older ones in the tables of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from zcollection_engine.commits.records import Commit
from zcollection_engine.identity import GranuleEntry

#: A granule with the number of the commit that brought it in.
Dated = tuple[int, GranuleEntry]


class LedgerBase(Protocol):
    """What a checkpoint knows of granules; looked up in the store when asked for."""

    is_expired: bool

    def __len__(self) -> int:
        """Number of granules that are in."""

    def __iter__(self) -> Iterator[GranuleEntry]:
        """Every granule that is in."""

    def get(self, identity: int) -> GranuleEntry | None:
        """The granule with this id, if it is in."""

    def latest(self, bucket: str, key: str) -> GranuleEntry | None:
        """The version of a key that is in."""

    def is_in(self, identity: int) -> bool:
        """Whether a granule with this id is in."""

    def was_removed(self, identity: int) -> bool:
        """Whether a granule with this id was in and is no longer."""

    def was_withdrawn(self, identity: int) -> bool:
        """Whether a granule with this id is no longer in since it was rolled back."""

    def members(self, path: str) -> Iterator[Dated]:
        """Granules with a share in a partition; shares in other partitions may be left out."""

    def count(self, path: str) -> int:
        """Number of granules with a share in a partition."""


class EmptyBase:
    """The base of a log without checkpoints."""

    is_expired = False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[GranuleEntry]:
        return iter(())

    def get(self, identity: int) -> GranuleEntry | None:
        return None

    def latest(self, bucket: str, key: str) -> GranuleEntry | None:
        return None

    def is_in(self, identity: int) -> bool:
        return False

    def was_removed(self, identity: int) -> bool:
        return False

    def was_withdrawn(self, identity: int) -> bool:
        return False

    def members(self, path: str) -> Iterator[Dated]:
        return iter(())

    def count(self, path: str) -> int:
        return 0


class Ledger:
    """The granules of a collection as of a record of its log.

    At most one version of an object is in at any time. A commit removes only what is in, and adds only what is not.

    Parameters
    ----------
    base
        What the last checkpoint knows.
    """

    def __init__(self, base: LedgerBase | None = None) -> None:
        self.base: LedgerBase = EmptyBase() if base is None else base  # one without granules is false
        self._added: dict[int, Dated] = {}
        self._removed: dict[int, GranuleEntry] = {}
        self._withdrawn: dict[int, GranuleEntry] = {}
        self._latest: dict[tuple[str, str], GranuleEntry | None] = {}
        self._members: dict[str, set[int]] = {}
        self._gone: dict[str, set[int]] = {}
        self._dropped: set[str] = set()
        self._size = len(self.base)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, identity: int) -> bool:
        return identity in self._added or (identity not in self._removed and self.base.is_in(identity))

    def __iter__(self) -> Iterator[GranuleEntry]:
        """Every granule that is in; those of the checkpoint are read from the store one partition after another."""
        added = list(self._added.values())
        hidden = self._hidden()
        yield from (entry for entry in self.base if entry.id not in hidden)
        yield from (entry for _, entry in added)

    @property
    def added(self) -> Mapping[int, Dated]:
        """By id: what came in since the checkpoint and is in."""
        return self._added

    @property
    def left(self) -> Mapping[int, GranuleEntry]:
        """By id: what was taken out since the checkpoint, also if it came in again; with all shares that it had."""
        return self._removed

    @property
    def withdrawn(self) -> Mapping[int, GranuleEntry]:
        """By id: what rollbacks since the checkpoint went back behind and is not in; without shares."""
        return self._withdrawn

    def warm(self) -> None:
        """Read now what the first lookup of a granule would have to wait for."""
        self.base.is_in(0)

    def get(self, identity: int) -> GranuleEntry | None:
        """Return a granule that is in."""
        if identity in self._added:
            return self._added[identity][1]
        return None if identity in self._removed else self.base.get(identity)

    def latest(self, bucket: str, key: str) -> GranuleEntry | None:
        """Return the version of an object that is in."""
        if (bucket, key) in self._latest:
            return self._latest[bucket, key]
        return self.base.latest(bucket, key)

    def was_removed(self, identity: int) -> bool:
        """Tell whether a granule was in and was taken out: replaced, or rolled back."""
        return identity not in self._added and (identity in self._removed or self.base.was_removed(identity))

    def was_withdrawn(self, identity: int) -> bool:
        """Tell whether a rollback went back behind a granule: it stays out when it is delivered again."""
        if identity in self._withdrawn:
            return True
        is_settled = identity in self._added or identity in self._removed
        return not is_settled and self.base.was_withdrawn(identity)

    def owners(self, path: str) -> list[GranuleEntry]:
        """Granules with a share in a partition, in ascending rank; their shares in others may be left out."""
        hidden = self._hidden()
        found = [self._added[identity][1] for identity in self._members.get(path, ())]
        if path not in self._dropped:
            found += [entry for _, entry in self.base.members(path) if entry.id not in hidden]
        return sorted(found, key=lambda entry: entry.rank)

    def living(self, entry: GranuleEntry) -> GranuleEntry:
        """An entry that is in, with the shares that it still has: those in partitions dropped since are gone."""
        shares = {p: share for p, share in entry.shares.items() if any(o.id == entry.id for o in self.owners(p))}
        return replace(entry, shares=shares)

    def has_as_planned(self, entry: GranuleEntry) -> bool:
        """Tell whether a granule is in with the very shares of ``entry``; a rollback may have brought some back."""
        present = self.get(entry.id)
        return present is not None and self.living(present).shares.keys() == entry.shares.keys()

    def count(self, path: str) -> int:
        """Number of granules with a share in a partition."""
        recent = len(self._members.get(path, ()))
        return recent if path in self._dropped else recent + self.base.count(path) - len(self._gone.get(path, ()))

    def apply(self, number: int, commit: Commit) -> None:
        """Take over what a commit says of granules."""
        for entry in commit.removed:
            self._remove(entry)
        self._withdrawn.update((entry.id, entry) for entry in commit.withdrawn)
        for path in commit.dropped:
            self._dropped.add(path)
            self._members.pop(path, None)
        for entry in commit.granules:
            self._add(number, entry)

    def _hidden(self) -> set[int]:
        return self._added.keys() | self._removed.keys()

    def _add(self, number: int, entry: GranuleEntry) -> None:
        self._size += 1
        self._added[entry.id] = (number, entry)
        self._withdrawn.pop(entry.id, None)
        self._latest[entry.identity.bucket, entry.identity.key] = entry
        for path in entry.shares:
            self._members.setdefault(path, set()).add(entry.id)

    def _remove(self, entry: GranuleEntry) -> None:
        self._size -= 1
        self._latest[entry.identity.bucket, entry.identity.key] = None
        is_recent = self._added.pop(entry.id, None) is not None
        for path in entry.shares:
            if is_recent:
                self._members.get(path, set()).discard(entry.id)
            else:
                self._gone.setdefault(path, set()).add(entry.id)
        before = self._removed.get(entry.id)
        self._removed[entry.id] = replace(entry, shares={**before.shares, **entry.shares}) if before else entry
