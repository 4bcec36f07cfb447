"""Read partitions as of a commit, as xarray objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from zcollection_engine.commits.state import PartitionState
from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import NotFoundError
from zcollection_engine.layout.chunkstore import ChunkStore
from zcollection_engine.layout.documents import Version, render
from zcollection_engine.publication import IMMUTABLE
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore


def load_partitions(
    store: ObjectStore,
    config: CollectionConfig,
    partitions: Sequence[PartitionState],
    *,
    variables: Sequence[str] | None,
    decode: bool,
) -> xr.Dataset | xr.DataTree:
    """Open partitions lazily and join them along the partitioned dimension.

    The metadata are rendered from the log, so all partitions are seen as of the same commit; a chunk that is gone
    raises `SnapshotExpiredError` instead of reading as fill values.
    """
    schema = config.schema
    wanted = _wanted(schema, variables)
    stores = [
        ChunkStore(store, p.path, render(schema, Version(p.commit, p.generation, p.rows))) for p in partitions
    ] or [ChunkStore(store, "", render(schema, Version(-1, 0, 0)))]
    fixed = ChunkStore(store, IMMUTABLE, render(schema, Version(0, 0, 0), immutable=True))
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
        zarr_format=3,
        chunks={},
        decode_cf=decode,
        mask_and_scale=decode,
        drop_variables=[v.name for v in schema.variables if v.group == group and v.name not in names],
    )
    dataset.attrs = {}
    return dataset
