"""Drift policies: what a collection does with a granule that departs from its schema."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcollection_engine.errors import FormatError, InvalidInputError, SchemaMismatchError
from zcollection_engine.granules.conform import conform, new_variables
from zcollection_engine.granules.drift import CHOICES, DEFAULT_POLICY, DriftPolicy, policy_from_json, remedy
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.schema import PROVENANCE, Scalar, Schema

NAMES = ("time", "x", "y")


def variable(
    values: npt.ArrayLike, dtype: str | type = "i2", *, fill: Scalar | None = None, **attributes: Any
) -> GranuleVariable:
    array = np.asarray(values, dtype=dtype)
    return GranuleVariable(NAMES[: array.ndim], array, attributes, fill)


def table(values: npt.ArrayLike, dtype: str = "i2") -> GranuleVariable:
    return GranuleVariable(("level",), np.asarray(values, dtype=dtype))


def granule(rows: int = 1, /, **variables: GranuleVariable) -> Granule:
    time = variable(np.arange(rows), "i8", units="nanoseconds since 1970-01-01")
    return Granule("g.nc", "time", "time", {"time": time, **variables})


def schema_of(rows: int = 1, /, **variables: GranuleVariable) -> Schema:
    return infer_schema(granule(rows, **variables))


def fitted(x: GranuleVariable, to: GranuleVariable, **policy: Any) -> GranuleVariable:
    rows = x.values.shape[0]
    return conform(granule(rows, x=x), schema_of(to.values.shape[0], x=to), DriftPolicy(**policy)).variables["x"]


def refusal(
    found: Granule, schema: Schema, policy: DriftPolicy = DEFAULT_POLICY, **options: Any
) -> SchemaMismatchError:
    with pytest.raises(SchemaMismatchError) as caught:
        conform(found, schema, policy, **options)
    assert str(caught.value).startswith("g.nc: ")
    assert set(caught.value.context) == {"granule", "variable", "found", "expected"}
    return caught.value


def refused(x: GranuleVariable, to: GranuleVariable, **policy: Any) -> str:
    error = refusal(granule(x=x), schema_of(x=to), DriftPolicy(**policy))
    assert error.context["variable"] == "x"
    return str(error)


def test_the_defaults_are_those_that_the_documentation_tells() -> None:
    assert DriftPolicy().to_json() == {
        "missing": "reject",
        "new": "ignore",
        "dtype": "cast",
        "packing": "re-encode",
        "size": "reject",
        "units": "convert",
        "immutable": "reject",
    }
    assert policy_from_json({}) == DriftPolicy() == DEFAULT_POLICY


@given(st.fixed_dictionaries({}, optional={kind: st.sampled_from(choices) for kind, choices in CHOICES.items()}))
def test_a_policy_survives_json(chosen: dict[str, Any]) -> None:
    policy = DriftPolicy(**chosen)
    assert policy_from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert policy_from_json(chosen) == policy


@pytest.mark.parametrize("data", [{"colour": "reject"}, {"missing": "pad"}, {"new": None}, {"size": ["pad"]}])
def test_a_policy_that_this_version_does_not_know_is_not_read(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=f"{next(iter(data))!r}.*this version"):
        policy_from_json(data)


def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidInputError, match="'missing' is 'pad'; choose one of fill, reject"):
        DriftPolicy(missing="pad")  # type: ignore[arg-type]
    assert remedy("new") == "the drift policy new = 'ignore' or 'add' would allow it"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (variable([[1, 2]], "i4", fill=-9), [[-9, -9], [-9, -9], [-9, -9]]),
        (variable([1], "f4"), [math.nan] * 3),
        (variable([1], "f8", fill=1e20), [1e20] * 3),
        (variable(["a"], object), [""] * 3),
        (variable(["a"], object, fill="-"), ["-"] * 3),
        (variable([1], fill=-1, scale_factor=0.1), [-1] * 3),
    ],
)
def test_a_missing_variable_is_filled(wanted: GranuleVariable, expected: list[Any]) -> None:
    schema = schema_of(x=wanted)
    result = conform(granule(3), schema, DriftPolicy(missing="fill")).variables["x"]
    if wanted.values.dtype.kind == "f":
        np.testing.assert_array_equal(result.values, expected)
    else:
        assert result.values.tolist() == expected
    assert result.values.dtype == schema["x"].numpy_dtype
    assert (result.dimensions, result.attributes) == (wanted.dimensions, wanted.attributes)


def test_a_missing_variable_is_refused_by_default_and_the_error_tells_what_allows_it() -> None:
    error = refusal(granule(), schema_of(x=variable([1], fill=-1)))
    assert "variable 'x' is missing" in str(error)
    assert "missing = 'fill' would allow it" in str(error)


@pytest.mark.parametrize("wanted", [variable([1]), variable([True], bool)])
def test_a_missing_variable_without_a_fill_value_is_refused(wanted: GranuleVariable) -> None:
    error = refusal(granule(), schema_of(x=wanted), DriftPolicy(missing="fill"))
    assert "without a fill value" in str(error)
    assert "would allow" not in str(error)


def test_what_places_rows_may_never_be_missing() -> None:
    schema, policy = schema_of(cycle=variable([1], fill=-1)), DriftPolicy(missing="fill")
    assert conform(granule(), schema, policy).variables["cycle"].values.tolist() == [-1]
    error = refusal(granule(), schema, policy, required=("cycle",))
    assert "'cycle' is missing" in str(error)
    assert "would allow" not in str(error)


def test_a_variable_that_is_stored_once_may_not_be_missing() -> None:
    error = refusal(granule(), schema_of(levels=table([1, 2])), DriftPolicy(missing="fill"))
    assert "'levels' is missing" in str(error)
    assert "would allow" not in str(error)


def test_new_variables_are_those_with_rows_that_the_schema_lacks() -> None:
    found = granule(b=variable([1]), a=variable([1.0], "f8"), levels=table([1]), **{PROVENANCE: variable([1])})
    schema = schema_of(b=variable([1]))
    assert new_variables(found, schema) == ("a",)
    assert new_variables(found, schema_of()) == ("a", "b")
    assert new_variables(granule(), schema) == ()
    without_provenance = infer_schema(granule(b=variable([1])), provenance=False)
    assert new_variables(found, without_provenance) == ("a",)


@pytest.mark.parametrize("choice", ["ignore", "add"])
def test_new_variables_are_left_out(choice: Any) -> None:
    result = conform(granule(x=variable([1]), y=variable([2])), schema_of(x=variable([1])), DriftPolicy(new=choice))
    assert set(result.variables) == {"time", "x"}


def test_new_variables_may_be_refused_with_or_without_rows() -> None:
    policy, schema = DriftPolicy(new="reject"), schema_of(x=variable([1]))
    assert conform(granule(x=variable([1]), **{PROVENANCE: variable([1])}), schema, policy).rows == 1
    error = refusal(granule(x=variable([1]), y=variable([2]), levels=table([1])), schema, policy)
    assert "'levels', 'y'" in str(error)
    assert "new = 'ignore' or 'add' would allow it" in str(error)


def test_another_dtype_may_be_refused_even_if_nothing_would_be_lost() -> None:
    narrow, wide = variable([1], "i2"), variable([1], "i4")
    text = refused(narrow, wide, dtype="reject")
    assert "dtype int16" in text
    assert "dtype int32" in text
    assert "dtype = 'cast' would allow it" in text
    assert fitted(narrow, wide).values.tolist() == [1]
    big_endian = replace(wide, values=wide.values.astype(">i4"))
    assert fitted(big_endian, wide, dtype="reject").values.dtype.str == "<i4"


def test_another_packing_may_be_refused_even_if_nothing_would_be_lost() -> None:
    theirs, ours = variable([10], scale_factor=0.1), variable([1], scale_factor=1.0)
    text = refused(theirs, ours, packing="reject")
    assert "scale_factor 0.1 and add_offset 0.0" in text
    assert "packing = 're-encode' would allow it" in text
    assert fitted(theirs, ours).values.tolist() == [1]
    spelt = variable([10], scale_factor=[0.1], add_offset=0)
    assert fitted(theirs, spelt, packing="reject").values.tolist() == [10]


def test_converted_units_are_no_other_packing() -> None:
    ours = variable([1], scale_factor=0.01, units="m")
    for theirs in (variable([250], units="cm"), variable([250], scale_factor=0.01, units="m")):
        assert fitted(theirs, ours, packing="reject").values.tolist() == [250]
    same_scale = variable([2500], scale_factor=0.01, units="cm")
    assert fitted(same_scale, ours, packing="reject").values.tolist() == [25]
    assert "scale_factor 0.1" in refused(variable([2500], scale_factor=0.1, units="cm"), ours, packing="reject")


def test_other_units_are_converted_and_may_be_refused() -> None:
    theirs, ours = variable([250.0], "f8", units="cm"), variable([1.0], "f8", units="m")
    result = fitted(theirs, ours)
    assert (result.values.tolist(), result.attributes["units"]) == ([2.5], "m")
    text = refused(theirs, ours, units="reject")
    assert "units 'cm'" in text
    assert "units 'm'" in text
    assert "units = 'convert' would allow it" in text
    assert fitted(replace(theirs, attributes={"units": "metres"}), ours, units="reject").values.tolist() == [250]
    assert "would allow" not in refused(variable([1], units="dB"), ours, units="reject")


def test_a_conversion_that_loses_is_refused_with_the_units_it_is_between() -> None:
    text = refused(variable([123], units="cm"), variable([1], units="m"))
    assert "has units 'cm', the collection has units 'm'; converted to these it has scale_factor 0.01" in text
    assert "the collection has scale_factor 1.0" in text
    assert "half a unit" in text


def test_missing_values_are_not_converted() -> None:
    found = variable([3, -1, 5], fill=-1, units="minutes", missing_value=5)
    result = fitted(found, variable([0], "i4", fill=-300, units="s"))
    assert result.values.tolist() == [180, -300, -300]
    floats = fitted(
        variable([1.0, math.nan, math.inf], "f4", fill=math.nan, units="km"), variable([0.0], "f4", units="m")
    )
    np.testing.assert_array_equal(floats.values, np.array([1000.0, math.nan, math.inf], "f4"))
    hours = variable([24, -1], fill=-1, units="hours since 2000-01-01")
    assert fitted(hours, variable([0], fill=-9, units="days since 2000-01-01")).values.tolist() == [1, -9]
    assert "not missing" in refused(variable([3], units="minutes"), variable([0], fill=180, units="s"))


def test_the_times_of_an_axis_are_not_converted() -> None:
    found = granule()
    axis = variable([0], "i8", units="seconds since 2000-01-01")
    schema = infer_schema(replace(found, variables={"time": axis}))
    error = refusal(found, schema)
    assert error.context["variable"] == "time"
    assert "correct the units in the schema" in str(error)


def test_text_is_not_converted() -> None:
    assert "text in units" in refused(variable(["1"], object, units="cm"), variable(["2"], object, units="m"))
    same = variable(["1"], object, units="metre")
    assert fitted(same, variable(["2"], object, units="m")).values.tolist() == ["1"]


def test_a_shorter_dimension_may_be_padded_and_a_longer_one_never_fits() -> None:
    short, wide = variable([[1, 2]], fill=-1), variable([[1, 2, 3]], fill=-9)
    assert fitted(short, wide, size="pad").values.tolist() == [[1, 2, -9]]
    assert "size = 'pad' would allow it" in refused(short, wide)
    assert "would allow" not in refused(wide, short)
    assert "3 values along 'x'" in refused(wide, short, size="pad")


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (variable([[1.0]], "f4"), variable([[0.0, 0.0]], "f4"), [[1.0, math.nan]]),
        (variable([["a"]], object), variable([["b", "c"]], object), [["a", ""]]),
        (variable([[]]), variable([[1]], fill=7), [[7]]),
        (variable([[[1]]], fill=0), variable([[[0, 0], [0, 0]]], fill=0), [[[1, 0], [0, 0]]]),
        (variable([[5]], scale_factor=0.1), variable([[0, 0]], fill=-1, scale_factor=0.01), [[50, -1]]),
    ],
)
def test_padding_is_the_fill_value_of_the_collection(
    found: GranuleVariable, wanted: GranuleVariable, expected: list[Any]
) -> None:
    result = fitted(found, wanted, size="pad").values
    if result.dtype.kind == "f":
        np.testing.assert_array_equal(result, expected)
    else:
        assert result.tolist() == expected


def test_padding_needs_a_fill_value() -> None:
    assert "without a fill value" in refused(variable([[1]]), variable([[1, 2]]), size="pad")


def test_rows_are_never_padded() -> None:
    found = granule(2, x=variable([1]))
    assert "1 values along 'time'" in str(refusal(found, schema_of(x=variable([1], fill=0)), DriftPolicy(size="pad")))


def test_tables_that_are_stored_once_are_padded_too() -> None:
    wanted = replace(table([1, 2, 3]), fill_value=0)
    result = conform(granule(levels=table([1])), schema_of(levels=wanted), DriftPolicy(size="pad"))
    assert result.variables["levels"].values.tolist() == [1, 0, 0]


@settings(max_examples=150)
@given(data=st.data(), rows=st.integers(1, 4), dtype=st.sampled_from(["i2", "i4", "f8"]))
def test_padding_keeps_the_granules_part_and_marks_the_rest(data: st.DataObject, rows: int, dtype: str) -> None:
    whole = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    part = tuple(data.draw(st.integers(0, size)) for size in whole)
    values = np.array(
        data.draw(st.lists(st.integers(0, 1000), min_size=rows * part[0] * part[1], max_size=rows * part[0] * part[1]))
    ).reshape(rows, *part)
    wanted = variable(np.zeros((1, *whole)), dtype, fill=-1)
    result = fitted(variable(values, "i2"), wanted, size="pad").values
    assert result.shape == (rows, *whole)
    np.testing.assert_array_equal(result[:, : part[0], : part[1]], values)
    assert (result == -1).sum() == result.size - values.size
