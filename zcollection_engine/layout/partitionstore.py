"""The engine's own view of a partition's arrays, and of the arrays that are stored once for the collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.v2documents import ArrayLayout
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectInfo, ObjectStore


@dataclass(frozen=True, slots=True)
class AsItLies:
    """How a group of Zarr v2 lies that someone else wrote.

    Attributes
    ----------
    layouts
        By variable.
    absent
        Keys, relative to the group, of chunks that were not there when it was taken over: they hold the fill value.
    """

    layouts: Mapping[str, ArrayLayout] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    def schema(self, schema: Schema) -> Schema:
        """The collection's schema with the chunks that the group has."""
        return replace(schema, variables=tuple(map(self._variable, schema.variables)))

    def _variable(self, variable: Variable) -> Variable:
        layout = self.layouts.get(variable.path)
        return variable if layout is None else replace(variable, chunks=layout.chunks)


def partition_store(
    objects: ObjectStore,
    path: str,
    schema: Schema,
    version: Version,
    *,
    writer: ChunkWriter | None = None,
    guard: Callable[[ObjectInfo], None] | None = None,
    lying: AsItLies | None = None,
) -> ChunkStore:
    """Return a version of a partition as zarr-python sees it; see `ChunkStore`."""
    layout, found = format_of(schema), lying or AsItLies()
    documents = layout.internal(schema, version, layouts=found.layouts)
    folder = layout.folder(version.generation)
    return ChunkStore(objects, path, documents, writer, guard=guard, folder=folder, absent=found.absent)


def immutable_store(
    objects: ObjectStore,
    schema: Schema,
    *,
    path: str | None = None,
    writer: ChunkWriter | None = None,
    lying: AsItLies | None = None,
) -> ChunkStore:
    """Return the arrays without the partitioned dimension as zarr-python sees them.

    Parameters
    ----------
    path
        Where they lie; by default where readers find them.
    lying
        How, if someone else wrote them.
    """
    layout, found = format_of(schema), lying or AsItLies()
    documents = layout.internal(schema, Version(0, 0, 0), immutable=True, layouts=found.layouts)
    return ChunkStore(objects, layout.immutable if path is None else path, documents, writer, absent=found.absent)
