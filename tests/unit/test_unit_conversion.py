"""Units of measure: which mean the same, what is converted and how exactly, what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cftime
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.granules.packing import RecodeError
from zcollection_engine.granules.recode import recode
from zcollection_engine.granules.timeunits import UnitsError
from zcollection_engine.granules.unitconversion import Conversion, conversion
from zcollection_engine.schema import Variable


def between(found: str | None, wanted: str | None) -> Conversion:
    theirs, ours = ({} if units is None else {"units": units} for units in (found, wanted))
    return conversion(theirs, ours)


def recoded(
    values: Any, dtype: str, found: dict[str, Any], wanted: dict[str, Any], target: str
) -> np.ndarray[Any, Any]:
    array = np.asarray(values, dtype)
    dimensions = ("time", "x")[: array.ndim]
    variable = Variable("x", np.dtype(target).str, dimensions, (8, 8)[: array.ndim], attributes=wanted)
    return recode(GranuleVariable(dimensions, array, found), variable, conversion(found, wanted))


@pytest.mark.parametrize(
    "spellings",
    [
        ("m", "metre", "metres", "meter", "Meters"),
        ("km", "kilometer", "kilometres"),
        ("um", "µm", "μm", "micrometer"),
        ("s", "sec", "second", "Seconds"),
        ("min", "minute", "minutes"),
        ("h", "hr", "hours", "hour"),
        ("d", "day", "days"),
        ("degree", "degrees", "degrees_north", "degree_north", "degrees_east", "degrees east", "degreesN", "°", "deg"),
        ("rad", "radian", "radians"),
        ("K", "kelvin", "Kelvin", "degK", "degrees_K"),
        ("degC", "celsius", "Celsius", "degrees_Celsius", "degree_C", "degrees C", "°C"),
        ("hPa", "hectopascal", "mbar", "millibar", "millibars", "100 Pa"),
        ("m s-1", "m/s", "m.s-1", "m s^-1", "m s**-1", "m*s-1", "meters per second", "m·s⁻¹", "metres/second"),
        ("kg m-2", "kg/m^2", "kg/m2", "kg.m-2", "kg/m/m", "kg m⁻²"),
        ("degrees^2", "degree2", "degrees degrees"),
        ("%", "percent", "0.01", "1e-2"),
        ("Hz", "s-1", "1/s", "counts/s"),
        ("1", None, "", " ", "count", "m/m"),
    ],
)
def test_spellings_of_one_unit_mean_the_same(spellings: tuple[str | None, ...]) -> None:
    for units in spellings:
        if units is None or not units.strip():
            assert between(units, "1").is_identity
        else:
            assert between(units, spellings[0]).is_identity, units
            assert between(spellings[0], units).is_identity, units


@pytest.mark.parametrize(
    ("found", "wanted", "factor", "shift"),
    [
        ("cm", "m", Fraction(1, 100), 0),
        ("km", "mm", 1_000_000, 0),
        ("dm", "cm", 10, 0),
        ("us", "ms", Fraction(1, 1000), 0),
        ("days", "hours", 24, 0),
        ("degrees_north", "rad", Fraction(math.pi) / 180, 0),
        ("K", "degC", 1, Fraction(-27315, 100)),
        ("Celsius", "kelvin", 1, Fraction(27315, 100)),
        ("Pa", "hPa", Fraction(1, 100), 0),
        ("dbar", "Pa", 10_000, 0),
        ("km/h", "m s-1", Fraction(5, 18), 0),
        ("cm/s", "mm s-1", 10, 0),
        ("%", "1", Fraction(1, 100), 0),
        ("g m-3", "mg/km^3", 10**12, 0),
        ("kHz", "s-1", 1000, 0),
        ("K/km", "K m-1", Fraction(1, 1000), 0),
    ],
)
def test_units_are_converted_by_exact_factors(found: str, wanted: str, factor: Fraction, shift: Fraction) -> None:
    assert between(found, wanted) == Conversion(Fraction(factor), Fraction(shift))
    back = between(wanted, found)
    assert (back.factor * factor, back.factor * shift + back.shift) == (Fraction(1), Fraction(0))


@pytest.mark.parametrize(
    ("found", "wanted", "why"),
    [
        ("m", "s", "different things"),
        ("m", "m2", "different things"),
        ("degrees", "1", "different things"),
        (None, "m", "not told"),
        (None, "%", "not told"),
        ("dB", "1", "'dB'"),
        ("M", "m", "'M'"),
        ("PA", "Pa", "'PA'"),
        ("cm", "basin number", "basin number"),
        ("W/m2 K", "1", "W/m2 K"),
        ("kg/m s", "kg m-1 s-1", "one way only"),
        ("degC/m", "K/m", "zero of its own"),
        ("degC2", "K2", "zero of its own"),
        ("m10", "m", "m10"),
        ("(m)", "m", "(m)"),
        ("m,s", "m", "one way only"),
        ("0 m", "m", "0 m"),
        ("1e999999999 m", "m", "1e999999999 m"),
        ("m/", "m", "''"),
        ("seconds", "seconds since 2000-01-01", "only one of them"),
        ("seconds since noon", "seconds since 2000-01-01", "noon"),
        ("months since 2000-01-01", "days since 2000-01-01", "not fixed"),
        ("days since 2000-02-30", "days since 2000-01-01", "does not exist"),
        ("days since 0000-01-01", "days since 2000-01-01", "years before 1"),
    ],
)
def test_what_is_not_known_exactly_is_refused(found: str | None, wanted: str, why: str) -> None:
    with pytest.raises(UnitsError) as caught:
        between(found, wanted)
    assert why in str(caught.value)


def test_units_that_are_not_known_equal_themselves() -> None:
    for units in ("dB", "basin  number", "months since 2000-01-01", "W/m2 K", "UTC seconds since 00:00:00 1-Jan-2000"):
        assert between(units, f" {units.replace('  ', ' ')}").is_identity


@pytest.mark.parametrize(
    ("found", "wanted", "shifted"),
    [
        ({}, {}, True),
        ({"standard_name": "sea_surface_temperature"}, {}, True),
        ({"units_metadata": "temperature: on_scale"}, {"long_name": "temperature error"}, True),
        ({"units_metadata": "temperature: difference"}, {}, False),
        ({}, {"units_metadata": "temperature: difference"}, False),
        ({"long_name": "SST anomaly"}, {}, None),
        ({}, {"cell_methods": "time: standard_deviation"}, None),
        ({"units_metadata": "temperature: difference"}, {"units_metadata": "temperature: on_scale"}, None),
        ({"units_metadata": "temperature: unknown"}, {}, None),
    ],
)
def test_differences_of_temperatures_are_not_shifted(
    found: dict[str, str], wanted: dict[str, str], shifted: bool | None
) -> None:
    theirs, ours = {"units": "degC", **found}, {"units": "K", **wanted}
    if shifted is None:
        with pytest.raises(UnitsError, match="units_metadata"):
            conversion(theirs, ours)
        assert conversion(theirs, {**ours, "units": "celsius"}).is_identity
    else:
        assert conversion(theirs, ours).shift == (Fraction("273.15") if shifted else 0)


@pytest.mark.parametrize(
    ("found", "wanted", "factor", "shift"),
    [
        ("seconds since 2000-01-01", "seconds since 2000-01-01 00:00:00.0", 1, 0),
        ("seconds since 2000-01-01", "s since 2000-1-1T00:00:00Z", 1, 0),
        ("seconds since 2000-01-01 01:00 +1:00", "seconds since 2000-01-01", 1, 0),
        ("seconds since 2000-01-01", "seconds since 1970-01-01", 1, 946_684_800),
        ("days since 1950-01-01", "seconds since 1950-01-01 12:00", 86_400, -43_200),
        ("nanoseconds since 1970-01-01", "seconds since 1969-12-31 23:59:59", Fraction(1, 10**9), 1),
        ("days since 1582-10-15", "days since 1582-10-04", 1, 1),
    ],
)
def test_times_are_converted_between_units_and_references(
    found: str, wanted: str, factor: Fraction, shift: int
) -> None:
    change = between(found, wanted)
    assert change == Conversion(Fraction(factor), Fraction(shift), whole=True)


@pytest.mark.parametrize(
    ("calendars", "shift"),
    [
        (("standard", "proleptic_gregorian"), -2),
        (("julian", "standard"), 0),
        (("proleptic_gregorian", "julian"), 2),
        ((None, "gregorian"), 0),
        (("noleap", "365_day"), 0),
        (("360_day", "360_day"), 0),
        (("360_day", "standard"), None),
        (("noleap", "all_leap"), None),
        (("lunar", "standard"), None),
        (("lunar", "Lunar "), 0),
    ],
)
def test_calendars_in_which_dates_are_instants_can_be_compared(
    calendars: tuple[str | None, str], shift: int | None
) -> None:
    theirs, ours = (
        {"units": "days since 0001-01-01"} | ({} if name is None else {"calendar": name}) for name in calendars
    )
    if shift is None:
        with pytest.raises(UnitsError, match="calendar"):
            conversion(theirs, ours)
    else:
        assert conversion(theirs, ours).shift == shift


TIMES = st.builds(
    "{} since {:04d}-{:02d}-{:02d} {:02d}:{:02d}".format,
    st.sampled_from(["milliseconds", "seconds", "minutes", "hours", "days"]),
    st.integers(1600, 2400),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
)


@settings(max_examples=200)
@given(
    found=TIMES,
    wanted=TIMES,
    calendar=st.sampled_from(["standard", "proleptic_gregorian", "julian", "noleap", "all_leap", "360_day"]),
    value=st.integers(-(5 * 10**5), 10**6),  # cftime warns of years before 1
)
def test_converted_times_are_the_dates_of_the_source(found: str, wanted: str, calendar: str, value: int) -> None:
    change = conversion({"units": found, "calendar": calendar}, {"units": wanted, "calendar": calendar})
    date = cftime.num2date(value, found, calendar, only_use_cftime_datetimes=True)
    origin = cftime.num2date(0, wanted, calendar, only_use_cftime_datetimes=True)
    step = cftime.num2date(1, wanted, calendar, only_use_cftime_datetimes=True) - origin
    elapsed = date - origin
    exact = Fraction(elapsed.days * 86_400 * 10**6 + elapsed.seconds * 10**6 + elapsed.microseconds)
    assert value * change.factor + change.shift == exact / (
        step.days * 86_400 * 10**6 + step.seconds * 10**6 + step.microseconds
    )


@settings(max_examples=200)
@given(
    found=TIMES,
    wanted=TIMES,
    values=st.lists(st.integers(-(2**62), 2**62) | st.integers(-1000, 1000), min_size=1, max_size=5),
)
def test_integer_times_become_exact_integers_or_are_refused(found: str, wanted: str, values: list[int]) -> None:
    change = between(found, wanted)
    exact = [value * change.factor + change.shift for value in values]
    fits = all(e.denominator == 1 and abs(e) < 2**63 for e in exact)
    try:
        result = recoded(values, "i8", {"units": found}, {"units": wanted}, "i8").tolist()
    except RecodeError:
        assert not fits
    else:
        assert result == exact


def test_nanoseconds_beyond_the_exact_range_of_floats_are_converted_exactly() -> None:
    values = [1_700_000_000_123_456_789, -5]
    result = recoded(
        values, "i8", {"units": "nanoseconds since 1970-01-01"}, {"units": "nanoseconds since 2000-01-01"}, "i8"
    )
    assert result.tolist() == [value - 946_684_800 * 10**9 for value in values]


def test_integers_of_any_shape_are_converted() -> None:
    minutes, seconds = {"units": "minutes"}, {"units": "seconds"}
    assert recoded(7, "i2", minutes, seconds, "i4").tolist() == 420
    assert recoded([[1, 2], [3, 4]], "u1", minutes, seconds, "i4").tolist() == [[60, 120], [180, 240]]
    assert recoded(np.empty((0, 2)), "i2", minutes, seconds, "i4").shape == (0, 2)
    far = {"units": "days since 0001-01-01", "calendar": "julian"}
    assert recoded(719_164, "i8", far, {"units": "ns since 1970-01-01"}, "i8").tolist() == 0


@pytest.mark.parametrize(
    ("values", "found", "wanted", "dtypes", "expected"),
    [
        ([250, -50], {"units": "cm"}, {"units": "m", "scale_factor": 0.01}, ("i2", "i2"), [250, -50]),
        ([250, -50], {"units": "cm"}, {"units": "m", "scale_factor": 0.001}, ("i2", "i2"), [2500, -500]),
        ([1234], {"units": "m", "scale_factor": 0.001}, {"units": "mm"}, ("i4", "i4"), [1234]),
        ([200], {"units": "cm"}, {"units": "m"}, ("i2", "i2"), [2]),
        ([3], {"units": "m"}, {"units": "cm"}, ("i2", "i2"), [300]),
        ([25], {"units": "degC", "scale_factor": 0.1}, {"units": "K", "scale_factor": 0.01}, ("i2", "i4"), [27565]),
        ([300], {"units": "K"}, {"units": "degC"}, ("i2", "i2"), [27]),
        ([90], {"units": "degrees_north"}, {"units": "rad"}, ("f8", "f8"), [math.pi / 2]),
        ([1500.0], {"units": "m"}, {"units": "km"}, ("f4", "f4"), [1.5]),
        ([36], {"units": "km/h"}, {"units": "m s-1"}, ("f8", "f8"), [10.0]),
        ([1013], {"units": "mbar"}, {"units": "Pa"}, ("i4", "f8"), [101_300.0]),
    ],
)
def test_packed_values_are_decoded_converted_and_encoded_again(
    values: list[float], found: dict[str, Any], wanted: dict[str, Any], dtypes: tuple[str, str], expected: list[float]
) -> None:
    result = recoded(values, dtypes[0], found, wanted, dtypes[1])
    assert result.dtype == np.dtype(dtypes[1])
    np.testing.assert_allclose(result, expected, rtol=1e-7 if dtypes[1] == "f4" else 1e-15, atol=0)


@pytest.mark.parametrize(
    ("values", "dtype", "units", "target", "why"),
    [
        ([123], "i2", ("cm", "m"), "i2", "half a unit"),
        ([400], "i2", ("m", "cm"), "i2", "overflows"),
        ([1.5], "f8", ("cm", "m"), "i2", "pack it"),
        ([2**53 + 1], "i8", ("m", "cm"), "f8", "2**53"),
        ([1.1], "f8", ("cm", "m"), "f4", "half a unit"),
        ([13], "i4", ("hours since 2000-01-01", "days since 2000-01-01"), "i4", "whole numbers"),
        ([1], "i4", ("days since 1970-01-01", "ns since 1970-01-01"), "i4", "overflows"),
        ([1], "i4", ("1e99 1e99 1e99 1e99 m", "m"), "f8", "undone"),
    ],
)
def test_a_conversion_that_loses_is_refused(
    values: list[float], dtype: str, units: tuple[str, str], target: str, why: str
) -> None:
    found, wanted = ({"units": text} for text in units)
    with pytest.raises(RecodeError) as caught:
        recoded(values, dtype, found, wanted, target)
    assert why in str(caught.value)


LENGTHS = st.sampled_from(["mm", "cm", "dm", "m", "km"])


@settings(max_examples=200)
@given(
    found=LENGTHS,
    wanted=LENGTHS,
    raw=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=10),
    packings=st.tuples(*[st.sampled_from([1.0, 0.1, 0.001, 1e-4, -0.01])] * 2),
    target=st.sampled_from(["i2", "i4", "i8", "f8"]),
)
def test_conversions_keep_half_a_unit_and_lead_back(
    found: str, wanted: str, raw: list[int], packings: tuple[float, float], target: str
) -> None:
    theirs, ours = ({"units": u, "scale_factor": s} for u, s in zip((found, wanted), packings, strict=True))
    try:
        there = recoded(raw, "i4", theirs, ours, target)
    except RecodeError:
        return
    metres = {"mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0, "km": 1e3}
    lengths = np.array(raw) * packings[0]
    half = abs(packings[0]) * (0.5 + 1e-5)
    assert np.abs(there.astype("f8") * packings[1] * metres[wanted] / metres[found] - lengths).max() <= half
    if np.abs(there).max() <= 2**53:
        back = recoded(there, target, ours, {"units": found}, "f8")
        assert np.abs(back - lengths).max() <= half
