"""What an object below a partition is, told from its key: document, chunk in use, leftover, or nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from zcollection_engine.layout import keyspaces
from zcollection_engine.layout.documents import DOCUMENT, Version
from zcollection_engine.schema import Schema, Variable


class Role(StrEnum):
    """What an object is for readers of the present version."""

    DOCUMENT = "document"
    LIVE = "live"
    BEYOND = "beyond"
    OTHER_SPACE = "other_space"
    RETIRED = "retired"
    FOREIGN = "foreign"


def array_shape(schema: Schema, variable: Variable, rows: int) -> tuple[int, ...]:
    """Return the shape of a variable's array in a partition with so many rows."""
    return tuple(rows if d == schema.dimension else schema.sizes[d] or 0 for d in variable.dimensions)


def chunk_grid(variable: Variable, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of chunks along each dimension of an array."""
    return tuple(-(-size // step) for size, step in zip(shape, variable.chunks, strict=True))


class PartitionInventory:
    """Sorts the objects of one partition.

    Parameters
    ----------
    schema
        Of the collection.
    version
        Generation and rows of the partition.
    retired
        Paths of variables that there were once.
    """

    def __init__(self, schema: Schema, version: Version, retired: Sequence[str] = ()) -> None:
        self._version = version
        self._grids = {v.path: chunk_grid(v, array_shape(schema, v, version.rows)) for v in schema.row_variables}
        self._retired = tuple(retired)
        self._documents = {DOCUMENT, *(f"{path}/{DOCUMENT}" for path in (*self._grids, *schema.groups()))}

    def role(self, key: str) -> Role:
        """Tell the role of an object by its key, relative to the partition."""
        if key in self._documents:
            return Role.DOCUMENT
        if any(key == f"{path}/{DOCUMENT}" or _is_chunk_of(path, key) for path in self._retired):
            return Role.RETIRED
        path, chunk = _split(key, self._grids)
        if path is None:
            return Role.FOREIGN
        index = keyspaces.parse(self._version.generation, chunk)
        if index is None:
            return Role.OTHER_SPACE if keyspaces.is_chunk(chunk) else Role.FOREIGN
        grid = self._grids[path]
        inside = len(index) == len(grid) and all(i < n for i, n in zip(index, grid, strict=True))
        return Role.LIVE if inside else Role.BEYOND


def _is_chunk_of(path: str, key: str) -> bool:
    return key.startswith(f"{path}/") and keyspaces.is_chunk(key.removeprefix(f"{path}/"))


def _split(key: str, variables: Mapping[str, object]) -> tuple[str | None, str]:
    """The variable whose folder holds a key, and the rest of the key."""
    parts = key.split("/")
    for end in range(len(parts) - 1, 0, -1):
        path = "/".join(parts[:end])
        if path in variables:
            return path, "/".join(parts[end:])
    return None, key
