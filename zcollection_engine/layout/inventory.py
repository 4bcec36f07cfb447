"""What an object below a partition is, told from its key: document, chunk in use, leftover, or nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    FOREIGN = "foreign"


class PartitionInventory:
    """Sorts the objects of one partition.

    Parameters
    ----------
    schema
        Of the collection.
    version
        Generation and rows of the partition.
    """

    def __init__(self, schema: Schema, version: Version) -> None:
        self._version = version
        self._grids = {v.path: _grid(schema, v, version.rows) for v in schema.row_variables}
        self._documents = {DOCUMENT, *(f"{path}/{DOCUMENT}" for path in (*self._grids, *schema.groups()))}

    def role(self, key: str) -> Role:
        """Tell the role of an object by its key, relative to the partition."""
        if key in self._documents:
            return Role.DOCUMENT
        path, chunk = _split(key, self._grids)
        if path is None:
            return Role.FOREIGN
        index = keyspaces.parse(self._version.generation, chunk)
        if index is None:
            return Role.OTHER_SPACE if keyspaces.is_chunk(chunk) else Role.FOREIGN
        grid = self._grids[path]
        inside = len(index) == len(grid) and all(i < n for i, n in zip(index, grid, strict=True))
        return Role.LIVE if inside else Role.BEYOND


def _grid(schema: Schema, variable: Variable, rows: int) -> tuple[int, ...]:
    """Number of chunks along each dimension."""
    sizes = [rows if d == schema.dimension else schema.sizes[d] or 0 for d in variable.dimensions]
    return tuple(math.ceil(size / chunk) for size, chunk in zip(sizes, variable.chunks, strict=True))


def _split(key: str, variables: Mapping[str, object]) -> tuple[str | None, str]:
    """The variable whose folder holds a key, and the rest of the key."""
    parts = key.split("/")
    for end in range(len(parts) - 1, 0, -1):
        path = "/".join(parts[:end])
        if path in variables:
            return path, "/".join(parts[end:])
    return None, key
