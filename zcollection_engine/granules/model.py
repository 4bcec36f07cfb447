"""A granule in memory, and how to read one. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy.typing as npt

from zcollection_engine.schema import Scalar

#: Markers of a Zarr directory where none is set: consolidated metadata, which are written when all else is.
DEFAULT_MARKERS = (".zmetadata", "zarr.json")


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
    times
        Collection paths of more row variables that are decoded as the axis is, to int64 nanoseconds since 1970-01-01:
        those by whose date a collection is partitioned.
    format
        What the objects are: NetCDF files; or zip archives of a Zarr hierarchy and the markers of Zarr directories.
    marker
        For Zarr: glob on the last part of a key. An object of such a name tells that the directory which holds it is
        complete. Empty: `DEFAULT_MARKERS`, a "zarr.json" only with consolidated metadata.
    missing_chunks
        For Zarr: whether a granule that lacks a chunk is refused, or taken with fill values in its place.
    max_nbytes
        Bytes that the values taken from one granule may need in memory (`zcollection_engine.granules.limits` tells how
        they are counted). A granule that declares more is refused before any of them is read.
    """

    axis: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    times: tuple[str, ...] = ()
    format: Literal["netcdf", "zarr"] = "netcdf"
    marker: str = ""
    missing_chunks: Literal["reject", "fill"] = "reject"
    max_nbytes: int = 1 << 32

    def is_marker(self, key: str) -> bool:
        """Tell whether an object marks the Zarr directory that holds it as complete."""
        if self.format != "zarr":
            return False
        name = key.rpartition("/")[2]
        return fnmatchcase(name, self.marker) if self.marker else name in DEFAULT_MARKERS


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
