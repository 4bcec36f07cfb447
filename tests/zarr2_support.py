"""Collections in Zarr v2 for tests, and what readers that know nothing of the log see of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import xarray as xr
import zarr

from tests.engine_support import FakeClock, heights, plain_store, small_schema
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.layout.formats import Zarr2
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.transaction import WriterOptions

BANDS = (1.5, 2.5, 3.5)
DAY = 86_400
HIDDEN = ".generations"
CHUNK_ROWS = 4

ZARR2 = Zarr2()

_DAYS = (timedelta(days=day) for day in itertools.count())


def schema() -> Schema:
    """Text, two dimensions, and values without rows; four rows a chunk, and two numbers of the other dimension."""
    extra = [
        Variable("label", "string", ("time",), (CHUNK_ROWS,)),
        Variable("profile", "<f8", ("time", "band"), (CHUNK_ROWS, 2)),
        Variable("band", "<f8", ("band",), (2,), attributes={"units": "Hz"}),
    ]
    return replace(small_schema(chunk_rows=CHUNK_ROWS, extra=extra), zarr_format=2)


def rows(values: Iterable[int], offset: int = 0) -> xr.Dataset:
    """Rows for `schema`, one a second after the start."""
    points = np.fromiter(values, np.int64)
    profile = np.outer(points + offset, BANDS)
    profile[::3] = np.nan
    return heights(points, offset=offset).assign(
        label=("time", np.array([f"row {v} of {offset}" for v in points], dtype=object)),
        profile=(("time", "band"), profile),
        band=("band", np.array(BANDS), {"units": "Hz"}),
    )


def created(store: ObjectStore, clock: FakeClock | None = None, *, owner: str = "maker", **options: Any) -> Collection:
    """An empty collection, opened for writing."""
    bands = Granule("first", "time", "time", {"band": GranuleVariable(("band",), np.array(BANDS))})
    return create_collection(
        store,
        schema(),
        DatePartitioning("time", "day"),
        immutable=bands,
        writer=WriterOptions(owner=owner, **options),
        clock=clock or FakeClock(),
    )


def opened(store: ObjectStore, clock: FakeClock | None = None, *, owner: str = "maker", **options: Any) -> Collection:
    """The same collection by another process, later: what it inserts has the higher precedence."""
    later = clock or FakeClock(datetime(2025, 1, 1, tzinfo=UTC) + next(_DAYS))
    return open_collection(store, mode="w", writer=WriterOptions(owner=owner, **options), clock=later)


def filled(store: ObjectStore, clock: FakeClock | None = None) -> Collection:
    """Nine rows, rewritten once and appended to; three rows that nothing was done to; each known to be published."""
    collection = created(store, clock)
    collection.insert(rows([*range(9), DAY, DAY + 1, DAY + 2]), granule="first")
    collection.insert(rows([3, 4], offset=100), granule="second")
    collection.insert(rows([20, 21]), granule="third")
    collection.insert(rows([DAY + 20]), granule="fourth")
    return collection


def commit_without_publishing(collection: Collection) -> None:
    """Leave what a writer leaves that dies right behind its commits."""
    committer = collection._writing()
    committer.publish = lambda paths, *, arrays: None  # type: ignore[method-assign]


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def chunk_keys(store: ObjectStore, prefix: str) -> list[str]:
    """Keys of all objects below a folder that are no documents."""
    return [key for key in keys(store, prefix) if not key.rpartition("/")[2].startswith(".z")]


def public(store: ObjectStore, path: str) -> list[str]:
    """Keys of the chunks of a partition where plain readers find them."""
    return [key for key in chunk_keys(store, f"{path}/") if f"/{HIDDEN}/" not in key]


def private(store: ObjectStore, path: str, space: int) -> list[str]:
    """Keys of the chunks in one of the spaces that only the engine reads."""
    return chunk_keys(store, f"{path}/{HIDDEN}/{space}/")


def shown(store: ObjectStore, path: str) -> tuple[int, int]:
    """Generation and rows that a partition's document tells."""
    metadata = json.loads(store.get(f"{path}/.zmetadata").data)["metadata"]
    return metadata[".zattrs"]["zcollection_generation"], metadata["time/.zarray"]["shape"][0]


Columns = dict[str, list[Any]]


def engine_columns(collection: Collection, path: str) -> Columns:
    """Stored values by variable, as the engine reads them."""
    loaded = collection.load([path], decode=False)
    assert isinstance(loaded, xr.Dataset)
    return _columns({str(name): loaded[name].values for name in loaded.variables if name != "band"})


def plain_columns(store: ObjectStore, path: str) -> Columns:
    """The same as xarray reads them, by consolidated metadata."""
    inner = plain_store(store, path)
    with xr.open_zarr(inner, consolidated=True, zarr_format=2, chunks=None, decode_cf=False) as group:
        return _columns({str(name): group[name].values for name in group.variables})


def array_columns(store: ObjectStore, path: str, names: Sequence[str]) -> Columns:
    """The same as those see them who open single arrays."""
    inner = plain_store(store, path)
    arrays = {name: zarr.open_array(inner, path=name, mode="r", zarr_format=2) for name in names}
    return _columns({name: np.asarray(array[...]) for name, array in arrays.items()})


def _columns(values: dict[str, Any]) -> Columns:
    """Lists, so that NaN equals NaN and text is text."""
    found: Columns = {}
    for name, array in sorted(values.items()):
        plain = np.asarray(array).astype(np.int64) if array.dtype.kind == "M" else np.asarray(array)
        found[name] = [str(value) for value in plain.ravel().tolist()] + [str(plain.shape)]
    return found


def check_readers(store: ObjectStore) -> dict[str, int]:
    """See that every kind of reader sees the last commit in all partitions; return their rows."""
    collection = open_collection(store)
    for partition in collection.partitions():
        expected = engine_columns(collection, partition.path)
        assert plain_columns(store, partition.path) == expected
        assert array_columns(store, partition.path, list(expected)) == expected
        assert shown(store, partition.path) == (partition.generation, partition.rows)
    empty = [p.path for p in collection.state.partitions.values() if not p.rows]
    assert all(shown(store, path)[1] == 0 for path in empty)
    return {p.path: p.rows for p in collection.partitions()}


def check_copies(store: ObjectStore) -> None:
    """The same by bytes: documents tell the log's last commit, and the copies are what they are copies of. Fast."""
    for path, state in open_collection(store).state.partitions.items():
        assert shown(store, path) == (state.generation, state.rows)
        if state.generation:
            folder = f"{path}/{ZARR2.folder(state.generation)}/"
            for key in chunk_keys(store, folder):
                first = int(key.rpartition("/")[2].split(".")[0]) * CHUNK_ROWS
                copy = f"{path}/{key.removeprefix(folder)}"
                if first < state.rows:
                    # Behind the last row of a chunk may stand what never came to a commit.
                    assert first + CHUNK_ROWS > state.rows or store.get(copy).data == store.get(key).data
                    assert store.get(copy).data
