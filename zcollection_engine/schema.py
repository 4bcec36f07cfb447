"""What a collection holds: dimensions, variables and their encoding. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from zcollection_engine.errors import InvalidInputError, NotFoundError

#: Row variable that names the granule each row came from (uint64, see `zcollection_engine.identity`).
PROVENANCE = "granule"

#: dtype of text variables; numpy has no fixed-width counterpart, Zarr v3 stores them as ``string``.
TEXT = "string"

TIME_UNITS = "nanoseconds since 1970-01-01"
TIME_CALENDAR = "proleptic_gregorian"

Scalar = int | float | str | bool

#: Value of a codec's setting; the order of a transpose is a tuple.
Setting = int | str | bool | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Codec:
    """One codec: its name as Zarr v3 has it, and its settings, all of them, in a fixed order."""

    name: str
    configuration: tuple[tuple[str, Setting], ...] = ()

    def __getitem__(self, key: str) -> Setting:
        return dict(self.configuration)[key]


#: Closes a chain that does not end in zstd, see `Codecs`.
ENVELOPE = Codec("zstd", (("level", 1), ("checksum", True)))


@dataclass(frozen=True, slots=True)
class Codecs:
    """How the chunks of a variable are encoded; `zcollection_engine.codecs` makes, checks and renders it.

    Every chunk ends in a zstd skippable frame, which readers accept behind zstd only. So a chain whose last codec is
    another one gets `ENVELOPE` appended: zstd level 1 with a checksum.

    Attributes
    ----------
    array_to_array
        Before the values become bytes. What makes the bytes of them follows from the dtype.
    bytes_to_bytes
        After that, the last one being zstd.
    """

    array_to_array: tuple[Codec, ...] = ()
    bytes_to_bytes: tuple[Codec, ...] = ()

    def __post_init__(self) -> None:
        if not self.bytes_to_bytes or self.bytes_to_bytes[-1].name != ENVELOPE.name:
            object.__setattr__(self, "bytes_to_bytes", (*self.bytes_to_bytes, ENVELOPE))


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension; ``size`` is None for the one along which the collection is partitioned."""

    name: str
    size: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A variable as it is stored.

    Attributes
    ----------
    path
        Name relative to the partition's group; "/" separates nested groups ("ku/range_ocean").
    dtype
        numpy dtype string in little-endian form ("<i4", "|i1"), or "string".
    dimensions
        Names, the partitioned dimension first if the variable has it.
    chunks
        Chunk shape, one number a dimension.
    fill_value
        Value that means "missing" (CF ``_FillValue``), in the stored (packed) dtype; None if none is declared.
        Floats may be NaN.
    attributes
        JSON values, without ``_FillValue``; packing stays here (``scale_factor``, ``add_offset``).
    codecs
        How chunks are encoded; None means what every collection had before there was a choice, zstd level 3 with a
        checksum, for ever.
    """

    path: str
    dtype: str
    dimensions: tuple[str, ...]
    chunks: tuple[int, ...]
    fill_value: Scalar | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    codecs: Codecs | None = None

    def __post_init__(self) -> None:
        if len(self.chunks) != len(self.dimensions):
            raise InvalidInputError(
                f"variable {self.path!r}: {len(self.chunks)} chunk sizes for {len(self.dimensions)} dimensions"
            )

    def __eq__(self, other: object) -> bool:
        """Compare all fields; a fill value of NaN equals another one."""
        return isinstance(other, Variable) and self._comparable() == other._comparable()

    def __hash__(self) -> int:
        return hash((self.path, self.dtype, self.dimensions))

    def _comparable(self) -> tuple[Any, ...]:
        fill = repr(self.fill_value) if isinstance(self.fill_value, float) else self.fill_value
        return self.path, self.dtype, self.dimensions, self.chunks, fill, dict(self.attributes), self.codecs

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def group(self) -> str:
        """Path of the group that holds the variable; empty for the partition's own."""
        return self.path.rpartition("/")[0]

    @property
    def is_text(self) -> bool:
        return self.dtype == TEXT

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """dtype of the values in memory: text is an array of Python strings."""
        return np.dtype(object) if self.is_text else np.dtype(self.dtype)


@dataclass(frozen=True)
class Schema:
    """All of a collection's variables.

    Attributes
    ----------
    axis
        Path of the variable that orders the rows.
    dimension
        The partitioned dimension, the first one of ``axis``.
    dimensions
        Every dimension used by a variable.
    variables
        In order of their paths; `PROVENANCE` is among them when the collection keeps provenance.
    attributes
        Global attributes, JSON values.
    zarr_format
        3, or 2 for the layout that released zcollection reads.
    """

    axis: str
    dimension: str
    dimensions: tuple[Dimension, ...]
    variables: tuple[Variable, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    zarr_format: int = 3

    def __post_init__(self) -> None:
        if self.zarr_format not in (2, 3):
            raise InvalidInputError(f"zarr_format is {self.zarr_format}; it can be 3 or 2")
        object.__setattr__(self, "variables", tuple(sorted(self.variables, key=lambda v: v.path)))
        axis = self.by_path.get(self.axis)
        if axis is None:
            raise InvalidInputError(f"the axis {self.axis!r} is not among the variables {sorted(self.by_path)}")
        if axis.dimensions != (self.dimension,):
            raise InvalidInputError(
                f"the axis {self.axis!r} must have the one dimension {self.dimension!r}, it has {axis.dimensions}"
            )

    @cached_property
    def by_path(self) -> Mapping[str, Variable]:
        return MappingProxyType({v.path: v for v in self.variables})

    def __getitem__(self, path: str) -> Variable:
        try:
            return self.by_path[path]
        except KeyError:
            raise NotFoundError(f"no variable {path!r}; there are {', '.join(self.by_path)}") from None

    @property
    def row_variables(self) -> tuple[Variable, ...]:
        """Variables along the partitioned dimension."""
        return tuple(v for v in self.variables if self.dimension in v.dimensions)

    @property
    def immutable_variables(self) -> tuple[Variable, ...]:
        """Variables without the partitioned dimension: stored once for the collection."""
        return tuple(v for v in self.variables if self.dimension not in v.dimensions)

    @property
    def sizes(self) -> Mapping[str, int | None]:
        return {d.name: d.size for d in self.dimensions}

    @property
    def keeps_provenance(self) -> bool:
        return PROVENANCE in self.by_path

    def with_variables(self, extra: Iterable[Variable]) -> Schema:
        """Return a schema with more variables."""
        return replace(self, variables=(*self.variables, *extra))

    def groups(self) -> tuple[str, ...]:
        """Paths of all nested groups that the row variables imply, parents first."""
        found: set[str] = set()
        for variable in self.row_variables:
            parts = variable.path.split("/")[:-1]
            found.update("/".join(parts[: i + 1]) for i in range(len(parts)))
        return tuple(sorted(found))
