"""Trees as released zcollection lays them out, made by hand: for imports and conversions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import numcodecs
import numpy as np
import numpy.typing as npt

from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore

Values = npt.NDArray[Any]

JANUARY, FEBRUARY = "year=2000/month=01", "year=2000/month=02"
BY_MONTH = {"id": "Date", "variables": ["time"], "resolution": "M"}
BY_PASS = {"id": "Sequence", "variables": ["cycle", "pass"]}

BLOSC = numcodecs.Blosc("lz4", 5)
LON = np.array([1.5, 2.5, 3.5])


def hours(start: str, count: int, unit: str = "ns") -> Values:
    """Times, one an hour."""
    return np.datetime64(start, unit) + np.arange(count) * np.timedelta64(1, "h")


def rows(times: Values, salt: int = 0, **more: Values) -> dict[str, Values]:
    """Values of a partition: a packed integer, a profile of three, a label."""
    numbers = np.arange(len(times))
    return {
        "time": times,
        "packed": (numbers + salt).astype("<i4"),
        "profile": (numbers[:, None] * 10 + np.arange(3) + salt).astype("<f4"),
        "label": np.array([f"row {n + salt}" for n in numbers], object),
        **more,
    }


def by_month(unit: str = "ns") -> dict[str, dict[str, Values]]:
    """Five and nine rows."""
    return {
        JANUARY: rows(hours("2000-01-10", 5, unit)),
        FEBRUARY: rows(hours("2000-02-03", 9, unit), 50),
    }


def by_pass() -> dict[str, dict[str, Values]]:
    """Two passes of two cycles, the tenth among them."""
    found = {}
    for number, (cycle, track) in enumerate([(2, 9), (2, 10), (10, 1)]):
        numbers = {"cycle": np.full(4, cycle, "<i2"), "pass": np.full(4, track, "<i2")}
        found[f"cycle={cycle}/pass={track}"] = rows(hours(f"2000-01-0{number + 1}", 4), 10 * number, **numbers)
    return found


def write_tree(
    partitions: Mapping[str, Mapping[str, Values]],
    partitioning: Mapping[str, Any],
    *,
    chunks: Mapping[str, tuple[int, int]] | None = None,
    fixed: Mapping[str, Values] | None = None,
    big_endian: tuple[str, ...] = (),
) -> MemoryStore:
    """Write a tree.

    Parameters
    ----------
    chunks
        By partition: rows and pixels of a chunk; by default one chunk.
    fixed
        Variables without rows.
    big_endian
        Partitions in which numbers are stored so.
    """
    store = MemoryStore(f"memory://{uuid4().hex}")
    for path, members in partitions.items():
        swapped = (
            {n: v.astype(v.dtype.newbyteorder(">")) for n, v in members.items()} if path in big_endian else members
        )
        _write_group(store, path, swapped, (chunks or {}).get(path, (100, 100)))
    if fixed is not None:
        _write_group(store, ".immutable", fixed, (100, 100))
    first = next(iter(partitions.values()))
    variables = [_member(name, values) for name, values in {**first, **(fixed or {})}.items()]
    dataset = {"attrs": [["title", "a tree"]], "dimensions": ["time", "pixel"], "variables": variables}
    document = {"axis": "time", "dataset": dataset, "partitioning": dict(partitioning)}
    store.create(".zcollection", json.dumps(document, indent=4).encode())
    return store


def _dimensions(name: str, values: Values) -> list[str]:
    return ["pixel"] if name == "lon" else ["time", "pixel"][: values.ndim]


def _codecs(values: Values) -> dict[str, Any]:
    text = values.dtype == object
    return {
        "compressor": BLOSC.get_config(),
        "dtype": "|O" if text else values.dtype.str,
        "filters": [{"id": "vlen-utf8"}] if text else None,
    }


def _fill(values: Values) -> Any:
    return -1 if values.dtype.kind == "i" and values.dtype.itemsize == 4 else None


def _member(name: str, values: Values) -> dict[str, Any]:
    codecs = _codecs(values)
    return {
        **codecs,
        "attrs": [["scale_factor", 0.5]] if name == "packed" else [],
        "dimensions": _dimensions(name, values),
        "fill_value": _fill(values),
        "filters": codecs["filters"] or [],
        "name": name,
    }


def _write_group(store: ObjectStore, path: str, members: Mapping[str, Values], steps: tuple[int, int]) -> None:
    metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
    for name, values in members.items():
        cut = tuple(min(s, n) for s, n in zip(steps, values.shape, strict=False))
        metadata[f"{name}/.zarray"] = {
            **_codecs(values),
            "chunks": list(cut),
            "fill_value": _fill(values),
            "order": "C",
            "shape": list(values.shape),
            "zarr_format": 2,
        }
        attributes = {"scale_factor": 0.5} if name == "packed" else {}
        metadata[f"{name}/.zattrs"] = {**attributes, "_ARRAY_DIMENSIONS": _dimensions(name, values)}
        _write_chunks(store, f"{path}/{name}", values, cut)
    for key, document in metadata.items():
        store.create(f"{path}/{key}", json.dumps(document).encode())
    consolidated = {"metadata": metadata, "zarr_consolidated_format": 1}
    store.create(f"{path}/.zmetadata", json.dumps(consolidated).encode())


def _write_chunks(store: ObjectStore, folder: str, values: Values, cut: tuple[int, ...]) -> None:
    for index in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, cut, strict=True))):
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, cut, strict=True))]
        chunk = np.full(cut, "" if values.dtype == object else 0, values.dtype)
        chunk[tuple(slice(n) for n in part.shape)] = part
        plain = numcodecs.VLenUTF8().encode(chunk) if values.dtype == object else chunk
        store.create(f"{folder}/{'.'.join(map(str, index))}", bytes(BLOSC.encode(plain)))
