"""Read partitions as of a commit, as xarray objects."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import xarray as xr

from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.records import Commit
from zcollection_engine.commits.state import PartitionState
from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import NotFoundError, SnapshotExpiredError
from zcollection_engine.foreign import lying_of
from zcollection_engine.layout.chunkstore import ChunkStore
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.partitionstore import immutable_store, partition_store
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectInfo, ObjectStore

_TRIMMED = "{}: the log was trimmed since it was opened: refresh and read again"


def load_partitions(
    store: ObjectStore,
    config: CollectionConfig,
    partitions: Sequence[PartitionState],
    *,
    number: int,
    variables: Sequence[str] | None,
    decode: bool,
) -> xr.Dataset | xr.DataTree:
    """Open partitions lazily and join them along the partitioned dimension.

    The metadata are rendered from the log as of record ``number``, so all partitions are seen as of the same commit; a
    chunk that is gone, or was overwritten by a later generation, raises `SnapshotExpiredError`.
    """
    schema = config.schema
    wanted = _wanted(schema, variables)
    stores = _stores(store, config, partitions, number) or [partition_store(store, "", schema, Version(-1, 0, 0))]
    fixed = _fixed_store(store, config)
    groups = ["", *schema.groups()]
    datasets: dict[str, xr.Dataset] = {}
    for group in groups:
        names = [path for path in wanted if path.rpartition("/")[0] == group]
        pieces = [_open(piece, schema, group, names, decode=decode) for piece in stores]
        joined = pieces[0] if len(pieces) == 1 else xr.concat(pieces, schema.dimension, **_CONCAT)
        constants = [v.path for v in schema.immutable_variables if v.group == group and v.path in wanted]
        if constants:
            joined = joined.merge(_open(fixed, schema, group, constants, decode=decode), combine_attrs="override")
        datasets[group] = joined
    datasets[""].attrs = dict(schema.attributes)
    if len(groups) == 1:
        return datasets[""]
    return xr.DataTree.from_dict({f"/{group}": dataset for group, dataset in datasets.items()})


class SnapshotGuard:
    """Tells a chunk of a snapshot from one of a later generation in the same key space.

    A key space is written again only behind the commit that put the partition some generations on, so a chunk that is
    older than that commit, by the store's clock, is the snapshot's own.

    Parameters
    ----------
    store
        The collection's store.
    path
        Of the partition.
    generation
        The one behind whose commit the snapshot's chunks may be written again.
    number
        A record of the log at which the partition had that generation.
    taken
        When, by the store's clock, that record was written.
    """

    def __init__(self, store: ObjectStore, path: str, generation: int, number: int, taken: datetime) -> None:
        self._given = (store, path, generation, number, taken)
        self._seen = number
        self._reused: datetime | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return SnapshotGuard, self._given

    def __call__(self, chunk: ObjectInfo) -> None:
        """Raise `SnapshotExpiredError` unless the chunk, read before this call, is the snapshot's."""
        store, path, _, _, taken = self._given
        if chunk.modified < taken:
            return
        with self._lock:
            self._follow()
            reused = self._reused
        if reused is not None and chunk.modified >= reused:
            raise SnapshotExpiredError(
                f"{store.url}/{chunk.key} was written again since it was opened: refresh and read again", partition=path
            )

    def _follow(self) -> None:
        store, path, generation, _, _ = self._given
        if self._reused is not None:
            return
        for number, record in CommitLog(store).follow(self._seen):
            self._seen = number
            change = record.partitions.get(path) if isinstance(record, Commit) else None
            if change is not None and change.generation >= generation:
                self._reused = store.head(record_key(number)).modified
                return
        if not CommitLog(store).is_intact(self._given[3]):
            raise SnapshotExpiredError(_TRIMMED.format(store.url), partition=path)


def _fixed_store(store: ObjectStore, config: CollectionConfig) -> ChunkStore:
    is_foreign = config.imported is not None and bool(config.schema.immutable_variables)
    lying = lying_of(store, config.imported, format_of(config.schema).immutable, imported=is_foreign)
    return immutable_store(store, config.schema, lying=lying)


def _stores(
    store: ObjectStore, config: CollectionConfig, partitions: Sequence[PartitionState], number: int
) -> list[ChunkStore]:
    schema = config.schema
    if not partitions:
        return []
    try:
        taken = store.head(record_key(number)).modified
    except NotFoundError as error:
        raise SnapshotExpiredError(_TRIMMED.format(store.url)) from error
    return [
        partition_store(
            store,
            p.path,
            schema,
            Version(p.commit, p.generation, p.rows),
            guard=SnapshotGuard(store, p.path, format_of(schema).overwritten_by(p.generation), number, taken),
            lying=lying_of(store, config.imported, p.path, imported=p.is_imported),
        )
        for p in partitions
    ]


_CONCAT: dict[str, Any] = {
    "data_vars": "all",
    "coords": "minimal",
    "compat": "override",
    "join": "override",
    "combine_attrs": "override",
}


def _wanted(schema: Schema, variables: Sequence[str] | None) -> list[str]:
    if variables is None:
        return list(schema.by_path)
    for path in variables:
        if path not in schema.by_path:
            raise NotFoundError(f"no variable {path!r}; there are {', '.join(schema.by_path)}")
    return [path for path in schema.by_path if path in {*variables, schema.axis}]


def _open(store: ChunkStore, schema: Schema, group: str, paths: Sequence[str], *, decode: bool) -> xr.Dataset:
    names = {path.rpartition("/")[2] for path in paths}
    dataset: xr.Dataset = xr.open_zarr(
        store,
        group=group or None,
        consolidated=True,
        zarr_format=store.zarr_format,
        chunks={},
        decode_cf=decode,
        mask_and_scale=decode,
        drop_variables=[v.name for v in schema.variables if v.group == group and v.name not in names],
    )
    dataset.attrs = {}
    return dataset
