"""A Zarr v2 group that someone else wrote: what its ``.zmetadata`` tells, and the ends of its axis."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr

from zcollection_engine.errors import EngineError, FormatError, StorageError
from zcollection_engine.layout.chunkstore import ChunkStore
from zcollection_engine.layout.documents import dump
from zcollection_engine.layout.v2documents import ARRAY, ATTRIBUTES, DIMENSIONS, GROUP, ArrayLayout
from zcollection_engine.stores.base import ObjectStore


class UnreadableError(Exception):
    """Values that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as its metadata tell of it."""

    layout: ArrayLayout
    shape: tuple[int, ...]
    dimensions: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dimension."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.layout.chunks, strict=True))

    @property
    def chunk_count(self) -> int:
        return math.prod(self.grid)

    def absent_chunks(self, name: str, keys: Iterable[str]) -> Iterator[str]:
        """Yield the keys, relative to the group, of chunks inside the shape that are not among ``keys``."""
        present = {key for key in keys if key.startswith(f"{name}/")}
        for index in itertools.product(*map(range, self.grid)):
            key = f"{name}/{self.layout.separator.join(map(str, index)) or '0'}"
            if key not in present:
                yield key

    def count_chunks(self, name: str, keys: Iterable[str]) -> int:
        """Count the chunks inside the shape among keys relative to the group."""
        pattern = re.compile(rf"{re.escape(name)}/(\d+(?:{re.escape(self.layout.separator)}\d+)*)")
        grid = self.grid or (1,)
        found = 0
        for key in keys:
            match = pattern.fullmatch(key)
            if match is not None:
                index = [int(n) for n in match[1].split(self.layout.separator)]
                found += len(index) == len(grid) and all(i < n for i, n in zip(index, grid, strict=True))
        return found


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """The arrays of a group by name."""

    arrays: Mapping[str, StoredArray]


def parse_group(data: bytes) -> StoredGroup:
    """Read a ``.zmetadata``.

    Raises
    ------
    FormatError
        If it is damaged, has a nested group, or an array without the names of its dimensions.
    """
    try:
        metadata = json.loads(data)["metadata"]
        if GROUP not in metadata:
            raise FormatError(f"{GROUP} is missing")
        arrays: dict[str, StoredArray] = {}
        for key in metadata:
            name, _, leaf = key.rpartition("/")
            if leaf == GROUP and name:
                raise FormatError(f"it has a nested group {name!r}, which zcollection cannot load")
            if leaf == ARRAY:
                arrays[name] = _array(name, metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"it is damaged: {error!r}") from error
    return StoredGroup(arrays)


def _array(name: str, metadata: Mapping[str, Any]) -> StoredArray:
    document = metadata[f"{name}/{ARRAY}"]
    attributes = metadata.get(f"{name}/{ATTRIBUTES}", {})
    if DIMENSIONS not in attributes:
        raise FormatError(f"variable {name!r} has no {DIMENSIONS}")
    shape = tuple(int(n) for n in document["shape"])
    layout = ArrayLayout.from_document(document)
    if len(layout.chunks) != len(shape) or not all(layout.chunks):
        raise FormatError(f"variable {name!r} has chunks {layout.chunks} for the shape {shape}")
    return StoredArray(layout, shape, tuple(attributes[DIMENSIONS]))


def unknown_codec(layout: ArrayLayout) -> str | None:
    """Name of the first codec that this process cannot decode with; None if there is none."""
    for config in (*layout.filters, layout.compressor):
        if config is None:
            continue
        try:
            numcodecs.get_codec(dict(config))
        except (ValueError, TypeError, KeyError):
            return str(config.get("id"))
    return None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The ends of an axis.

    Attributes
    ----------
    values
        First and last value; times as integers, in their own unit.
    ascending
        Whether the values of the first and the last chunk ascend, and none of them is NaT or NaN.
    nanoseconds
        First and last value, int64 nanoseconds since 1970-01-01, if the axis is one of times that those can hold.
    """

    values: tuple[int, int] | tuple[float, float]
    ascending: bool
    nanoseconds: npt.NDArray[np.int64] | None


def axis_bounds(store: ObjectStore, folder: str, name: str, array: StoredArray) -> Bounds:
    """Read the first and the last chunk of an axis that has rows.

    Raises
    ------
    UnreadableError
        If a chunk is not there, cannot be decoded, or its codec is not known.
    """
    documents = {f"{name}/{ARRAY}": dump(array.layout.document(array.shape)), f"{name}/{ATTRIBUTES}": b"{}"}
    try:
        opened = zarr.open_array(ChunkStore(store, folder, documents), path=name, mode="r", zarr_format=2)
        (rows,), (step,) = array.shape, array.layout.chunks
        head = np.asarray(opened[:step])
        tail = head if rows <= step else np.asarray(opened[(rows - 1) // step * step :])
    except StorageError:
        raise
    except (EngineError, ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        raise UnreadableError(f"its ends cannot be read: {error}") from error
    ends = np.array([head[0], tail[-1]])
    seen = np.concatenate([head, tail]) if tail is not head else head
    ascending = not _missing(seen).any() and bool((seen[1:] >= seen[:-1]).all())
    if ends.dtype.kind == "M":
        return Bounds(_pair(ends.view(np.int64)), ascending, _nanoseconds(ends))
    return Bounds(_pair(ends), ascending, None)


def _pair(ends: npt.NDArray[Any]) -> tuple[int, int] | tuple[float, float]:
    first, last = ends.tolist()
    return first, last


def _missing(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where values are NaT or NaN: nothing else differs from itself."""
    return np.asarray(values != values)  # noqa: PLR0124


def _nanoseconds(ends: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Ends in nanoseconds, if their way there and back loses nothing."""
    fine = ends.astype("<M8[ns]")
    same = bool((fine.astype(ends.dtype) == ends).all())
    return fine.view(np.int64) if same else None
