"""Fitting a granule to its collection's schema: what is changed, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.granules_twins import gsfc_twin, sentinel6_twin
from zcollection_engine.errors import SchemaMismatchError
from zcollection_engine.granules.conform import conform, immutable_digest
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec, GranuleVariable
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.schema import PROVENANCE, Scalar, Schema

S6 = GranuleSpec("/data_01/time", include=("/data_01/*", "/data_01/ku/*"))


def variable(
    values: npt.ArrayLike, dtype: str | type = "i2", *, fill: Scalar | None = None, **attributes: Any
) -> GranuleVariable:
    array = np.asarray(values, dtype=dtype)
    return GranuleVariable(("time", "x")[: array.ndim], array, attributes, fill)


def granule(x: GranuleVariable, **others: GranuleVariable) -> Granule:
    time = variable(np.arange(x.values.shape[0]), "i8", units="nanoseconds since 1970-01-01")
    return Granule("g.nc", "time", "time", {"time": time, "x": x, **others})


def schema_of(x: GranuleVariable, **others: GranuleVariable) -> Schema:
    return infer_schema(granule(x, **others))


def fitted(x: GranuleVariable, to: GranuleVariable) -> GranuleVariable:
    return conform(granule(x), schema_of(to)).variables["x"]


def refusal(x: GranuleVariable, to: GranuleVariable) -> str:
    with pytest.raises(SchemaMismatchError) as caught:
        fitted(x, to)
    assert caught.value.code == "schema_mismatch"
    text = str(caught.value)
    assert text.startswith("g.nc: variable 'x'")
    return text


def test_a_granule_fits_the_schema_that_it_gave() -> None:
    for twin, spec in ((sentinel6_twin(99), S6), (gsfc_twin(), GranuleSpec("/time"))):
        read = read_netcdf(twin.data, spec, name=twin.name)
        schema = infer_schema(read)
        result = conform(read, schema)
        assert set(result.variables) == set(schema.by_path) - {PROVENANCE}
        for path, found in read.variables.items():
            assert result.variables[path].values is found.values
            assert result.variables[path].attributes == schema[path].attributes


def test_the_next_granule_of_a_series_fits_and_variables_that_are_new_are_left_out() -> None:
    first, second = (read_netcdf(sentinel6_twin(n, rows=50 + n).data, S6, name=f"{n}.nc") for n in (99, 100))
    extra = replace(second, variables={**second.variables, "new": variable(np.zeros(150), "f8")})
    result = conform(extra, infer_schema(first))
    assert "new" not in result.variables
    assert result.rows == second.rows
    assert result.attributes == second.attributes


def test_a_missing_variable_is_refused() -> None:
    schema = schema_of(variable([1]), y=variable([1]))
    with pytest.raises(SchemaMismatchError, match=r"g\.nc: variable 'y' is missing"):
        conform(granule(variable([1])), schema)


def test_another_axis_or_dimension_is_refused() -> None:
    schema = schema_of(variable([1]))
    with pytest.raises(SchemaMismatchError, match="axis 'time'"):
        conform(Granule("g.nc", "x", "time", granule(variable([1])).variables), schema)
    with pytest.raises(SchemaMismatchError, match="dimension 'n'"):
        conform(Granule("g.nc", "time", "n", granule(variable([1])).variables), schema)


def test_other_dimensions_or_inner_sizes_are_refused() -> None:
    assert "dimensions ('time',)" in refusal(variable([1]), variable([[1, 2]]))
    assert "3 values along 'x'" in refusal(variable([[1, 2, 3]]), variable([[1, 2]]))


def test_safe_casts_are_made_and_others_refused() -> None:
    result = fitted(variable([1, -2], "i2"), variable([0], "i4"))
    assert (result.values.dtype.str, result.values.tolist()) == ("<i4", [1, -2])
    assert fitted(variable([1.5], "f4"), variable([0], "f8")).values.tolist() == [1.5]
    for found, expected in (("i4", "i2"), ("f8", "f4"), ("i2", "u2"), ("f4", "i4"), ("i4", "f4")):
        assert f"dtype {np.dtype(expected).name}" in refusal(variable([1], found), variable([1], expected))


def test_large_integers_are_not_cast_to_floats() -> None:
    assert fitted(variable([2**53], "i8"), variable([0], "f8")).values.tolist() == [2.0**53]
    assert "2**53" in refusal(variable([2**53 + 1], "i8"), variable([0], "f8"))


def test_text_fits_text_only() -> None:
    text = variable(["a", "b"], object)
    assert fitted(text, variable(["c"], object)).values.tolist() == ["a", "b"]
    assert "has text" in refusal(text, variable([1]))
    assert "int16 values" in refusal(variable([1]), text)
    marked = variable(["a", "-"], object, fill="-")
    assert fitted(marked, variable(["c"], object, fill="?")).values.tolist() == ["a", "?"]
    assert "no fill value" in refusal(marked, text)


def test_missing_values_get_the_fill_value_of_the_schema() -> None:
    result = fitted(variable([1, -1, 3], fill=-1), variable([0], "i4", fill=99))
    assert (result.values.tolist(), result.fill_value) == ([1, 99, 3], 99)
    floats = fitted(variable([1.0, math.nan], "f4", fill=math.nan), variable([0], "f8", fill=1.7976931348623157e308))
    assert floats.values.tolist() == [1.0, 1.7976931348623157e308]
    back = fitted(variable([1.0, 9e9], "f8", fill=9e9), variable([0], "f8", fill=math.nan))
    np.testing.assert_array_equal(back.values, [1.0, math.nan])


def test_values_that_would_become_missing_are_refused() -> None:
    assert "not missing" in refusal(variable([1, 99], fill=-1), variable([0], fill=99))
    assert "not missing" in refusal(variable([1, 99]), variable([0], fill=99))
    assert fitted(variable([1, 98]), variable([0], fill=99)).values.tolist() == [1, 98]


def test_missing_values_need_a_fill_value_except_in_floats() -> None:
    assert "no fill value" in refusal(variable([1, -1], fill=-1), variable([0]))
    assert fitted(variable([1, 2], fill=-1), variable([0])).values.tolist() == [1, 2]
    result = fitted(variable([1, -1], "f8", fill=-1), variable([0], "f8"))
    np.testing.assert_array_equal(result.values, [1, math.nan])


def test_equal_packing_keeps_raw_values_whatever_its_spelling() -> None:
    ours = variable([0], scale_factor=0.001, add_offset=0)
    for theirs in ({"scale_factor": [0.001]}, {"scale_factor": np.float64(0.001), "add_offset": 0.0}):
        assert fitted(variable([5, -7], **theirs), ours).values.tolist() == [5, -7]


def test_another_packing_is_decoded_and_encoded_again() -> None:
    ours = variable([0], "i4", fill=-99, scale_factor=0.0001, add_offset=10.0)
    result = fitted(variable([5, -1, 20_000], fill=-1, scale_factor=0.001), ours)
    assert result.values.tolist() == [-99_950, -99, 100_000]
    assert result.attributes["scale_factor"] == 0.0001


def test_a_packing_that_loses_more_than_half_a_unit_is_refused() -> None:
    coarse = variable([0], scale_factor=0.01)
    assert fitted(variable([10, 20], scale_factor=0.001), coarse).values.tolist() == [1, 2]
    assert "half a unit" in refusal(variable([10, 13], scale_factor=0.001), coarse)
    shifted = variable([0], scale_factor=0.001, add_offset=0.0005)
    assert fitted(variable([7], scale_factor=0.001), shifted).values.size == 1


def test_a_packing_that_overflows_or_meets_the_fill_value_is_refused() -> None:
    fine = variable([0], scale_factor=0.0001, fill=-32768)
    assert "overflows" in refusal(variable([32_000], scale_factor=0.001), fine)
    assert "not missing" in refusal(variable([100], scale_factor=0.001), replace(fine, fill_value=1000))
    wide = variable([0], "i8", scale_factor=2.0)
    assert "overflows" in refusal(variable([2**52], "i8", scale_factor=2.0**13), wide)


def test_packed_integers_fit_a_collection_of_decoded_floats() -> None:
    result = fitted(variable([5, -1], fill=-1, scale_factor=0.5), variable([0], "f4", fill=math.nan))
    np.testing.assert_array_equal(result.values, np.array([2.5, math.nan], "f4"))
    assert "pack it" in refusal(variable([1.5], "f8"), variable([0], scale_factor=0.1))


@pytest.mark.parametrize("attributes", [{"scale_factor": "0.1"}, {"scale_factor": 0}, {"add_offset": math.inf}])
def test_a_packing_that_is_none_is_refused(attributes: dict[str, Any]) -> None:
    assert "correct" in refusal(variable([1], **attributes), variable([0]))


@settings(max_examples=300)
@given(
    raw=st.lists(st.integers(-30_000, 30_000), min_size=1, max_size=20),
    theirs=st.sampled_from([1.0, 0.1, 0.001, 3e-4, -0.01]),
    ours=st.sampled_from([1.0, 0.1, 0.001, 1e-4, -2e-4]),
    offset=st.sampled_from([0.0, 1.5, -1300000.0]),
    dtype=st.sampled_from(["i2", "i4", "i8", "f4", "f8"]),
)
def test_whatever_fits_is_within_half_a_unit(
    raw: list[int], theirs: float, ours: float, offset: float, dtype: str
) -> None:
    found = variable(raw, scale_factor=theirs, fill=-32768)
    wanted = variable([0], dtype, scale_factor=ours, add_offset=offset)
    try:
        result = fitted(found, wanted)
    except SchemaMismatchError:
        return
    decoded = result.values.astype("f8") * ours + offset
    assert np.abs(decoded - np.array(raw) * theirs).max() <= abs(theirs) / 2 * (1 + 1e-6) + 1e-8


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"units": "dB"}, {"units": "m"}), ({}, {"units": "m"}), ({"units": "m"}, {}), ({"_Unsigned": "true"}, {})],
)
def test_attributes_that_change_the_meaning_must_agree(found: dict[str, str], expected: dict[str, str]) -> None:
    assert "another meaning" in refusal(variable([1], **found), variable([1], **expected))


@pytest.mark.parametrize(
    ("units", "calendars", "fits"),
    [
        ("seconds since 2000-01-01", ("standard", "proleptic_gregorian"), True),
        ("days since 0001-01-01", ("standard", "Gregorian"), True),
        ("days since 2000-01-01", ("standard", "noleap"), False),
        ("UTC seconds since 2000", ("standard", "gregorian"), True),
        ("UTC seconds since 2000", ("standard", "julian"), False),
    ],
)
def test_calendars_must_count_alike(units: str, calendars: tuple[str, str], fits: bool) -> None:
    theirs, ours = (variable([1], units=units, calendar=calendar) for calendar in calendars)
    if fits:
        assert fitted(theirs, ours).attributes["calendar"] == calendars[1]
    else:
        assert "calendar" in refusal(theirs, ours)


def test_unsigned_values_in_signed_integers_are_cast_and_packed_as_what_they_mean() -> None:
    byte = variable([-1, 5, -2], "i1", fill=-2, _Unsigned="true")
    wide = fitted(byte, variable([0], "i2", fill=-1, _Unsigned="true"))
    assert (wide.values.dtype.str, wide.values.tolist(), wide.fill_value) == ("<i2", [255, 5, -1], -1)
    packed = fitted(byte, variable([0], "i1", fill=-3, _Unsigned="true", scale_factor=5.0))
    assert packed.values.tolist() == [51, 1, -3]
    assert "not missing" in refusal(byte, variable([0], "i2", fill=255, _Unsigned="true"))


def test_every_declared_missing_value_stays_missing() -> None:
    found = variable([1, -1, -2, -3], fill=-1, missing_value=[-2, -3])
    same = variable([0], "i4", fill=-1, missing_value=[-2, -3])
    assert fitted(found, same).values.tolist() == [1, -1, -2, -3]
    assert fitted(found, variable([0], fill=-9)).values.tolist() == [1, -9, -9, -9]
    assert fitted(found, variable([0], fill=-9, missing_value=-3)).values.tolist() == [1, -9, -9, -3]
    coarse = variable([0], "i4", fill=-9, missing_value=-2, scale_factor=0.5)
    assert fitted(found, coarse).values.tolist() == [2, -9, -9, -9]
    twice = variable([0], fill=-2, missing_value=-2)
    assert fitted(variable([1, -1, -2], fill=-1, missing_value=-2), twice).values.tolist() == [1, -2, -2]
    assert "not missing" in refusal(variable([1, -2], fill=-1), same)


def test_a_collection_of_booleans_takes_no_other_packing() -> None:
    assert "dtype bool" in refusal(variable([1], scale_factor=2.0), variable([True], bool))


def test_attributes_that_only_describe_may_differ() -> None:
    ours = variable([1], units="1", long_name="old", comment="a", calendar="Gregorian")
    result = fitted(variable([1], long_name="new", calendar="standard", _Unsigned="false"), ours)
    assert result.attributes["long_name"] == "old"


def test_immutable_variables_are_kept_for_comparison() -> None:
    first, second = (
        read_netcdf(gsfc_twin(day).data, GranuleSpec("/time"), name=day) for day in ("2022-01-01", "2022-01-02")
    )
    schema = infer_schema(first)
    digests = [immutable_digest(conform(read, schema), schema) for read in (first, second)]
    assert digests[0] == digests[1]
    assert list(digests[0]) == ["basin_names_table"]


def test_digests_depend_on_values_shape_and_dtype_and_on_nothing_else() -> None:
    base = np.array([[1.0, math.nan], [3.0, 4.0]])
    payload = base.copy()
    payload.view("u8")[0, 1] |= 1
    same = [base, base.astype(">f8"), np.asfortranarray(base), payload]
    assert len({immutable_digest({"x": values})["x"] for values in same}) == 1
    other = [base, base.astype("f4"), base.reshape(4), base + 1]
    assert len({immutable_digest({"x": values})["x"] for values in other}) == 4
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""]]
    assert len({immutable_digest({"x": np.array(text, dtype=object)})["x"] for text in texts}) == 3


def test_a_digest_is_taken_in_the_dtype_of_the_schema() -> None:
    table = GranuleVariable(("level",), np.array([1, 2], "i4"))
    schema = infer_schema(granule(variable([1]), table=table))
    narrow = granule(variable([1]), table=replace(table, values=table.values.astype("i2")))
    assert immutable_digest(narrow, schema) == immutable_digest(conform(narrow, schema), schema)
    assert immutable_digest(narrow) != immutable_digest(narrow, schema)
    assert set(immutable_digest(narrow)) == {"table"}
