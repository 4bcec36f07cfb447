"""What a NetCDF file holds, read with the library directly, held against a granule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import cftime
import netCDF4
import numpy as np
import numpy.typing as npt

from zcollection_engine.granules.model import Granule, GranuleSpec, GranuleVariable

_DAY = 86_400 * 10**9
_REAL_CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "julian")
#: Nanoseconds by which two ways through float64 may differ near the ends of the range of times.
_TOLERANCE = 5_000


def compare(granule: Granule, data: bytes, spec: GranuleSpec) -> None:
    """Fail unless a granule has the values that its file holds, all of them and no others.

    Parameters
    ----------
    granule
        As read from ``data``.
    data
        The file.
    spec
        How it was read, without ``include``, ``exclude`` and ``rename``.
    """
    with netCDF4.Dataset("again", memory=_with_records(data, granule.rows)) as dataset:
        dataset.set_auto_maskandscale(False)
        dataset.set_auto_chartostring(False)
        base = spec.axis.rpartition("/")[0] + "/"
        held = {path.removeprefix(base): variable for path, variable in _variables(dataset) if path.startswith(base)}
        assert set(granule.variables) == set(held) | set(spec.attributes)
        for attribute, dtype in spec.attributes.items():
            expected = np.full(granule.rows, dataset.getncattr(attribute), dtype=dtype)
            _same(attribute, granule.variables[attribute].values, expected)
        for path, variable in held.items():
            found = granule.variables[path]
            values = _values(variable, granule.dimension)
            if path == granule.axis and " since " in str(_attribute(variable, "units")).lower():
                _same_times(found.values, values, variable)
            else:
                _same(path, found.values, values)
                _same_fill(path, found, variable)


def _with_records(data: bytes, rows: int) -> bytes:
    """Write down the number of records where the writer of a NetCDF-3 file left it open; the library wants it."""
    width = 8 if data[3] == 5 else 4
    if not data.startswith(b"CDF") or not data.startswith(b"\xff" * width, 4):
        return data
    return data[:4] + rows.to_bytes(width, "big") + data[4 + width :]


def _variables(group: netCDF4.Dataset) -> Iterator[tuple[str, netCDF4.Variable[Any]]]:
    for name, variable in group.variables.items():
        yield f"{group.path.rstrip('/')}/{name}", variable
    for child in group.groups.values():
        yield from _variables(child)


def _values(variable: netCDF4.Variable[Any], axis: str) -> npt.NDArray[Any]:
    """Values with the axis's dimension in the first place; characters joined along their last dimension."""
    dimensions = list(variable.dimensions)
    if variable.dtype is str:
        values = np.empty(variable.shape, dtype=object)
        values[...] = variable[...]
    else:
        values = np.asarray(variable[...])
    if axis in dimensions:
        place = dimensions.index(axis)
        values = values.transpose(place, *(number for number in range(values.ndim) if number != place))
        dimensions.insert(0, dimensions.pop(place))
    if values.dtype.kind != "S":
        return values
    if not dimensions or dimensions[-1] == axis:
        values = values[..., np.newaxis]
    texts = np.empty(values.shape[:-1], dtype=object)
    for index in np.ndindex(texts.shape):
        texts[index] = _text(b"".join(item or b"\0" for item in values[index].tolist()), variable)
    return texts


def _text(data: bytes, variable: netCDF4.Variable[Any]) -> str:
    data = data.rstrip(b"\0")
    encoding = _attribute(variable, "_Encoding")
    if encoding not in (None, "utf-8", "none"):
        return data.decode(encoding, errors="replace").rstrip("\0 ")
    try:
        return data.decode().rstrip("\0 ")
    except UnicodeDecodeError:
        return data.decode("latin-1").rstrip("\0 ")


def _same(path: str, found: npt.NDArray[Any], held: npt.NDArray[Any]) -> None:
    assert found.shape == held.shape, f"{path}: shape {found.shape}, the file has {held.shape}"
    if held.dtype.kind == "O":
        assert found.tolist() == held.tolist(), f"{path}: other text than in the file"
        return
    little = held.astype(held.dtype.newbyteorder("<"), copy=False)
    assert found.dtype == little.dtype, f"{path}: {found.dtype}, the file has {held.dtype}"
    assert found.tobytes() == little.tobytes(), f"{path}: other bytes than in the file"


def _same_fill(path: str, found: GranuleVariable, variable: netCDF4.Variable[Any]) -> None:
    held = np.ravel(np.asarray(_attribute(variable, "_FillValue")))
    if found.fill_value is None or held.dtype != found.values.dtype.newbyteorder("=") or held.size != 1:
        return
    ours = np.asarray(found.fill_value, dtype=held.dtype)
    both_nan = held.dtype.kind == "f" and bool(np.isnan(held[0]) and np.isnan(ours))
    assert both_nan or ours == held[0], f"{path}: fill value {found.fill_value!r}, the file has {held[0]!r}"


def _attribute(variable: netCDF4.Variable[Any], name: str) -> Any:
    return variable.getncattr(name) if name in variable.ncattrs() else None


def _same_times(found: npt.NDArray[Any], raw: npt.NDArray[Any], variable: netCDF4.Variable[Any]) -> None:
    values = raw.astype("f8")
    scale, offset = _attribute(variable, "scale_factor"), _attribute(variable, "add_offset")
    if (scale, offset) != (None, None):
        values = values * (1.0 if scale is None else float(scale)) + (0.0 if offset is None else float(offset))
    calendar = str(_attribute(variable, "calendar") or "standard").strip().lower()
    calendar = "standard" if calendar == "none" else calendar
    dates = cftime.num2date(values, _attribute(variable, "units"), calendar, only_use_cftime_datetimes=True)
    for time, date in zip(found.tolist(), np.ravel(dates), strict=True):
        expected = _nanoseconds(date, calendar)
        assert abs(time - expected) <= _TOLERANCE, f"a time of {time} ns, {expected} by cftime ({date})"


def _nanoseconds(date: cftime.datetime, calendar: str) -> int:
    of_day = (date.hour * 3600 + date.minute * 60 + date.second) * 10**9 + date.microsecond * 1000
    if calendar in _REAL_CALENDARS:
        return int((date.toordinal() - 2_440_588) * _DAY + of_day)
    label = datetime(date.year, date.month, date.day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return int(label // timedelta(days=1) * _DAY + of_day)
