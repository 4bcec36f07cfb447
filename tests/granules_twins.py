"""Small NetCDF twins of four real products: their structure and names, values drawn from a seed.

Every function is pure: the same arguments give the same bytes (with the same netCDF library).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import netCDF4
import numpy as np
import numpy.typing as npt

#: Bytes that the library sets aside for a file in memory at first; it grows.
_MEMORY = 1 << 16

_J2000 = datetime(2000, 1, 1, tzinfo=UTC)
_I1, _I2, _I4 = 127, 32767, 2147483647

_FIRST_PASS = 99
_FIRST_START = 756083626.507816
_PASS_SECONDS = 3373.0
#: Rows of two passes have the same time, the end of the first and the start of the second.
SHARED_BOUNDARY = (108, 109)
#: Pass, and the seconds that are missing inside it.
GAPS = {103: 206.0, 109: 62.0}


class Twin(NamedTuple):
    """A file: its name, like a real one, and its bytes."""

    name: str
    data: bytes


def sentinel6_times(pass_number: int, *, rows: int = 200) -> npt.NDArray[np.float64]:
    """Return the times of a pass in seconds since 2000-01-01, shape (rows,).

    Pass 99 straddles midnight of 2023-12-17; 108 ends at the very time 109 begins; 103 and 109 have gaps.
    """
    start = _FIRST_START + (pass_number - _FIRST_PASS) * _PASS_SECONDS
    duration = _PASS_SECONDS if pass_number == SHARED_BOUNDARY[0] else _PASS_SECONDS - 1.0
    gap = GAPS.get(pass_number, 0.0)
    times = start + np.arange(rows, dtype=np.float64) * ((duration - gap) / (rows - 1))
    times[rows // 2 :] += gap
    times[-1] = start + duration
    return times.astype(np.float64)


def sentinel6_twin(pass_number: int, *, rows: int = 200, cycle: int = 114, seed: int = 0) -> Twin:
    """Return one pass of altimetry: groups /data_01, /data_01/ku and /data_01/c with the time in /data_01.

    Parameters
    ----------
    pass_number
        99 and following, in the order of time; a global attribute of the file, as the cycle is.
    rows
        Length of /data_01/time.
    cycle
        Cycle number.
    seed
        Of the values.
    """
    random = np.random.default_rng([seed, cycle, pass_number])
    times = sentinel6_times(pass_number, rows=rows)
    with _File() as dataset:
        file = dataset.file
        begin, end = _moment(_J2000, times[0]), _moment(_J2000, times[-1])
        file.setncatts(
            {
                "Convention": "CF-1.7",
                "institution": "EUMETSAT",
                "title": "L2 LR Non Time Critical",
                "history": "2024-01-10 06:57:31 : Creation",
                "mission_name": "Sentinel-6A",
                "cycle_number": np.int32(cycle),
                "pass_number": np.int32(pass_number),
                "first_measurement_time": begin.isoformat(),
            }
        )
        _sentinel6_groups(file, times, random)
    kind = "NT" if pass_number == _FIRST_PASS else "ST"
    period = f"{begin:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}"
    name = f"S6A_P4_2__LR_RED__{kind}_{cycle:03d}_{pass_number:03d}_{period}_F08.nc"
    return Twin(name, dataset.data)


def _sentinel6_groups(file: netCDF4.Dataset, times: npt.NDArray[np.float64], random: np.random.Generator) -> None:
    rows = len(times)
    main, ku, c = (file.createGroup(path) for path in ("/data_01", "/data_01/ku", "/data_01/c"))
    main.createDimension("time", rows)
    time = _variable(main, "time", "f8", times)
    time.setncatts({"long_name": "time in UTC", "standard_name": "time", "calendar": "Gregorian"})
    time.setncatts({"units": "seconds since 2000-01-01 00:00:00.0", "tai_utc_difference": 37.0})
    time.setncatts({"leap_second": "0000-00-00_00:00:00"})
    longitude = np.linspace(68.0, 233.0, rows) * 1e6
    latitude = np.linspace(-66.0, 66.0, rows) * 1e6
    _packed(main, "longitude", "i4", longitude, units="degrees_east", scale_factor=1e-6)
    _packed(main, "latitude", "i4", latitude, units="degrees_north", scale_factor=1e-6)
    altitude = _random(random, rows, -30_000, 500_000_000)
    _packed(main, "altitude", "i4", altitude, units="m", scale_factor=1e-4, add_offset=1300000.0)
    _packed(main, "dac", "i2", _random(random, rows, -3000, 3000, _I2), units="m", scale_factor=1e-4)
    _packed(main, "distance_to_coast", "i2", _random(random, rows, 0, 20000), units="m", scale_factor=100.0)
    flag = _packed(main, "surface_classification_flag", "i1", _random(random, rows, 0, 7, _I1))
    flag.setncatts({"flag_values": np.arange(7, dtype="i1"), "flag_meanings": "ocean land water ice veg snow sea"})
    for group, shift in ((ku, 0), (c, 1)):
        values = _random(random, rows, -20_000_000, 400_000_000, _I4) + shift
        values[values > _I4] = _I4
        _packed(group, "range_ocean", "i4", values, units="m", scale_factor=1e-4, add_offset=1300000.0)
    _packed(ku, "ssha", "i4", _random(random, rows, -20_000, 20_000, _I4), units="m", scale_factor=1e-4)
    _packed(ku, "swh_ocean", "i2", _random(random, rows, 0, 12_000, _I2), units="m", scale_factor=1e-3)
    _packed(ku, "sig0_ocean", "i2", _random(random, rows, 500, 3000, _I2), units="dB", scale_factor=1e-2)
    _packed(ku, "swh_ocean_qual", "i1", _random(random, rows, 0, 2, _I1))


def sentinel3_wave_twin(
    start: str = "2020-11-01T00:00:00", *, rows: int = 300, version: str = "5_0", seed: int = 0
) -> Twin:
    """Return three hours of wave heights in a NetCDF-4 classic file, with a gap of 11 minutes in the middle.

    Parameters
    ----------
    start
        ISO time at which the three hours begin.
    rows
        Length of the dimension time.
    version
        Product version, a global attribute that changes over the years.
    seed
        Of the values.
    """
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    random = np.random.default_rng([seed, int(begin.timestamp())])
    seconds = (begin - _J2000).total_seconds() + np.linspace(0.0, 10_100.25, rows)
    seconds[rows // 2 :] += 11 * 60.0
    with _File("NETCDF4_CLASSIC") as dataset:
        file = dataset.file
        file.setncatts({"Conventions": "CF-1.6", "platform": "Sentinel-3A", "processing_level": "L3"})
        file.setncatts({"title": "NRT Sentinel-3A along track significant wave height", "product_version": version})
        file.setncatts({"creation_date": (begin + timedelta(hours=6)).isoformat()})
        file.createDimension("time", rows)
        time = _variable(file, "time", "f8", seconds)
        time.setncatts({"long_name": "time (sec. since 2000-01-01)", "standard_name": "time", "axis": "T"})
        time.setncatts({"units": "seconds since 2000-01-01 00:00:00.0", "calendar": "gregorian"})
        for name, low, high in (("latitude", -81_000_000, 81_000_000), ("longitude", 0, 360_000_000)):
            variable = _variable(file, name, "i4", random.integers(low, high, rows))
            variable.setncatts({"scale_factor": 1e-6, "standard_name": name, "valid_min": np.int32(low)})
        for name in ("VAVH", "VAVH_UNFILTERED", "WIND_SPEED"):
            values = _random(random, rows, 0, 12_000, -32767)
            variable = _packed(file, name, "i2", values, fill=-32767, units="m", scale_factor=1e-3)
            variable.setncatts({"valid_min": np.int16(0), "coordinates": "longitude latitude"})
    stamps = "_".join(f"{begin + timedelta(hours=h):%Y%m%dT%H%M%S}" for h in (0, 3, 6))
    return Twin(f"global_vavh_l3_rt_s3a_{stamps}.nc", dataset.data)


def gsfc_twin(day: str = "2022-01-01", *, rows: int = 400, seed: int = 0) -> Twin:
    """Return one day of sea surface heights.

    It has a variable of two dimensions (source_flag), a table of characters without time (basin_names_table, the same
    for every day and seed), and the fill values 1.797e308 and NaN.

    Parameters
    ----------
    day
        ISO date.
    rows
        Length of the dimension time.
    seed
        Of the values.
    """
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    random = np.random.default_rng([seed, begin.toordinal()])
    huge = float(np.finfo(np.float64).max)
    with _File() as dataset:
        file = dataset.file
        file.setncatts({"Conventions": "CF-1.7", "title": "Standardized Along-Track Sea Surface Height"})
        file.setncatts({"time_coverage_start": f"{day}T00:00:00Z", "project": "NASA-SSH", "creator_email": ""})
        for name, size in (("time", rows), ("src_flag_dim", 6), ("basin_name_dim", 5), ("string33", 33)):
            file.createDimension(name, size)
        seconds = (begin - datetime(1990, 1, 1, tzinfo=UTC)).total_seconds() + np.linspace(0.0, 86_211.5, rows)
        time = _variable(file, "time", "f8", seconds, fill=np.nan)
        time.setncatts({"units": "seconds since 1990-01-01", "calendar": "proleptic_gregorian"})
        time.setncatts({"standard_name": "time", "REFTime": "1990-01-01 00:00:00"})
        for name in ("ssh", "ssh_smoothed"):
            values = random.normal(0.0, 0.2, rows)
            values[random.random(rows) < 0.1] = huge
            _variable(file, name, "f8", values, fill=huge).setncatts({"units": "m", "mean_sea_surface": "DTU21"})
        for name, limit in (("latitude", 66.0), ("longitude", 180.0)):
            values = random.uniform(-limit, limit, rows).astype("f4")
            values[0] = np.nan
            _variable(file, name, "f4", values, fill=np.nan).units = "degrees"
        _variable(file, "cycle", "i4", np.full(rows, 1073), fill=_I4)
        _variable(file, "nasa_flag", "i1", _random(random, rows, 0, 2, _I1), fill=_I1)
        flags = random.integers(0, 2, (rows, 6))
        _variable(file, "source_flag", "i1", flags, ("time", "src_flag_dim"), fill=_I1)
        names = ["1,Arctic Ocean", "2,SOUTHERN OCEAN", "1001,Feature ID: 1001", "4,Île", ""]
        table = np.array([list(name.encode().ljust(33, b"\0")) for name in names], dtype="u1").view("S1")
        _variable(file, "basin_names_table", "S1", table, ("basin_name_dim", "string33"))
    return Twin(f"GSFC-alt_ssh{begin:%Y%m%d}.nc", dataset.data)


def quirk_twins() -> dict[str, bytes]:
    """Return files that cannot be ingested, by name: no rows, undecodable units, cut, without bytes, plain text."""
    whole = sentinel6_twin(_FIRST_PASS, rows=50).data
    return {
        "empty_time_0.nc": _with_time(np.zeros(0), "seconds since 1990-01-01"),
        "undecodable_time_units.nc": _with_time(np.arange(20.0), "UTC seconds since 00:00:00 1-Jan-2000"),
        "truncated_hdf5.nc": whole[: len(whole) // 2],
        "zero_bytes.nc": b"",
        "plain_text.nc": b"this is not a netcdf file\n",
    }


def _with_time(times: npt.NDArray[np.float64], units: str) -> bytes:
    with _File() as dataset:
        dataset.file.createDimension("time", len(times))
        _variable(dataset.file, "time", "f8", times).units = units
        _variable(dataset.file, "elevation", "f8", np.zeros(len(times))).units = "m"
    return dataset.data


class _File:
    """A file in memory; ``data`` are its bytes once it is closed."""

    def __init__(self, model: str = "NETCDF4") -> None:
        self.file = netCDF4.Dataset("twin", "w", memory=_MEMORY, format=model)  # type: ignore[arg-type]
        self.data = b""

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        buffer = bytes(self.file.close())
        self.data = buffer[: _end_of_file(buffer)]


def _end_of_file(buffer: bytes) -> int:
    """End of the file in the buffer that the library returns, which is longer: its address in an HDF5 superblock."""
    begin = {0: 40, 2: 28, 3: 28}[buffer[8]]
    return int.from_bytes(buffer[begin : begin + 8], "little")


def _variable(
    group: netCDF4.Dataset,
    name: str,
    dtype: str,
    values: npt.ArrayLike,
    dimensions: tuple[str, ...] = ("time",),
    *,
    fill: float | None = None,
) -> Any:
    variable = group.createVariable(name, dtype, dimensions, fill_value=fill)
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    variable[...] = np.asarray(values).astype(dtype)
    return variable


def _packed(
    group: netCDF4.Dataset, name: str, dtype: str, values: npt.ArrayLike, *, fill: int | None = None, **attributes: Any
) -> Any:
    limits = {"i1": _I1, "i2": _I2, "i4": _I4}
    variable = _variable(group, name, dtype, values, fill=limits[dtype] if fill is None else fill)
    variable.long_name = name.replace("_", " ")
    variable.setncatts(attributes)
    return variable


def _random(
    random: np.random.Generator, rows: int, low: int, high: int, fill: int | None = None
) -> npt.NDArray[np.int64]:
    values = random.integers(low, high, rows)
    if fill is not None:
        values[random.random(rows) < 0.05] = fill
    return values


def _moment(origin: datetime, seconds: float) -> datetime:
    return origin + timedelta(seconds=float(seconds))
