"""What is converted: a collection of ours as of its last commit, or a tree of released zcollection. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.commits.log import record_key
from zcollection_engine.commits.state import PartitionState
from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import InvalidInputError, NotFoundError
from zcollection_engine.foreign import lying_of
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.layout.chunkstore import ChunkStore, open_variable
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.partitionstore import AsItLies, immutable_store, partition_store
from zcollection_engine.merging import TimeSeries
from zcollection_engine.opening import open_collection
from zcollection_engine.partitioning import partitioning_from_json
from zcollection_engine.reading import SnapshotGuard
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.treescan import ImportedPartition, scan
from zcollection_engine.zcollection1 import IMMUTABLE

Values = npt.NDArray[Any]

_HISTORY = "history: older commits, and which granules were taken out; those come in again when they are delivered"


@dataclass(frozen=True)
class Source:
    """What is converted.

    Attributes
    ----------
    store, config
        Where, and how it is made.
    partitions
        Those with rows, in their order.
    lying
        By path, how what someone else wrote lies.
    granules
        With the shares that they still have.
    lost
        What a conversion does not take along.
    seen
        Record of the log at which it is seen, and when that was written by the store's clock; None for a tree.
    """

    store: ObjectStore
    config: CollectionConfig
    partitions: tuple[PartitionState, ...]
    lying: Mapping[str, AsItLies] = field(default_factory=dict)
    granules: tuple[GranuleEntry, ...] = ()
    lost: tuple[str, ...] = ()
    seen: tuple[int, datetime] | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether there is no log, so that nothing tells when a chunk was written again."""
        return self.seen is None

    def rows_of(self, partition: PartitionState) -> ChunkStore:
        """The partition as it was when the source was opened; reading raises `SnapshotExpiredError` if it is gone."""
        path, schema = partition.path, self.config.schema
        version = Version(partition.commit, partition.generation, partition.rows)
        guard = None
        if self.seen is not None:
            guard = SnapshotGuard(self.store, path, format_of(schema).overwritten_by(partition.generation), *self.seen)
        return partition_store(self.store, path, schema, version, guard=guard, lying=self.lying.get(path))

    def fixed(self) -> dict[str, Values]:
        """Values of the variables without the partitioned dimension."""
        chunks = immutable_store(self.store, self.config.schema, lying=self.lying.get(IMMUTABLE))
        return {
            v.path: np.asarray(open_variable(chunks, v.path)[...], v.numpy_dtype)
            for v in self.config.schema.immutable_variables
        }


def open_source(store: ObjectStore) -> Source:
    """Look at what is to be converted.

    Raises
    ------
    NotFoundError
        If there is neither a collection nor a tree.
    FormatError
        If it cannot be read.
    InvalidInputError
        If something stands against reading the tree; all of it is named.
    """
    try:
        view = open_collection(store)
    except NotFoundError:
        return _scanned(store)
    state, config = view.state, view.config
    taken = store.head(record_key(state.number)).modified
    partitions = tuple(state.partitions[p.path] for p in view.partitions())
    fixed = config.imported is not None and bool(config.schema.immutable_variables)
    folder = format_of(config.schema).immutable
    lies = {p.path: lying_of(store, config.imported, p.path, imported=p.is_imported) for p in partitions}
    lies[IMMUTABLE] = lying_of(store, config.imported, folder, imported=fixed)
    owned = {p.path: {e.id for e in state.ledger.owners(p.path)} for p in partitions}
    granules = tuple(_living(entry, owned) for entry in state.ledger)
    lying = {path: found for path, found in lies.items() if found is not None}
    return Source(store, config, partitions, lying, granules, (_HISTORY,), (state.number, taken))


def _living(entry: GranuleEntry, owned: Mapping[str, set[int]]) -> GranuleEntry:
    """A granule with the shares that it still has."""
    shares = {path: share for path, share in entry.shares.items() if entry.id in owned.get(path, ())}
    return replace(entry, shares=shares)


def _scanned(store: ObjectStore) -> Source:
    tree = scan(store)
    if tree.faults:
        named = "; ".join(f"{f.partition} {f.variable}: {f.message}".strip() for f in tree.faults[:20])
        raise InvalidInputError(f"{store.url} cannot be converted: {named}")
    schema = replace(tree.schema, zarr_format=2)
    partitioning = partitioning_from_json(tree.translation.partitioning)
    config = CollectionConfig(schema, partitioning, TimeSeries().bound(schema))
    partitions = tuple(p for p in tree.partitions if p.rows)
    groups = partitions if tree.immutable is None else (*partitions, tree.immutable)
    lying = {group.path: _lying(group, tree.translation.layouts) for group in groups}
    states = tuple(PartitionState(p.path, 0, p.rows, 0, p.axis) for p in partitions)
    return Source(store, config, states, lying)


def _lying(group: ImportedPartition, known: Mapping[str, Any]) -> AsItLies:
    return AsItLies({**known, **group.layouts}, group.absent_keys)
