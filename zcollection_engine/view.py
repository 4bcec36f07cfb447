"""A partitioned collection of Zarr groups as of a commit: list, load, look back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import xarray as xr

from zcollection_engine.clock import Clock
from zcollection_engine.commits.opening import Moment, followed
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionConfig, CollectionRef, StoredConfig, load_config
from zcollection_engine.errors import FormatError, InvalidInputError, NotFoundError
from zcollection_engine.history import CommitInfo, Difference, diff, history
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.planning import MergeRules, Plan, make_plan, named_granules
from zcollection_engine.reading import load_partitions
from zcollection_engine.schema import PROVENANCE, Schema
from zcollection_engine.stores.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as a reader sees it.

    Attributes
    ----------
    path
        Place below the collection, ``year=2023/month=12``.
    keys
        The same as names and numbers.
    rows
        Number of rows.
    first, last
        Smallest and greatest axis value, in the stored unit (int64 nanoseconds since 1970-01-01 for a time).
    generation
        How often the partition was rewritten.
    commit
        Number of the last commit that changed it.
    granules
        Number of granules that have a share in it.
    """

    path: str
    keys: tuple[tuple[str, int], ...]
    rows: int
    first: Any
    last: Any
    generation: int
    commit: int
    granules: int


class CollectionView:
    """A collection, seen as of one record of its log.

    A collection opened for reading stays at the commit it was opened at
    until `refresh`; one opened for writing also follows its own commits.
    """

    def __init__(
        self,
        store: ObjectStore,
        ref: CollectionRef,
        stored: StoredConfig,
        state: CollectionState,
        *,
        committer: Committer | None,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ref = ref
        self._stored = stored
        self._state = state
        self._committer = committer
        self._clock = clock

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def store(self) -> ObjectStore:
        return self._store

    @property
    def ref(self) -> CollectionRef:
        """What another process needs to find the collection."""
        return self._committer.ref if self._committer is not None else self._ref

    @property
    def config(self) -> CollectionConfig:
        return self._committer.config if self._committer is not None else self._stored.config

    @property
    def immutable(self) -> Mapping[str, str]:
        """SHA-256 of each variable without the partitioned dimension."""
        return self._stored.immutable

    @property
    def schema(self) -> Schema:
        return self.config.schema

    @property
    def state(self) -> CollectionState:
        """The fold of the commit log this view stands on."""
        return self._committer.state if self._committer is not None else self._state

    @property
    def commit(self) -> int:
        """Number of the last commit seen; -1 if there is none yet."""
        return self.state.last_commit

    def refresh(self) -> Self:
        """See what was committed since; returns the collection."""
        if self._committer is not None:
            self._committer.catch_up()
            return self
        self._state = followed(self._state, self._store, self._clock)
        if self._state.config != self._ref.config:
            self._ref = replace(self._ref, config=self._state.config)
            self._stored = load_config(self._store, self._state.config)
        return self

    def partitions(self) -> list[Partition]:
        """All partitions that have rows, in the numeric order of their keys."""
        found = [
            Partition(
                p.path,
                self.config.partitioning.keys(p.path),
                p.rows,
                p.axis[0],
                p.axis[1],
                p.generation,
                p.commit,
                self.state.ledger.count(p.path),
            )
            for p in list(self.state.partitions.values())
            if p.axis is not None
        ]
        return sorted(found, key=lambda p: p.keys)

    def granules(self) -> Iterator[GranuleEntry]:
        """Every granule that is in, in no particular order."""
        return iter(self.state.ledger)

    def load(
        self, partitions: Sequence[str] | None = None, *, variables: Sequence[str] | None = None, decode: bool = True
    ) -> xr.Dataset | xr.DataTree:
        """Return the rows of some partitions, lazily (Dask chunks are the stored chunks).

        Parameters
        ----------
        partitions
            Paths; all by default.
        variables
            Paths of the variables wanted; all by default. The axis always comes along.
        decode
            Apply CF decoding (time, packing, fill values); False gives what is stored.

        Returns
        -------
        xarray.Dataset
            Or an `xarray.DataTree` if the schema has nested groups.

        Raises
        ------
        NotFoundError
            If there is no such partition or variable.
        SnapshotExpiredError
            On reading values, if a later generation took the place of what this view shows: the partition was
            rewritten at least twice since.
        """
        number = self.state.number
        chosen = [self._partition(path) for path in partitions] if partitions is not None else self._ordered()
        return load_partitions(self._store, self.config, chosen, number=number, variables=variables, decode=decode)

    def lineage(self, partition: str, rows: slice | Sequence[int] = slice(None)) -> list[GranuleEntry]:
        """Return the granules that rows of a partition came from, one for each row.

        Parameters
        ----------
        partition
            Path.
        rows
            Row numbers in the partition.

        Raises
        ------
        NotFoundError
            If there is no such partition.
        InvalidInputError
            If the collection keeps no provenance.
        SnapshotExpiredError
            If the partition was rewritten since it was opened.
        """
        if not self.schema.keeps_provenance:
            raise InvalidInputError(f"{self.url} keeps no provenance: its rows do not tell where they come from")
        found = self.load([partition], variables=[PROVENANCE], decode=False)
        dataset = found.to_dataset() if isinstance(found, xr.DataTree) else found
        chosen = rows if isinstance(rows, slice) else np.asarray(rows, np.intp)
        ids = dataset[PROVENANCE].isel({self.schema.dimension: chosen}).values
        entries = {int(i): self._granule(int(i)) for i in np.unique(ids)}
        return [entries[int(i)] for i in ids]

    def _granule(self, identity: int) -> GranuleEntry:
        entry = self.state.ledger.get(identity)
        if entry is None:
            raise FormatError(f"{self.url}: rows come from granule {identity}, which the commit log does not know")
        return entry

    def plan_retraction(self, granules: Sequence[int | str]) -> Plan:
        """Tell what taking granules out would do: which partitions change, and which granules get rows back.

        Raises
        ------
        NotFoundError
            If one of them is not in.
        InvalidInputError
            If the collection cannot tell their rows from others.
        """
        rules = MergeRules(self.config.strategy, self.schema.keeps_provenance)
        return make_plan(self.state, rules, (), retracted=named_granules(self.state, granules, place=self.url))

    def history(self) -> Iterator[CommitInfo]:
        """Yield the commits that the log still has, oldest first."""
        return history(self._store)

    def diff(self, older: Moment, newer: Moment) -> Difference:
        """Compare two commits; see `zcollection_engine.history.diff`."""
        return diff(self._store, older, newer)

    def _partition(self, path: str) -> PartitionState:
        found = self.state.partitions.get(path)
        if found is None or found.axis is None:
            raise NotFoundError(f"{self.url}: no partition {path!r}; partitions() lists them")
        return found

    def _ordered(self) -> list[PartitionState]:
        return [self.state.partitions[p.path] for p in self.partitions()]
