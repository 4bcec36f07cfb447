"""Synthetic granules of an altimeter, as NetCDF-4 in memory, and the order in which they are delivered.

40 granules are 40 objects of a bucket. They make 42 deliveries, since one object is delivered again as it was and one
is delivered again with changed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt

from daemon.demo.earth import PASS_SECONDS, PASSES_PER_CYCLE, Floats, Track, Waves, is_land

GRANULES = 40

#: Begin of the first pass: so that two of the granules straddle midnight.
START = datetime(2026, 3, 9, 1, 0, tzinfo=UTC)

PREFIX = "incoming/"
PATTERN = "DEMO_L2_1HZ_*.nc"

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_CYCLE, _FIRST_PASS = 37, 101
_SAMPLING = 1.02

#: Two passes are delivered, three are not, and so on: neighbours in the collection with gaps between.
_GROUP, _DELIVERED = 5, 2

#: Which granule gets which part to play, counted along the track.
_TWICE, _REPLACED, _TRUNCATED, _WRONG_SCHEMA = 6, 13, 22, 31

_FILL: Mapping[str, int] = {"i1": 127, "i2": 32767, "i4": 2147483647}


class Kind(StrEnum):
    """What is special about a delivery."""

    GOOD = "good"
    MIDNIGHT = "straddles midnight"
    REPEATED = "the same object again"
    CHANGED = "the same key again, with changed values"
    TRUNCATED = "truncated"
    WRONG_SCHEMA = "wrong schema"


@dataclass(frozen=True, slots=True)
class DemoGranule:
    """A delivery of a granule.

    Attributes
    ----------
    key
        Of the object.
    data
        Its content.
    rows
        Of the granule, before anything happened to it.
    kind
        What is special about it.
    note
        The same for people; empty for a good granule like the others.
    """

    key: str
    data: bytes
    rows: int
    kind: Kind = Kind.GOOD
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Pass:
    """Which piece of the track a granule covers."""

    number: int
    seed: int

    @property
    def start(self) -> datetime:
        return START + timedelta(seconds=PASS_SECONDS * self.number)

    @property
    def cycle_number(self) -> int:
        return _CYCLE + (_FIRST_PASS - 1 + self.number) // PASSES_PER_CYCLE

    @property
    def pass_number(self) -> int:
        return (_FIRST_PASS - 1 + self.number) % PASSES_PER_CYCLE + 1

    @property
    def key(self) -> str:
        return f"{PREFIX}DEMO_L2_1HZ_{self.cycle_number:03d}_{self.pass_number:03d}_{self.start:%Y%m%dT%H%M%S}.nc"

    @property
    def seconds(self) -> Floats:
        """Times of the rows since `START`; the instrument is off for a moment at the end of some passes."""
        rows = int(PASS_SECONDS / _SAMPLING) - int(np.random.default_rng([self.seed, self.number]).integers(0, 40))
        return PASS_SECONDS * self.number + _SAMPLING * np.arange(rows, dtype=np.float64)

    @property
    def straddles_midnight(self) -> bool:
        return (START + timedelta(seconds=float(self.seconds[-1]))).date() != self.start.date()


@dataclass(frozen=True, slots=True)
class _Column:
    """How a variable is stored."""

    dtype: str
    scale: float | None
    offset: float | None
    units: str
    long_name: str
    extra: Mapping[str, object] | None = None


_TIME = _Column("f8", None, None, "seconds since 2000-01-01 00:00:00.0", "time of the measurement", {"axis": "T"})
_QUALITY = {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "good bad"}
_SURFACE = {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "ocean land"}

_COLUMNS: Mapping[str, _Column] = {
    "time": _TIME,
    "latitude": _Column("i4", 1e-6, None, "degrees_north", "latitude", {"standard_name": "latitude"}),
    "longitude": _Column("i4", 1e-6, None, "degrees_east", "longitude", {"standard_name": "longitude"}),
    "altitude": _Column("i4", 1e-4, 1.3e6, "m", "height of the satellite above the ellipsoid"),
    "range_ku": _Column("i4", 1e-4, 1.3e6, "m", "distance to the surface, Ku band"),
    "mean_sea_surface": _Column("i4", 1e-4, None, "m", "mean sea surface above the ellipsoid"),
    "ssha": _Column("i2", 1e-3, None, "m", "sea surface height anomaly"),
    "swh": _Column("i2", 1e-3, None, "m", "significant wave height"),
    "sig0": _Column("i2", 1e-2, None, "dB", "backscatter coefficient, Ku band"),
    "wind_speed": _Column("i2", 1e-2, None, "m s-1", "wind speed from the altimeter"),
    "dry_troposphere": _Column("i2", 1e-4, None, "m", "correction of the range for the dry troposphere"),
    "wet_troposphere": _Column("i2", 1e-4, None, "m", "correction of the range for the wet troposphere"),
    "ionosphere": _Column("i2", 1e-4, None, "m", "correction of the range for the ionosphere"),
    "sea_state_bias": _Column("i2", 1e-4, None, "m", "correction of the range for the sea state"),
    "ocean_tide": _Column("i4", 1e-4, None, "m", "geocentric ocean tide"),
    "solid_earth_tide": _Column("i2", 1e-4, None, "m", "solid Earth tide"),
    "pole_tide": _Column("i2", 1e-4, None, "m", "pole tide"),
    "dynamic_atmosphere": _Column("i2", 1e-4, None, "m", "effect of wind and pressure on the sea surface"),
    "surface_type": _Column("i1", None, None, "", "kind of surface", _SURFACE),
    "quality_flag": _Column("i1", None, None, "", "quality of the measurement", _QUALITY),
}

#: Of these there is no value over land.
_AT_SEA = ("range_ku", "ssha", "swh", "sig0", "wind_speed", "sea_state_bias", "ocean_tide", "dynamic_atmosphere")


def make_granules(seed: int = 0) -> list[DemoGranule]:
    """Make the granules in the order of their times: 40 passes of 56 minutes over four days, with gaps.

    Each has about 3300 rows at 1 Hz and 20 variables, packed as altimetry products pack them. Two straddle midnight,
    one is truncated, one has the wrong schema. The same seed gives the same bytes.
    """
    numbers = [n for n in range(GRANULES * _GROUP // _DELIVERED) if n % _GROUP < _DELIVERED]
    return [_granule(position, _Pass(number, seed)) for position, number in enumerate(numbers)]


def make_deliveries(seed: int = 0) -> list[DemoGranule]:
    """Make all deliveries in the order in which they arrive: the 40 granules shuffled, then 2 of them once more."""
    granules = make_granules(seed)
    order = np.random.default_rng(seed).permutation(GRANULES).tolist()
    # A collection takes its schema from its first good granule, so that one has to be a good one indeed.
    order.remove(_WRONG_SCHEMA)
    order.insert(2 * GRANULES // 3, _WRONG_SCHEMA)
    again = granules[_TWICE]
    return [
        *(granules[position] for position in order),
        replace(again, kind=Kind.REPEATED, note="is delivered once more, byte for byte the same"),
        _changed(granules[_REPLACED], seed),
    ]


def _granule(position: int, part: _Pass) -> DemoGranule:
    values = _values(part)
    rows = values["time"].size
    if position == _WRONG_SCHEMA:
        columns = {**_COLUMNS, "ssha": _Column("f8", None, None, "cm", "sea surface height anomaly")}
        data = _netcdf(part, {**values, "ssha": values["ssha"] * 100}, columns)
        return DemoGranule(part.key, data, rows, Kind.WRONG_SCHEMA, "has ssha as float64 in centimetres")
    data = _netcdf(part, values)
    if position == _TRUNCATED:
        return DemoGranule(part.key, data[: len(data) // 2], rows, Kind.TRUNCATED, "was cut in half on its way")
    if part.straddles_midnight:
        return DemoGranule(part.key, data, rows, Kind.MIDNIGHT, "goes into two daily partitions")
    return DemoGranule(part.key, data, rows)


def _changed(first: DemoGranule, seed: int) -> DemoGranule:
    """A better orbit came: the altitude of one pass is 3 cm lower, and with it the sea surface."""
    number = _REPLACED // _DELIVERED * _GROUP + _REPLACED % _DELIVERED
    part = _Pass(number, seed)
    values = dict(_values(part))
    values["altitude"] = values["altitude"] - 0.03
    values["ssha"] = values["ssha"] - 0.03
    return replace(first, data=_netcdf(part, values), kind=Kind.CHANGED, note="has a better orbit: ssha is 3 cm lower")


def _values(part: _Pass) -> dict[str, Floats]:
    """Physical values of all variables, NaN where there is none; the sum of heights and corrections is exact."""
    track = Track(part.seconds)
    rng = np.random.default_rng([part.seed, part.number, 1])
    sea = _sea(track, part.seed, rng)
    land = is_land(track.longitude, track.latitude)
    bad = ~land & (rng.random(land.size) < 0.01)
    known = ("mean_sea_surface", "ssha", "dry_troposphere", "wet_troposphere", "ionosphere", "sea_state_bias")
    tides = ("ocean_tide", "solid_earth_tide", "pole_tide", "dynamic_atmosphere")
    values = {
        "time": (START - _EPOCH).total_seconds() + part.seconds,
        "latitude": track.latitude,
        "longitude": track.longitude,
        "altitude": track.altitude,
        "range_ku": track.altitude - sum(sea[name] for name in (*known, *tides)),
        **sea,
        "surface_type": land.astype(float),
        "quality_flag": (land | bad).astype(float),
    }
    for name in _AT_SEA:
        values[name] = np.where(land | bad, np.nan, values[name])
    return values


def _sea(track: Track, seed: int, rng: np.random.Generator) -> dict[str, Floats]:
    lat = track.latitude
    rows = lat.size
    # Long waves are worked out every 20 rows, some 120 km; the eddies in every row.
    nodes = np.unique([*range(0, rows, 20), rows - 1])

    def smooth(number: int, shortest: float = 3000.0, longest: float = 9000.0) -> Floats:
        values = Waves(1000 * seed + number, shortest, longest)(track.position[nodes])
        return np.interp(np.arange(rows), nodes, values)

    def noise(deviation: float) -> Floats:
        return rng.normal(0.0, deviation, rows)

    storms = np.exp(-(((lat + 52) / 14) ** 2)) + 0.7 * np.exp(-(((lat - 52) / 12) ** 2))
    wind = np.clip(5.5 + 5.0 * storms + 1.8 * smooth(1) + noise(0.4), 0.2, 28.0)
    swh = np.clip(1.2 + 2.8 * storms + 0.6 * smooth(2) + noise(0.12), 0.2, 14.0)
    eddies = 0.04 + 0.10 * np.exp(-(((np.abs(lat) - 40) / 9) ** 2))
    time_of_tide = 2 * np.pi * track.seconds / 44_714.0
    return {
        "mean_sea_surface": 32.0 * smooth(3, 6000.0, 14_000.0),
        "ssha": 0.07 * smooth(4) + eddies * Waves(1000 * seed + 5, 250.0, 900.0)(track.position) + noise(0.015),
        "swh": swh,
        "sig0": 15.5 - 0.28 * wind + noise(0.1),
        "wind_speed": wind,
        "dry_troposphere": -2.29 - 0.02 * smooth(6),
        "wet_troposphere": -0.05 - 0.26 * np.cos(np.deg2rad(lat)) ** 4 - 0.015 * smooth(7, 800.0, 3000.0),
        "ionosphere": -0.02 - 0.06 * np.cos(np.deg2rad(lat)) ** 2 + noise(0.003),
        "sea_state_bias": -0.037 * swh,
        "ocean_tide": 0.35 * smooth(8) * np.cos(time_of_tide) + 0.2 * smooth(9) * np.sin(time_of_tide),
        "solid_earth_tide": 0.10 * smooth(10, 9000.0, 15_000.0),
        "pole_tide": 0.005 * smooth(11, 9000.0, 15_000.0),
        "dynamic_atmosphere": 0.06 * smooth(12, 1500.0, 5000.0),
    }


def _netcdf(part: _Pass, values: Mapping[str, Floats], columns: Mapping[str, _Column] = _COLUMNS) -> bytes:
    file = netCDF4.Dataset("granule.nc", "w", format="NETCDF4", memory=1 << 18)  # a first guess of its bytes; it grows
    file.setncatts(
        {
            "Conventions": "CF-1.8",
            "title": "Synthetic along-track altimetry, 1 Hz",
            "mission_name": "none: made by the demonstration of zcollectiond",
            "comment": "synthetic values, good for nothing but a demonstration",
            "cycle_number": np.int32(part.cycle_number),
            "pass_number": np.int32(part.pass_number),
            "first_measurement_time": part.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    file.createDimension("time", values["time"].size)
    for name, column in columns.items():
        _write(file, name, column, values[name])
    return bytes(file.close())


def _write(file: netCDF4.Dataset, name: str, column: _Column, values: Floats) -> None:
    fill = _FILL.get(column.dtype)
    variable = file.createVariable(name, column.dtype, ("time",), zlib=True, complevel=1, shuffle=True, fill_value=fill)
    variable.set_auto_maskandscale(False)
    variable.long_name = column.long_name
    if column.units:
        variable.units = column.units
    if column.scale is not None:
        variable.scale_factor = column.scale
    if column.offset is not None:
        variable.add_offset = column.offset
    variable.setncatts(dict(column.extra or {}))
    variable[:] = values if fill is None else _packed(column, values, fill)


def _packed(column: _Column, values: Floats, fill: int) -> npt.NDArray[Any]:
    scaled = np.rint((values - (column.offset or 0.0)) / (column.scale or 1.0))
    dtype = np.dtype(column.dtype)
    limits = np.iinfo(dtype)
    if np.nanmin(scaled, initial=0) < limits.min or np.nanmax(scaled, initial=0) >= fill:
        raise ValueError(f"{column.long_name}: values outside of what {dtype.name} can hold at {column.scale}")
    return np.where(np.isnan(scaled), fill, scaled).astype(dtype)
