"""CF time of the axis: exact for integers, equal to xarray's decoding for floats, refusing what has no time."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules import timeaxis
from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.granules.timeaxis import decode_axis
from zcollection_engine.schema import TIME_CALENDAR, TIME_UNITS

J2000 = "seconds since 2000-01-01 00:00:00.0"


def axis(values: npt.ArrayLike, units: str, **attributes: Any) -> GranuleVariable:
    return GranuleVariable(("time",), np.asarray(values), {"units": units, **attributes})


def decode(values: npt.ArrayLike, units: str, **attributes: Any) -> npt.NDArray[np.int64]:
    decoded = decode_axis(axis(values, units, **attributes), path="/time", name="g.nc").values
    assert decoded.dtype == np.int64
    return decoded


def times(values: npt.ArrayLike, units: str, **attributes: Any) -> list[str]:
    return [str(t) for t in decode(values, units, **attributes).view("datetime64[ns]")]


def refusal(
    values: npt.ArrayLike, units: str, *, fill_value: float | None = None, **attributes: Any
) -> InvalidGranuleError:
    variable = GranuleVariable(("time",), np.asarray(values), {"units": units, **attributes}, fill_value)
    with pytest.raises(InvalidGranuleError) as caught:
        decode_axis(variable, path="/time", name="g.nc")
    assert "g.nc" in str(caught.value)
    assert "/time" in str(caught.value)
    return caught.value


def with_xarray(values: npt.NDArray[Any], units: str, **attributes: Any) -> npt.NDArray[np.int64]:
    dataset = xr.Dataset({"t": ("t_row", values, {"units": units, **attributes})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = xr.decode_cf(dataset)["t"].values
    assert decoded.dtype.kind == "M", decoded
    return decoded.astype("datetime64[ns]").view(np.int64)


@pytest.mark.parametrize(("calendar", "dtype"), [("standard", "f8"), ("noleap", "i1")])
def test_times_that_go_through_cftime_take_little_memory_and_keep_their_places(
    monkeypatch: pytest.MonkeyPatch, calendar: str, dtype: str
) -> None:
    monkeypatch.setattr(timeaxis, "_CFTIME_ROWS", 1000)
    rows = 9_500
    values = np.arange(rows) % 100
    tracemalloc.start()
    try:
        decoded = decode(values.astype(dtype), "s since 1970-01-01", calendar=calendar)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded.tolist() == (values * 10**9).tolist()
    assert peak < 100 * rows


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("days since 2000-01-01", "2000-01-04T00:00:00.000000000"),
        ("Day since 2000-1-1", "2000-01-04T00:00:00.000000000"),
        ("hours since 2000-01-01 12:00", "2000-01-01T15:00:00.000000000"),
        ("hrs since 2000-01-01T12:00:00Z", "2000-01-01T15:00:00.000000000"),
        ("minutes since 2000-01-01 00:00:30.25", "2000-01-01T00:03:30.250000000"),
        ("s since 2000-01-01 00:00:00 UTC", "2000-01-01T00:00:03.000000000"),
        ("milliseconds since 1970-01-01", "1970-01-01T00:00:00.003000000"),
        ("usec since 1970-01-01", None),
        ("microseconds since 1970-01-01", "1970-01-01T00:00:00.000003000"),
        ("nanoseconds since 1970-01-01 00:00:00.000000001", "1970-01-01T00:00:00.000000004"),
        ("seconds since 1992-10-8 15:15:42.5 -6:00", "1992-10-08T21:15:45.500000000"),
        ("seconds since 2000-01-01 00:00:00 +0530", "1999-12-31T18:30:03.000000000"),
        ("seconds since 2000-01-01 00:00:00 0:00", "2000-01-01T00:00:03.000000000"),
        ("days since 1-1-1", None),
    ],
)
def test_integers_are_decoded_in_all_spellings_of_units(units: str, expected: str | None) -> None:
    if expected is None:
        assert refusal([3], units).code in {"axis_undecodable", "axis_out_of_range"}
    else:
        assert times(np.array([3], dtype="i2"), units) == [expected]


@given(
    value=st.integers(-(2**62), 2**62),
    unit=st.sampled_from([("nanoseconds", 1), ("microseconds", 1000), ("seconds", 10**9), ("days", 86400 * 10**9)]),
)
def test_integers_are_decoded_exactly_or_refused(value: int, unit: tuple[str, int]) -> None:
    expected = value * unit[1]
    if -(2**63) < expected < 2**63:
        assert decode(np.array([value]), f"{unit[0]} since 1970-01-01").tolist() == [expected]
    else:
        assert refusal(np.array([value]), f"{unit[0]} since 1970-01-01").code == "axis_out_of_range"


def test_integers_are_exact_with_a_reference_outside_the_range_of_nanoseconds() -> None:
    assert times(np.array([730_119], dtype="u4"), "days since 0001-01-01", calendar="proleptic_gregorian") == [
        "2000-01-01T00:00:00.000000000"
    ]
    assert times(np.array([730_121], dtype="u8"), "days since 0001-01-01", calendar="Gregorian") == [
        "2000-01-01T00:00:00.000000000"
    ]


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.floats(-3e9, 3e9, allow_nan=False), min_size=1, max_size=5),
    units=st.sampled_from([J2000, "seconds since 1990-01-01", "seconds since 1985-07-01 12:30:15.123456 +02:00"]),
    calendar=st.sampled_from([None, "Gregorian", "standard", "proleptic_gregorian"]),
)
def test_float_seconds_equal_xarray_to_the_nanosecond(values: list[float], units: str, calendar: str | None) -> None:
    attributes = {"calendar": calendar} if calendar else {}
    array = np.array(values)
    np.testing.assert_array_equal(decode(array, units, **attributes), with_xarray(array, units, **attributes))


@settings(max_examples=200, deadline=None)
@given(
    value=st.floats(-20_000, 20_000, allow_nan=False),
    unit=st.sampled_from(["days", "hours", "minutes", "milliseconds", "microseconds", "nanoseconds"]),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_floats_of_every_unit_equal_xarray(value: float, unit: str, dtype: str) -> None:
    array = np.array([value, 1.5], dtype=dtype)
    np.testing.assert_array_equal(
        decode(array, f"{unit} since 1990-01-01"), with_xarray(array, f"{unit} since 1990-01-01")
    )


@settings(max_examples=100, deadline=None)
@given(
    value=st.floats(730_000, 740_000),
    units=st.sampled_from(["days since 0001-01-01", "days since 0001-01-01 00:00:00 -03:00", "d since 0001-01-01"]),
    calendar=st.sampled_from(["standard", "proleptic_gregorian"]),
)
def test_floats_equal_xarray_where_it_goes_through_cftime(value: float, units: str, calendar: str) -> None:
    array = np.array([value])
    np.testing.assert_array_equal(decode(array, units, calendar=calendar), with_xarray(array, units, calendar=calendar))


@settings(max_examples=100, deadline=None)
@given(value=st.floats(0, 1e9), unit=st.sampled_from(["sec", "s", "secs", "min", "hr"]))
def test_floats_with_abbreviated_units_equal_xarray(value: float, unit: str) -> None:
    scaled = value if unit in {"sec", "s", "secs"} else value / 3600
    array = np.array([scaled, 0.25])
    np.testing.assert_array_equal(
        decode(array, f"{unit} since 1990-01-01"), with_xarray(array, f"{unit} since 1990-01-01")
    )


def test_packed_times_are_unpacked() -> None:
    packed = np.array([0, 10, 25], dtype="i4")
    attributes = {"scale_factor": 0.1, "add_offset": 100.0}
    expected = with_xarray(packed, J2000, **{k: np.float64(v) for k, v in attributes.items()})
    np.testing.assert_array_equal(decode(packed, J2000, **attributes), expected)
    assert refusal(packed, J2000, scale_factor="0.1").code == "axis_undecodable"


def test_dates_of_the_julian_calendar_stand_for_their_instant() -> None:
    for values in (np.array([0, 1]), np.array([0.0, 1.0])):
        assert times(values, "days since 2000-01-01", calendar="julian") == [
            "2000-01-14T00:00:00.000000000",
            "2000-01-15T00:00:00.000000000",
        ]


@pytest.mark.parametrize(
    ("calendar", "value", "expected"),
    [
        ("noleap", 59, "2000-03-01T00:00:00.000000000"),
        ("365_day", 58.5, "2000-02-28T12:00:00.000000000"),
        ("all_leap", 366, "2001-01-01T00:00:00.000000000"),
        ("360_day", 30, "2000-02-01T00:00:00.000000000"),
        ("360_day", 720.25, "2002-01-01T06:00:00.000000000"),
    ],
)
def test_dates_of_artificial_calendars_are_taken_by_their_label(calendar: str, value: float, expected: str) -> None:
    assert times(np.array([value]), "days since 2000-01-01", calendar=calendar) == [expected]


@pytest.mark.parametrize(("calendar", "value"), [("360_day", 59), ("all_leap", 366 + 59)])
def test_a_date_that_the_real_calendar_lacks_is_refused(calendar: str, value: int) -> None:
    error = refusal([value], "days since 2000-01-01", calendar=calendar)
    assert error.code == "axis_undecodable"
    assert "is not a date of the real calendar" in str(error)


@pytest.mark.parametrize(
    ("units", "attributes"),
    [
        ("UTC seconds since 00:00:00 1-Jan-2000", {}),
        ("months since 2000-01-01", {}),
        ("years since 2000-01-01", {}),
        ("fortnights since 2000-01-01", {}),
        ("seconds since 01-01-2000", {}),
        ("seconds since yesterday", {}),
        ("seconds since 2000-01-01 25:00:00", {}),
        ("seconds since 2000-02-30", {}),
        ("seconds since 2000-01-0100", {}),
        (" since 2000-01-01", {}),
        (J2000, {"calendar": "mayan"}),
        ("days since 2000-01-01 00:00 +02:00", {"calendar": "noleap"}),
    ],
)
def test_undecodable_units_are_refused_and_quoted(units: str, attributes: dict[str, Any]) -> None:
    error = refusal([1.0], units, **attributes)
    assert error.code == "axis_undecodable"
    assert repr(units) in str(error)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, np.nan, np.inf]),
        np.array([1.0, 9.969209968386869e36, 9.969209968386869e36]),
        np.array([1, -2147483647, -2147483647], dtype="i4"),
        np.array([1, 2147483647, -2147483648], dtype="i4"),
        np.array([1, -32767, -32767], dtype="i2"),
        np.array([1, -9223372036854775806, 2**63 - 1], dtype="i8"),
    ],
)
@pytest.mark.parametrize("units", [J2000, "1"])
def test_missing_values_in_the_axis_are_refused_with_count_and_first_index(
    values: npt.NDArray[Any], units: str
) -> None:
    error = refusal(values, units)
    assert error.code == "axis_not_finite"
    assert "2 of 3 values" in str(error)
    assert "index 1" in str(error)


def test_declared_fill_values_in_the_axis_are_refused() -> None:
    assert refusal([1.0, -9.0], J2000, fill_value=-9.0).code == "axis_not_finite"
    assert refusal([1.0, -9.0], J2000, missing_value=-9).code == "axis_not_finite"


@pytest.mark.parametrize(
    ("values", "units", "quoted"),
    [
        (np.array([0.0, 1.3e11]), J2000, "130000000000"),
        (np.array([0, 99_999_999], dtype="i4"), "hours since 1979-01-01", "99999999"),
        (np.array([-400_000.5, 0.0]), "days since 2000-01-01", "-400000.5"),
        (np.array([0.0, 1e300]), J2000, "1e+300"),
        (np.array([0, 200_000]), "days since 2000-01-01", "200000"),
        (np.array([106_752.0]), "d since 1970-01-01", "106752"),
    ],
)
@pytest.mark.parametrize("calendar", ["standard", "noleap", "julian"])
def test_times_outside_the_range_of_nanoseconds_are_refused(
    values: npt.NDArray[Any], units: str, quoted: str, calendar: str
) -> None:
    error = refusal(values, units, calendar=calendar)
    assert error.code == "axis_out_of_range"
    assert quoted in str(error)


def test_attributes_describe_the_decoded_time_and_nothing_of_the_source_encoding() -> None:
    attributes = {"standard_name": "time", "leap_second": "0000-00-00_00:00:00", "valid_min": 0.0, "scale_factor": 1.0}
    decoded = decode_axis(axis([1.0], J2000, calendar="Gregorian", **attributes), path="/time", name="g.nc")
    assert decoded.attributes == {
        "standard_name": "time",
        "leap_second": "0000-00-00_00:00:00",
        "units": TIME_UNITS,
        "calendar": TIME_CALENDAR,
    }
    assert decoded.fill_value is None


def test_an_axis_without_a_reference_stays_as_it_is() -> None:
    plain = GranuleVariable(("row",), np.array([3, 1, 2], dtype="i4"), {"units": "km", "valid_min": 0}, -1)
    assert decode_axis(plain, path="/distance", name="g.nc") is plain
    text = GranuleVariable(("row",), np.array(["a"], dtype=object))
    with pytest.raises(InvalidGranuleError, match="not numbers"):
        decode_axis(text, path="/name", name="g.nc")
