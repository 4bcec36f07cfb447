"""The engine's own view of a partition's arrays, and of the arrays that are stored once for the collection."""

from __future__ import annotations

from collections.abc import Callable

from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectInfo, ObjectStore


def partition_store(
    objects: ObjectStore,
    path: str,
    schema: Schema,
    version: Version,
    *,
    writer: ChunkWriter | None = None,
    guard: Callable[[ObjectInfo], None] | None = None,
) -> ChunkStore:
    """Return a version of a partition as zarr-python sees it; see `ChunkStore`."""
    layout = format_of(schema)
    documents = layout.internal(schema, version)
    return ChunkStore(objects, path, documents, writer, guard=guard, folder=layout.folder(version.generation))


def immutable_store(
    objects: ObjectStore, schema: Schema, *, path: str | None = None, writer: ChunkWriter | None = None
) -> ChunkStore:
    """Return the arrays without the partitioned dimension as zarr-python sees them.

    Parameters
    ----------
    path
        Where they lie; by default where readers find them.
    """
    layout = format_of(schema)
    documents = layout.internal(schema, Version(0, 0, 0), immutable=True)
    return ChunkStore(objects, layout.immutable if path is None else path, documents, writer)
