"""What can differ between a tree that released zcollection wrote and what its ``.zcollection`` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from zcollection_engine.layout.v2documents import DOCUMENT, ArrayLayout
from zcollection_engine.layout.v2partition import StoredArray, StoredGroup, unknown_codec
from zcollection_engine.schema import Schema, Variable


class Severity(StrEnum):
    """Whether something stands against taking the tree over, or is only worth knowing."""

    FAULT = "fault"
    NOTE = "note"


class Code(StrEnum):
    """What was found; stable, for machines."""

    OURS_ALREADY = "ours_already"
    TRANSLATED = "translated"
    FOREIGN = "foreign"
    MISSPELT = "misspelt_partition"
    LEFTOVER = "leftover"
    NO_METADATA = "no_metadata"
    DAMAGED_METADATA = "damaged_metadata"
    MISSING_VARIABLE = "missing_variable"
    UNKNOWN_VARIABLE = "unknown_variable"
    RESERVED_NAME = "reserved_name"
    DTYPE = "dtype"
    BYTE_ORDER = "byte_order"
    FILL_VALUE = "fill_value"
    UNDEFINED_FILL_VALUE = "undefined_fill_value"
    CHUNKS = "chunks"
    CODECS = "codecs"
    UNKNOWN_CODEC = "unknown_codec"
    DIMENSIONS = "dimensions"
    INNER_SIZE = "inner_size"
    ROWS = "rows"
    ABSENT_CHUNKS = "absent_chunks"
    UNDEFINED_CHUNKS = "undefined_chunks"
    UNREADABLE_AXIS = "unreadable_axis"
    UNSORTED_AXIS = "unsorted_axis"
    MISFILED = "misfiled_rows"
    NO_IMMUTABLE = "no_immutable"

    @property
    def severity(self) -> Severity:
        return Severity.NOTE if self in _NOTES else Severity.FAULT


_NOTES = frozenset(
    {
        Code.TRANSLATED,
        Code.FOREIGN,
        Code.LEFTOVER,
        Code.BYTE_ORDER,
        Code.UNDEFINED_FILL_VALUE,
        Code.CHUNKS,
        Code.CODECS,
        Code.ABSENT_CHUNKS,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference from what ``.zcollection`` says, or from what a collection should be.

    Attributes
    ----------
    code
        What it is; its severity with it.
    message
        The same in words, with what to do.
    partition
        Path; empty for the collection.
    variable
        Name, if it is about one.
    """

    code: Code
    message: str
    partition: str = ""
    variable: str = ""


class Comparison:
    """One group, held against the schema.

    Parameters
    ----------
    path
        Of the group.
    schema, layouts
        What ``.zcollection`` says.
    group
        What the group says of itself.
    keys
        Of all objects in it, relative to it.
    """

    def __init__(
        self, path: str, schema: Schema, layouts: Mapping[str, ArrayLayout], group: StoredGroup, keys: Sequence[str]
    ) -> None:
        self._path = path
        self._schema = schema
        self._layouts = layouts
        self._arrays = group.arrays
        self._keys = keys
        self._present = {name: array.count_chunks(name, keys) for name, array in group.arrays.items()}

    @property
    def present(self) -> int:
        """Number of chunks inside the arrays' shapes that are there."""
        return sum(self._present.values())

    @property
    def absent(self) -> int:
        """Number of chunks inside the arrays' shapes that are not there."""
        return sum(array.chunk_count for array in self._arrays.values()) - self.present

    def absent_chunks(self) -> Iterator[str]:
        """Yield the keys of the chunks inside the arrays' shapes that are not there, relative to the group."""
        for name, array in self._arrays.items():
            if self._present[name] < array.chunk_count:
                yield from array.absent_chunks(name, self._keys)

    def findings(self, variables: Sequence[Variable]) -> Iterator[Finding]:
        """All differences; ``variables`` are those that belong in the group."""
        expected = {v.path: v for v in variables}
        for name in expected.keys() - self._arrays.keys():
            yield self._of(name, Code.MISSING_VARIABLE, "it is not in this partition: zcollection cannot load it")
        for name, array in self._arrays.items():
            if name not in expected:
                yield self._of(
                    name, Code.UNKNOWN_VARIABLE, f"{DOCUMENT} has it, the collection has not: remove it there"
                )
                continue
            yield from self._shape(expected[name], array)
            yield from self._values(expected[name], array, self._layouts[name])
            yield from self._chunks(name, array)
        rows = {a.shape[0] for n, a in self._arrays.items() if n in expected and self._is_row(expected[n]) and a.shape}
        if len(rows) > 1:
            yield Finding(Code.ROWS, f"its variables have different numbers of rows: {sorted(rows)}", self._path)

    def _is_row(self, variable: Variable) -> bool:
        return self._schema.dimension in variable.dimensions

    def _of(self, name: str, code: Code, message: str) -> Finding:
        return Finding(code, message, self._path, name)

    def _shape(self, variable: Variable, array: StoredArray) -> Iterator[Finding]:
        name = variable.path
        if array.dimensions != variable.dimensions or len(array.shape) != len(array.dimensions):
            told = f"dimensions {array.dimensions}, shape {array.shape}; the collection has {variable.dimensions}"
            yield self._of(name, Code.DIMENSIONS, told)
            return
        for dimension, size in zip(array.dimensions, array.shape, strict=True):
            wanted = self._schema.sizes[dimension]
            if wanted is not None and size != wanted:
                yield self._of(name, Code.INNER_SIZE, f"{dimension} has size {size}; elsewhere it has {wanted}")

    def _values(self, variable: Variable, array: StoredArray, wanted: ArrayLayout) -> Iterator[Finding]:
        name, layout = variable.path, array.layout
        if layout.dtype != wanted.dtype:
            same = layout.dtype[1:] == wanted.dtype[1:]
            code = Code.BYTE_ORDER if same else Code.DTYPE
            yield self._of(name, code, f"dtype {layout.dtype}; the collection has {wanted.dtype}")
        if layout.fill_value != wanted.fill_value and not variable.is_text:
            code = Code.UNDEFINED_FILL_VALUE if layout.fill_value is None else Code.FILL_VALUE
            told = f"fill value {layout.fill_value!r}; the collection has {wanted.fill_value!r}"
            yield self._of(name, code, told)
        if not _chunked_as(array, wanted.chunks):
            yield self._of(name, Code.CHUNKS, f"chunks {layout.chunks}; the collection has {wanted.chunks}")
        if (layout.compressor, layout.filters) != (wanted.compressor, wanted.filters):
            yield self._of(name, Code.CODECS, "its codecs are other ones than the collection's")
        unknown = unknown_codec(layout)
        if unknown is not None:
            yield self._of(
                name, Code.UNKNOWN_CODEC, f"codec {unknown!r} is not installed here: its chunks cannot be read"
            )

    def _chunks(self, name: str, array: StoredArray) -> Iterator[Finding]:
        absent = array.chunk_count - self._present[name]
        if absent and array.layout.fill_value is None:
            told = f"{absent} of {array.chunk_count} chunks are not there and no fill value says what they hold"
            yield self._of(name, Code.UNDEFINED_CHUNKS, told)
        elif absent:
            yield self._of(name, Code.ABSENT_CHUNKS, f"{absent} of {array.chunk_count} chunks hold only the fill value")


def _chunked_as(array: StoredArray, wanted: tuple[int, ...]) -> bool:
    """Whether chunks are those wanted, if any: zcollection cuts a chunk at the array's shape."""
    return not wanted or array.layout.chunks == tuple(map(min, wanted, array.shape))
