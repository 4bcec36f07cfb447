"""Whole files of every data model, small, to make damaged ones of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import netCDF4
import numpy as np
import numpy.typing as npt

from tests.granules_twins import gsfc_twin, sentinel3_wave_twin, sentinel6_twin
from zcollection_engine.granules.model import GranuleSpec

#: Bytes that the values of a granule may take here; the largest seed takes a tenth of it.
MAX_NBYTES = 32 << 20

_ROWS = 24


class Seed(NamedTuple):
    """A file, and how it is read."""

    name: str
    data: bytes
    spec: GranuleSpec


@cache
def seeds() -> tuple[Seed, ...]:
    """Return the same files at every call; with one netCDF library also in every process."""
    at_root = GranuleSpec("/time", max_nbytes=MAX_NBYTES)
    in_group = GranuleSpec("/data_01/time", attributes={"pass_number": "uint16"}, max_nbytes=MAX_NBYTES)
    made = [
        ("classic, fixed", _written("NETCDF3_CLASSIC", _ROWS, _fixed), at_root),
        ("classic, records", _written("NETCDF3_CLASSIC", None, _records), at_root),
        ("classic, one record variable", _written("NETCDF3_CLASSIC", None, _nothing), at_root),
        ("64-bit offset, records", _written("NETCDF3_64BIT_OFFSET", None, _records), at_root),
        ("64-bit offset, streamed", _streamed(_written("NETCDF3_64BIT_OFFSET", None, _records)), at_root),
        ("64-bit data", _written("NETCDF3_64BIT_DATA", None, _wide), at_root),
        ("64-bit data, fixed", _written("NETCDF3_64BIT_DATA", _ROWS, _fixed), at_root),
        ("NetCDF-4 with groups", sentinel6_twin(99, rows=_ROWS).data, in_group),
        ("NetCDF-4 with text and a table", gsfc_twin(rows=_ROWS).data, at_root),
        ("NetCDF-4 classic", sentinel3_wave_twin(rows=_ROWS).data, at_root),
        ("NetCDF-4 with strings", _written("NETCDF4", _ROWS, _strings), at_root),
        ("NetCDF-4 compressed, unlimited", _written("NETCDF4", None, _compressed), at_root),
        ("NetCDF-4 with types of its own", _written("NETCDF4", _ROWS, _own_types), at_root),
    ]
    return tuple(Seed(*each) for each in made)


def _written(model: str, rows: int | None, build: Callable[[netCDF4.Dataset], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seed.nc")
        with netCDF4.Dataset(path, "w", format=cast("Any", model)) as dataset:
            dataset.set_auto_maskandscale(False)
            dataset.createDimension("time", rows)
            time = dataset.createVariable("time", "f8", ("time",))
            time.setncatts({"units": "seconds since 2000-01-01", "standard_name": "time", "calendar": "gregorian"})
            time[:] = 7e8 + np.arange(_ROWS)
            dataset.setncatts({"title": "a granule", "history": "made by a test", "cycle": np.int32(7)})
            build(dataset)
        return path.read_bytes()


def _streamed(data: bytes) -> bytes:
    return data[:4] + b"\xff" * 4 + data[8:]


def _add(
    dataset: netCDF4.Dataset,
    name: str,
    dtype: Any,
    dimensions: tuple[str, ...],
    values: npt.ArrayLike,
    **options: Any,
) -> Any:
    variable = dataset.createVariable(name, dtype, dimensions, **options)
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    variable[:] = values
    return variable


def _nothing(_dataset: netCDF4.Dataset) -> None:
    """A file with the time alone."""


def _fixed(dataset: netCDF4.Dataset) -> None:
    _common(dataset)
    dataset.createDimension("level", 3)
    _add(dataset, "profile", "f4", ("level", "time"), np.arange(3 * _ROWS).reshape(3, _ROWS), fill_value=np.nan)


def _common(dataset: netCDF4.Dataset) -> None:
    dataset.createDimension("width", 6)
    ssh = _add(dataset, "ssh", "i2", ("time",), np.arange(_ROWS), fill_value=32767)
    ssh.setncatts({"scale_factor": 1e-3, "add_offset": 0.5, "valid_range": np.array([-9, 9], "i2")})
    text = np.array([list(f"row{row:<3}") for row in range(_ROWS)], "S1")
    _add(dataset, "label", "S1", ("time", "width"), text)
    _add(dataset, "scale", "f8", (), 2.5)


def _records(dataset: netCDF4.Dataset) -> None:
    _common(dataset)
    dataset.createDimension("pair", 2)
    _add(dataset, "flag", "i1", ("time",), np.arange(_ROWS) % 3)
    _add(dataset, "limits", "i4", ("time", "pair"), np.arange(2 * _ROWS).reshape(_ROWS, 2), fill_value=-1)


def _wide(dataset: netCDF4.Dataset) -> None:
    _records(dataset)
    _add(dataset, "big", "u8", ("time",), np.arange(_ROWS, dtype="u8") + (1 << 63))
    _add(dataset, "signed", "i8", ("time",), -np.arange(_ROWS))
    _add(dataset, "small", "u1", ("time",), np.arange(_ROWS))


def _strings(dataset: netCDF4.Dataset) -> None:
    remark = dataset.createVariable("remark", str, ("time",))
    for row in range(0, _ROWS, 2):
        remark[row] = f"été {row}"
    remark.setncattr_string("names", ["a", "ü"])
    dataset.createVariable("unit", str, ())[...] = "m"
    dataset.createDimension("width", 4)
    _add(dataset, "code", "S1", ("time", "width"), np.full((_ROWS, 4), b"x"), fill_value=b"\0")


def _compressed(dataset: netCDF4.Dataset) -> None:
    dataset.createDimension("level", 4)
    values = np.arange(_ROWS * 4).reshape(_ROWS, 4)
    options: dict[str, Any] = {"zlib": True, "complevel": 4, "shuffle": True}
    _add(dataset, "range", "i4", ("time", "level"), values, chunksizes=(7, 4), fill_value=-1, **options)
    _add(dataset, "waveform", "f4", ("time", "level"), values, chunksizes=(5, 3), fletcher32=True, **options)
    _add(dataset, "quality", "i1", ("time",), np.zeros(_ROWS), **options)
    group = dataset.createGroup("ku").createGroup("deep")
    _add(group, "swh", "i2", ("time",), np.arange(_ROWS), chunksizes=(6,), fill_value=32767, **options)


def _own_types(dataset: netCDF4.Dataset) -> None:
    flag = dataset.createEnumType("u1", "flag_t", {"good": 0, "bad": 1})
    _add(dataset, "flag", flag, ("time",), np.arange(_ROWS, dtype="u1") % 2)
    _add(dataset, "big", ">i4", ("time",), np.arange(_ROWS), endian="big")
    _add(dataset, "checked", "f8", ("time",), np.arange(_ROWS), fletcher32=True)
