"""The rows of a merged partition, block by block: from those that are there and those that come.

Memory follows the size of a block, not that of the partition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from zcollection_engine.chunking import value_nbytes
from zcollection_engine.errors import SchemaChangedError
from zcollection_engine.granules.model import Granule
from zcollection_engine.layout.chunkstore import ChunkStore, open_variable
from zcollection_engine.schema import PROVENANCE, Scalar, Schema, Variable

Values = npt.NDArray[Any]

#: Rows may be read that are not wanted, up to so many times those that are: one slice is cheaper than many rows.
_SLACK = 2


@dataclass(frozen=True)
class ExistingRows:
    """The rows that a partition has, read when asked for.

    Attributes
    ----------
    store
        None if there is nothing to be read.
    count
        Number of rows.
    filled
        Variables that have no values there: they read as their fill values.
    """

    schema: Schema
    store: ChunkStore | None
    count: int
    filled: Sequence[str] = ()

    def column(self, path: str) -> Values:
        """All values of a variable."""
        variable = self.schema[path]
        if self.store is None:
            return _empty(self.schema, variable)
        return np.asarray(open_variable(self.store, path)[...], dtype=variable.numpy_dtype)

    def reader(self, variable: Variable) -> Callable[[Values], Values]:
        """A function that reads rows of a variable by their numbers."""
        if variable.path in self.filled:
            inner, fill = _inner(self.schema, variable), _fill(variable)
            return lambda rows: np.full((rows.size, *inner), fill, variable.numpy_dtype)
        array = None if self.store is None else open_variable(self.store, variable.path)
        return lambda rows: _empty(self.schema, variable) if array is None else _read_rows(array, rows)


@dataclass(frozen=True)
class InsertedRows:
    """The rows of granules in one partition.

    Attributes
    ----------
    pieces
        (id, granule, row numbers in it) of each.
    origins
        Granule id of each row, where it is not that of its piece.
    """

    schema: Schema
    pieces: Sequence[tuple[int, Granule, npt.NDArray[np.intp]]]
    origins: npt.NDArray[np.uint64] | None = None

    @cached_property
    def origin(self) -> npt.NDArray[np.uint64]:
        """Granule id of each row, shape (n,)."""
        if self.origins is not None:
            return self.origins
        parts = [np.full(len(rows), identity, np.uint64) for identity, _, rows in self.pieces]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def column(self, path: str) -> Values:
        """All values of a variable."""
        if path == PROVENANCE:
            return self.origin
        variable = self.schema[path]
        parts = [_values(granule, path)[rows] for _, granule, rows in self.pieces]
        return np.concatenate([_empty(self.schema, variable), *parts])


@dataclass(frozen=True)
class MergedRows:
    """The chosen rows in their order.

    Attributes
    ----------
    take
        Row numbers into the existing rows followed by the inserted ones, shape (rows,).
    """

    existing: ExistingRows
    inserted: InsertedRows
    take: npt.NDArray[np.intp]

    def blocks(self, variable: Variable, rows: int) -> Iterator[tuple[slice, Values]]:
        """Yield the values of a variable, so many rows at a time, with their places."""
        old, new = self.existing.reader(variable), self.inserted.column(variable.path)
        for start in range(0, self.take.size, rows):
            place = slice(start, min(start + rows, self.take.size))
            yield place, self._gather(variable, old, new, self.take[place])

    def column(self, path: str) -> Values:
        """All values of a variable."""
        values = np.concatenate([self.existing.column(path), self.inserted.column(path)])
        return np.asarray(values[self.take])

    def _gather(self, variable: Variable, old: Callable[[Values], Values], new: Values, take: Values) -> Values:
        is_new = take >= self.existing.count
        if is_new.all():
            return np.asarray(new[take - self.existing.count])
        values = np.empty((take.size, *new.shape[1:]), variable.numpy_dtype)
        values[~is_new] = old(take[~is_new])
        values[is_new] = new[take[is_new] - self.existing.count]
        return values


def _values(granule: Granule, path: str) -> Values:
    try:
        return granule.variables[path].values
    except KeyError as error:
        raise SchemaChangedError(
            f"{granule.name} was fitted to a schema without {path!r}, which the collection has got since: read it again"
        ) from error


def block_rows(schema: Schema, variable: Variable, nbytes: int) -> int:
    """Return the rows of a block of about so many bytes: whole chunks, at least one."""
    row = value_nbytes(variable.dtype, 0 if variable.is_text else variable.numpy_dtype.itemsize)
    for name in variable.dimensions[1:]:
        row *= max(1, schema.sizes[name] or 1)
    return max(1, nbytes // (row * variable.chunks[0])) * variable.chunks[0]


def _read_rows(array: zarr.Array[Any], rows: Values) -> Values:
    """Read rows of an array; one slice if it has few others in it."""
    first, last = int(rows.min()), int(rows.max())
    if last - first < _SLACK * rows.size:
        return np.asarray(np.asarray(array[first : last + 1])[rows - first])
    return np.asarray(array.oindex[rows])


def _fill(variable: Variable) -> Scalar:
    """What a value reads as that was never written, as Zarr's documents say."""
    if variable.fill_value is not None:
        return variable.fill_value
    kind = variable.numpy_dtype.kind
    return "" if kind == "O" else math.nan if kind == "f" else 0


def _inner(schema: Schema, variable: Variable) -> tuple[int, ...]:
    return tuple(schema.sizes[d] or 0 for d in variable.dimensions[1:])


def _empty(schema: Schema, variable: Variable) -> Values:
    return np.empty((0, *_inner(schema, variable)), variable.numpy_dtype)
