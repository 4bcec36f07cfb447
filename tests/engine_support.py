"""Builders for tests of the engine: a clock that is turned by hand, small schemas, datasets, entries of the ledger."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from zcollection_engine import Collection
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.clock import Clock
from zcollection_engine.commits.opening import load_state
from zcollection_engine.config import load_config
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.ingest import granule_from_dataset, prepare
from zcollection_engine.layout.chunkstore import open_variable
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.partitionstore import partition_store
from zcollection_engine.merging import Share, TimeSeries
from zcollection_engine.schema import (
    TIME_CALENDAR,
    TIME_UNITS,
    Dimension,
    Schema,
    Variable,
)
from zcollection_engine.stores.base import ObjectInfo, ObjectStore, StoredObject
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.transaction import Offer

DAY = 86_400 * 10**9
HOUR = 3_600 * 10**9

#: 2023-12-16, in nanoseconds since 1970.
START = int(np.datetime64("2023-12-16", "ns").astype(np.int64))

DAY_16 = "year=2023/month=12/day=16"
DAY_17 = "year=2023/month=12/day=17"


class FakeClock:
    """Time that passes only when someone sleeps, or by a microsecond whenever it is read."""

    def __init__(self, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = timedelta(0)
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> datetime:
        with self._lock:
            self._elapsed += timedelta(microseconds=1)
            return self._start + self._elapsed

    def monotonic(self) -> float:
        with self._lock:
            return self._elapsed.total_seconds()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self._elapsed += timedelta(seconds=max(seconds, 0.001))  # no real sleep is shorter

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._elapsed += timedelta(seconds=seconds)


def time_variable(path: str = "time", *, chunk_rows: int = 8) -> Variable:
    return Variable(path, "<i8", ("time",), (chunk_rows,), attributes={"units": TIME_UNITS, "calendar": TIME_CALENDAR})


def small_schema(*, chunk_rows: int = 8, extra: Iterable[Variable] = ()) -> Schema:
    """A time, a packed height, and the origin of the rows."""
    variables = (
        time_variable(chunk_rows=chunk_rows),
        Variable("height", "<i4", ("time",), (chunk_rows,), 2**31 - 1, {"scale_factor": 0.001, "units": "m"}),
        provenance_variable("time", chunk_rows),
        *extra,
    )
    dimensions = {d for v in variables for d in v.dimensions} - {"time"}
    sizes = {"band": 3, "side": 2}
    return Schema(
        "time",
        "time",
        (Dimension("time", None), *(Dimension(d, sizes[d]) for d in sorted(dimensions))),
        variables,
        {"title": "a small collection"},
    )


def times(values: Iterable[int], *, unit: int = 10**9) -> npt.NDArray[Any]:
    """Instants ``values`` units after `START` as datetime64[ns]."""
    return (START + np.fromiter(values, np.int64) * unit).astype("datetime64[ns]")


def heights(values: Iterable[int], *, unit: int = 10**9, offset: int = 0) -> xr.Dataset:
    """A dataset for `small_schema` with stored heights ``value + offset``."""
    points = np.fromiter(values, np.int64)
    height = xr.Variable("time", (points + offset).astype(np.int32), {"scale_factor": 0.001, "units": "m"})
    return xr.Dataset({"height": height}, coords={"time": times(points, unit=unit)})


def rows_of(dataset: xr.Dataset) -> list[tuple[int, int]]:
    """(seconds after `START`, stored height) of each row of an undecoded dataset."""
    seconds = (dataset["time"].values.astype(np.int64) - START) // 10**9
    return list(zip(seconds.tolist(), dataset["height"].values.tolist(), strict=True))


def entry(
    key: str,
    precedence: int,
    shares: Mapping[str, Sequence[int]],
    *,
    etag: str = "",
    strategy: TimeSeries | None = None,
) -> GranuleEntry:
    """An entry of the ledger for axis values by partition."""
    rule = strategy or TimeSeries()
    size = sum(len(values) for values in shares.values())
    return GranuleEntry(
        GranuleIdentity("bucket", key, etag or uuid.uuid4().hex, size),
        f"s3://bucket/{key}",
        (precedence,),
        {path: Share(len(v), rule.intervals(np.asarray(v))) for path, v in shares.items()},
    )


class S3LikeStore(MemoryStore):
    """Objects in memory as S3 keeps them: ETags are hashes of the content, times are a clock's."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url)
        self._clock = clock

    def _put(self, full: str, data: bytes) -> str:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        info = ObjectInfo(full, len(data), etag, self._clock.now())
        self._space.objects[full] = StoredObject(bytes(data), info)
        return etag

    def copy(self) -> S3LikeStore:
        """Return a store of its own with the same objects."""
        twin = S3LikeStore(f"memory://{uuid.uuid4().hex}", self._clock)
        for info in self.list():
            twin.create(info.key, self.get(info.key).data)
        return twin


def offer_of(collection: Collection, dataset: xr.Dataset, key: str, *, precedence: int = 1) -> Offer:
    """A granule of the same identity whenever it is made of the same arguments."""
    granule = granule_from_dataset(dataset, collection.schema, name=key)
    identity = GranuleIdentity("bucket", key, f"{precedence}", granule.nbytes)
    found, conformed = prepare(
        granule,
        collection.config,
        identity=identity,
        url=f"s3://bucket/{key}",
        precedence=(precedence,),
        immutable=collection.immutable,
    )
    return Offer(found, conformed)


Rows = list[tuple[int, int]]


def engine_rows(store: ObjectStore) -> dict[str, Rows]:
    """(seconds, stored height) of each row by partition, as the log says, chunks that are missing refused."""
    state = load_state(store)
    schema = load_config(store, state.config).config.schema
    found: dict[str, Rows] = {}
    for path, partition in sorted(state.partitions.items()):
        if partition.rows:
            version = Version(partition.commit, partition.generation, partition.rows)
            chunks = partition_store(store, path, schema, version)
            found[path] = _rows(*(open_variable(chunks, name)[:] for name in ("time", "height")))
    return found


def plain_rows(store: ObjectStore) -> dict[str, Rows]:
    """The same as plain zarr sees them, which knows nothing of the log, in every partition that has a document."""
    folder = plain_store(store)
    found: dict[str, Rows] = {}
    for path in _published(store):
        group = zarr.open_group(folder, path=path, mode="r")
        rows = _rows(*(np.asarray(group[name][:]) for name in ("time", "height")))
        if rows:
            found[path] = rows
    return found


def plain_columns(store: ObjectStore, name: str) -> dict[str, list[int]]:
    """The stored values of one array by partition, as those see them who open single arrays."""
    folder = plain_store(store)
    found = {}
    for path in _published(store):
        array = zarr.open_array(folder, path=f"{path}/{name}", mode="r")
        found[path] = np.asarray(array[:]).tolist()
    return found


def _rows(time: Any, height: Any) -> Rows:
    seconds = (np.asarray(time).astype(np.int64) - START) // 10**9
    return list(zip(seconds.tolist(), np.asarray(height).tolist(), strict=True))


def _published(store: ObjectStore) -> list[str]:
    keys = [info.key for info in store.list() if "=" in info.key]
    groups = [k.removesuffix("/zarr.json") for k in keys if k.endswith("/zarr.json")]
    flat = [k.removesuffix("/.zmetadata") for k in keys if k.endswith("/.zmetadata")]
    found = [k for k in groups if b'"consolidated_metadata"' in store.get(f"{k}/zarr.json").data]
    return sorted([*found, *flat])


def plain_store(store: ObjectStore, path: str = "") -> zarr.storage.MemoryStore:
    """The same objects as zarr-python takes them; of one partition, if ``path`` names it."""
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    folder = f"{path}/" if path else ""
    objects = {i.key.removeprefix(folder): store.get(i.key).data for i in store.list(folder)}
    return zarr.storage.MemoryStore({key: make(data) for key, data in objects.items()})
