"""What an object below a partition is, told from its key: document, chunk in use, leftover, or nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
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
        self._format = format_of(schema)
        self._space = self._format.space(version.generation)
        self._grids = {v.path: chunk_grid(v, array_shape(schema, v, version.rows)) for v in schema.row_variables}
        self._retired = tuple(retired)
        self._documents = set(self._format.render(schema, version))

    def role(self, key: str) -> Role:
        """Tell the role of an object by its key, relative to the partition."""
        if key in self._documents:
            return Role.DOCUMENT
        if self._is_retired(key):
            return Role.RETIRED
        place = self._format.place(key, self._grids)
        if place is None:
            return Role.FOREIGN
        is_copy = self._format.copies and place.space == 0 != self._space
        if place.space != self._space and not is_copy:
            return Role.OTHER_SPACE
        grid = self._grids[place.path]
        if len(place.index) == len(grid) and all(i < n for i, n in zip(place.index, grid, strict=True)):
            return Role.LIVE
        return Role.OTHER_SPACE if is_copy else Role.BEYOND  # a copy behind the end is of a generation that had more

    def _is_retired(self, key: str) -> bool:
        if any(key in self._format.of_array(path) for path in self._retired):
            return True
        return self._format.place(key, self._retired) is not None
