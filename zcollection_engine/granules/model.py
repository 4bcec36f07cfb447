"""A granule in memory, and how to read one. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from zcollection_engine.schema import Scalar


@dataclass(frozen=True, slots=True)
class GranuleSpec:
    """Which variables a granule gives to its collection, and under which names.

    Attributes
    ----------
    axis
        Absolute path of the axis variable in the granule ("/data_01/time").
    include, exclude
        Glob patterns on absolute variable paths. "*" and "?" stay inside a group, "**" crosses groups. An
        empty ``include`` takes everything in the axis's group and below it.
    rename
        From a collection path (see `collection_path`) to another.
    attributes
        Global attributes of the granule that become row variables: attribute name to numpy dtype name.
    """

    axis: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GranuleVariable:
    """One variable as found: raw (packed) values, shape by ``dimensions``; text as Python strings (dtype object)."""

    dimensions: tuple[str, ...]
    values: npt.NDArray[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fill_value: Scalar | None = None


@dataclass(frozen=True)
class Granule:
    """The selected content of one granule.

    Attributes
    ----------
    name
        What errors call it: the object's key or URL.
    axis
        Collection path of the axis. Its values are sorted or not, finite, shape (rows,): int64 nanoseconds
        since 1970-01-01 (proleptic Gregorian) when it is a time, else an integer or float as found.
    dimension
        Name of the partitioned dimension.
    variables
        By collection path.
    attributes
        Global attributes, JSON values.
    """

    name: str
    axis: str
    dimension: str
    variables: Mapping[str, GranuleVariable]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return int(self.variables[self.axis].values.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all values in memory (text counts its pointers)."""
        return sum(v.values.nbytes for v in self.variables.values())
