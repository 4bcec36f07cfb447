"""Builders for tests of the engine: a clock that is turned by hand, small schemas, datasets, entries of the ledger."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from zcollection_engine.chunking import provenance_variable
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share, TimeSeries
from zcollection_engine.schema import (
    TIME_CALENDAR,
    TIME_UNITS,
    Dimension,
    Schema,
    Variable,
)

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
            self._elapsed += timedelta(seconds=seconds)

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
