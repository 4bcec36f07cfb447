"""Decode the axis of a granule, and other times: CF time to nanoseconds since 1970-01-01.

Source of the rules: CF Metadata Conventions 1.11, section 4.4 "Time Coordinate".

Integers are decoded with exact integer arithmetic. Floats give, to the nanosecond, what ``xarray.decode_cf``
gives, so that a time read from the source with xarray finds its row in the collection: the product of value
and unit is made in float64 and cut to whole nanoseconds; where xarray itself goes through cftime (abbreviated
units, reference times outside 1677 to 2262) so does this module, with microsecond resolution. (One
difference: packed times are unpacked in float64 always, xarray uses float32 when ``scale_factor`` is
float32.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn

import cftime
import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.granules.timeunits import DAY, SECOND, TimeUnits, UnitsError, is_time_units, parse_time_units
from zcollection_engine.schema import TIME_CALENDAR, TIME_UNITS

#: Attributes of a source's encoding that say nothing any more about decoded times.
ENCODING_ATTRIBUTES = frozenset(
    {"units", "calendar", "scale_factor", "add_offset", "missing_value", "_FillValue", "_Unsigned"}
    | {"valid_min", "valid_max", "valid_range", "actual_range", "month_lengths", "leap_year", "leap_month"}
)

_EPOCH_JULIAN_DAY = 2_440_588
#: Rows that go through cftime at once: its dates take 250 bytes each.
_CFTIME_ROWS = 1 << 14
_MIN, _MAX = -(1 << 63) + 1, (1 << 63) - 1

_CALENDARS = {
    "": "standard",
    "none": "standard",
    "gregorian": "standard",
    "365_day": "noleap",
    "366_day": "all_leap",
}
#: Calendars whose days are days: a date in them is an instant.
_REAL_CALENDARS = frozenset({"standard", "proleptic_gregorian", "julian"})
_XARRAY_CALENDARS = frozenset({"standard", "proleptic_gregorian"})
_ARTIFICIAL_CALENDARS = frozenset({"noleap", "all_leap", "360_day"})


def time_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a decoded time: those that describe it, and the units and calendar it is stored in."""
    kept = {key: value for key, value in attributes.items() if key not in ENCODING_ATTRIBUTES}
    return {**kept, "units": TIME_UNITS, "calendar": TIME_CALENDAR}


def decode_axis(axis: GranuleVariable, *, path: str, name: str) -> GranuleVariable:
    """Return a granule's axis in the form a collection stores it.

    Parameters
    ----------
    axis
        As found, shape (rows,), with its own units, calendar and packing.
    path, name
        What errors call the variable and the granule.

    Returns
    -------
    GranuleVariable
        int64 nanoseconds since 1970-01-01 (proleptic Gregorian) when the units are those of a time: dates of
        the calendars standard, proleptic_gregorian and julian stand for their instant, those of noleap,
        all_leap and 360_day for the same date of the real calendar. Without " since " in the units the axis
        is returned as it is.

    Raises
    ------
    InvalidGranuleError
        Reason "axis_not_finite" for values that are not finite or mean "missing", declared so or not;
        "axis_undecodable" for units, calendars or dates that cannot be decoded; "axis_out_of_range" for times
        outside 1677-09-21 to 2262-04-11.
    """
    return _decode(axis, _Subject("axis", path, name))


def decode_time(time: GranuleVariable, *, path: str, name: str) -> GranuleVariable:
    """Return a time beside the axis in the form of an axis that is a time.

    Raises
    ------
    InvalidGranuleError
        As `decode_axis`, the reasons beginning with "time" instead of "axis"; also for units that are no time's.
    """
    subject = _Subject("time", path, name)
    units = time.attributes.get("units")
    if not is_time_units(units):
        subject.fail("undecodable", f"has the units {units!r}, not those of a time; choose another variable")
    return _decode(time, subject)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is decoded: the axis or another time."""

    role: Literal["axis", "time"]
    path: str
    granule: str

    def fail(self, problem: str, what: str) -> NoReturn:
        raise InvalidGranuleError(
            f"{self.granule}: the {self.role} {self.path} {what}",
            reason=f"{self.role}_{problem}",
            granule=self.granule,
        )


def _decode(time: GranuleVariable, subject: _Subject) -> GranuleVariable:
    if time.values.dtype.kind not in "iuf":
        subject.fail("undecodable", f"holds {time.values.dtype} values, not numbers; choose a numeric variable")
    _check_finite(time, subject)
    units = time.attributes.get("units")
    if not isinstance(units, str) or not is_time_units(units):
        return time
    decoder = _Decoder.of(units, time.attributes.get("calendar"), subject)
    values = decoder.decode(_unpack(time, decoder.fail))
    return replace(time, values=values, attributes=time_attributes(time.attributes), fill_value=None)


_WITHOUT = {
    "axis": "a row without a place on the axis cannot be stored",
    "time": "a row without a date belongs to no partition",
}


def _check_finite(time: GranuleVariable, subject: _Subject) -> None:
    values = time.values
    bad = ~np.isfinite(values)
    for fill in _fill_values(time):
        bad |= values == fill
    if bad.any():
        first = int(np.argmax(bad))
        subject.fail(
            "not_finite",
            f"has {int(bad.sum())} of {values.size} values that are missing, the first is {values[first]} at index"
            f" {first}; {_WITHOUT[subject.role]}, have the granule produced again",
        )


def _fill_values(axis: GranuleVariable) -> list[Any]:
    """Values that mean "missing": those declared, the netCDF library's default, and, since writers use them
    without saying so, the extremes of 32 and 64-bit signed integers."""
    dtype = axis.values.dtype
    candidates = [axis.fill_value, axis.attributes.get("missing_value")]
    fills = [item for item in candidates if isinstance(item, int | float)]
    if dtype.itemsize > 1:
        fills.append(dtype.type(_default_fill(dtype)))
    if dtype.kind == "i" and dtype.itemsize >= 4:
        fills += [np.iinfo(dtype).min, np.iinfo(dtype).max]
    return fills


def _default_fill(dtype: np.dtype[Any]) -> int | float:
    """Fill value of the netCDF library (NC_FILL_* in netcdf.h)."""
    if dtype.kind == "f":
        return 9.9692099683868690e36
    bits = 8 * dtype.itemsize
    if dtype.kind == "u":
        return (1 << bits) - (2 if bits == 64 else 1)
    return -(1 << (bits - 1)) + (2 if bits == 64 else 1)


def _unpack(axis: GranuleVariable, fail: Callable[[str], NoReturn]) -> npt.NDArray[Any]:
    scale, offset = axis.attributes.get("scale_factor", 1), axis.attributes.get("add_offset", 0)
    if (scale, offset) == (1, 0):
        return axis.values
    if not isinstance(scale, int | float) or not isinstance(offset, int | float):
        fail(f"scale_factor {scale!r} and add_offset {offset!r} are not numbers")
    return axis.values.astype(np.float64) * scale + offset


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Units and calendar of one axis or other time."""

    units: TimeUnits
    calendar: str
    subject: _Subject
    spelt: str

    @classmethod
    def of(cls, units: str, calendar: object, subject: _Subject) -> _Decoder:
        chosen = "" if calendar is None else str(calendar).strip().lower()
        chosen = _CALENDARS.get(chosen, chosen)
        if chosen not in _REAL_CALENDARS | _ARTIFICIAL_CALENDARS:
            _fail(subject, units, f"the calendar {calendar!r} is not one of CF's")
        try:
            return cls(parse_time_units(units), chosen, subject, units)
        except UnitsError as error:
            _fail(subject, units, str(error))

    def fail(self, what: str) -> NoReturn:
        _fail(self.subject, self.spelt, what)

    def decode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return nanoseconds since 1970-01-01; ``values`` are finite numbers in the axis's units."""
        if self.calendar in _ARTIFICIAL_CALENDARS:
            self._scaled(values, (self.units.reference[0] - 1970) * 365 * DAY)
            return self._decode_with_cftime(values)
        origin = self._origin()
        if values.dtype.kind in "iu":
            return self._decode_integers(values, origin)
        nanoseconds = self._scaled(values, origin)
        direct = self.units.spelt_out and self.calendar in _XARRAY_CALENDARS and _MIN <= origin <= _MAX
        if not direct or np.abs(nanoseconds).max() >= 2.0**63:
            return self._decode_with_cftime(values.astype(np.float64))
        whole = nanoseconds.astype(np.int64)
        self._check_range(values, origin + int(whole.min()), origin + int(whole.max()))
        return whole + np.int64(origin)

    def _scaled(self, values: npt.NDArray[Any], origin: int) -> npt.NDArray[np.float64]:
        """Nanoseconds from the reference, after refusing what lies far outside the range of times."""
        with np.errstate(over="ignore"):
            nanoseconds = values.astype(np.float64) * self.units.nanoseconds
        distance = np.abs(nanoseconds + origin)
        if distance.max() > 1.01 * _MAX:
            self._out_of_range(values[int(np.argmax(distance))])
        return nanoseconds

    def _decode_integers(self, values: npt.NDArray[Any], origin: int) -> npt.NDArray[np.int64]:
        unit = self.units.nanoseconds
        self._check_range(values, origin + int(values.min()) * unit, origin + int(values.max()) * unit)
        # Modulo 2**64 an intermediate overflow cannot change a result that itself is in range.
        wrapped = values.astype(np.uint64) * np.uint64(unit) + np.uint64(origin % (1 << 64))
        return wrapped.view(np.int64)

    def _origin(self) -> int:
        """Nanoseconds from 1970-01-01 to the reference, a date of a real calendar."""
        year, month, day, hour, minute, second = self.units.reference
        date = self._date(year, month, day)
        seconds = 3_600 * hour + 60 * minute + second
        return _days(date) * DAY + seconds * SECOND + self.units.offset

    def _date(self, year: int, month: int, day: int) -> cftime.datetime:
        try:
            return cftime.datetime(year, month, day, calendar=self.calendar)
        except ValueError as error:
            self.fail(f"the reference date does not exist in the calendar {self.calendar!r} ({error})")

    def _check_range(self, values: npt.NDArray[Any], first: int, last: int) -> None:
        if first < _MIN:
            self._out_of_range(values.min())
        if last > _MAX:
            self._out_of_range(values.max())

    def _out_of_range(self, value: object) -> NoReturn:
        self.subject.fail(
            "out_of_range",
            f"with units {self.spelt!r}: the value {value} lies outside 1677-09-21 to 2262-04-11, the range of times in"
            " nanoseconds; it is most likely a fill value that is not declared, have the granule produced again",
        )

    def _decode_with_cftime(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        units = self.units
        if self.calendar in _ARTIFICIAL_CALENDARS and not 0 <= units.offset < SECOND:
            self.fail(f"a time zone has no meaning in the calendar {self.calendar!r}")
        self._date(*units.reference[:3])
        decoded = np.empty(values.shape, dtype=np.int64)
        for at in range(0, len(values), _CFTIME_ROWS):
            block = slice(at, at + _CFTIME_ROWS)
            decoded[block] = self._decode_block(values[block])
        return decoded

    def _decode_block(self, values: npt.NDArray[Any]) -> list[int]:
        try:
            dates = cftime.num2date(values, self.units.spell(), self.calendar, only_use_cftime_datetimes=True)
        except (ValueError, OverflowError) as error:
            self.fail(f"{error}")
        convert = self._from_instant if self.calendar in _REAL_CALENDARS else self._from_label
        nanoseconds = [convert(date) for date in dates]
        self._check_range(values, min(nanoseconds), max(nanoseconds))
        return nanoseconds

    def _from_instant(self, date: cftime.datetime) -> int:
        return _days(date) * DAY + _time_of_day(date)

    def _from_label(self, date: cftime.datetime) -> int:
        try:
            same = datetime(date.year, date.month, date.day, tzinfo=UTC)
        except ValueError:
            self.fail(f"{date.isoformat()} of the calendar {self.calendar!r} is not a date of the real calendar")
        return (same - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(days=1) * DAY + _time_of_day(date)


def _fail(subject: _Subject, units: str, what: str) -> NoReturn:
    subject.fail(
        "undecodable",
        f"with units {units!r}: cannot be decoded: {what}; expected is, for example, 'seconds since 2000-01-01"
        " 00:00:00'",
    )


def _days(date: cftime.datetime) -> int:
    """Days from 1970-01-01 to a date of a real calendar."""
    return int(date.toordinal()) - _EPOCH_JULIAN_DAY


def _time_of_day(date: cftime.datetime) -> int:
    seconds = 3_600 * date.hour + 60 * date.minute + date.second
    return int(seconds * 1_000_000 + date.microsecond) * 1_000
