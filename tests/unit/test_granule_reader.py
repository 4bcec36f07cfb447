"""From the bytes of a NetCDF file to a granule, on files made here and on the twins of real products."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import netCDF4
import numpy as np
import pytest

from tests.granules_twins import gsfc_twin, quirk_twins, sentinel3_wave_twin, sentinel6_times, sentinel6_twin
from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.testing.sandbox import Limits, Sandbox

MODELS = ("NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
S6 = GranuleSpec("/data_01/time", include=("/data_01/*", "/data_01/ku/*"))
Build = Callable[[netCDF4.Dataset], Any]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., bytes]:
    """Write a file with a time of three rows and whatever ``build`` adds."""

    def write(build: Build, model: str = "NETCDF4", rows: int | None = 3) -> bytes:
        path = tmp_path / "granule.nc"
        with netCDF4.Dataset(path, "w", format=cast("Any", model)) as dataset:
            dataset.createDimension("time", rows)
            time = dataset.createVariable("time", "f8", ("time",))
            time.units = "seconds since 2000-01-01"
            time[:] = [1.0, 2.0, 3.0]
            dataset.set_auto_maskandscale(False)
            build(dataset)
        return path.read_bytes()

    return write


def read(data: bytes, **spec: Any) -> Granule:
    return read_netcdf(data, GranuleSpec("/time", **spec), name="g.nc")


def refusal(data: bytes, **spec: Any) -> InvalidGranuleError:
    with pytest.raises(InvalidGranuleError) as caught:
        read_netcdf(data, GranuleSpec(**{"axis": "/time", **spec}), name="g.nc")
    assert "g.nc" in str(caught.value)
    return caught.value


def add(
    dataset: netCDF4.Dataset, name: str, dtype: Any, dimensions: tuple[str, ...], values: Any, **options: Any
) -> Any:
    variable = dataset.createVariable(name, dtype, dimensions, **options)
    variable.set_auto_maskandscale(False)
    variable.set_auto_chartostring(False)
    variable[...] = values
    return variable


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [3, None])
def test_packed_values_stay_raw_in_every_data_model(make: Callable[..., bytes], model: str, rows: int | None) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        variable = add(dataset, "ssh", "i2", ("time",), [-5, 32767, 12], fill_value=32767)
        variable.setncatts({"scale_factor": 1e-3, "add_offset": np.float32(0.5), "valid_range": np.array([0, 9], "i2")})

    granule = read(make(build, model, rows))
    ssh = granule.variables["ssh"]
    assert ssh.values.dtype.str == "<i2"
    assert ssh.values.tolist() == [-5, 32767, 12]
    assert (ssh.fill_value, type(ssh.fill_value)) == (32767, int)
    assert ssh.attributes == {"scale_factor": 1e-3, "add_offset": 0.5, "valid_range": [0, 9]}
    assert (granule.axis, granule.dimension, granule.rows) == ("time", "time", 3)
    assert granule.variables["time"].values.tolist() == [946684800 * 10**9 + n * 10**9 for n in (1, 2, 3)]


def test_values_of_a_twin_equal_the_raw_read_of_the_library() -> None:
    for twin, spec in (
        (sentinel6_twin(99), GranuleSpec("/data_01/time")),
        (sentinel3_wave_twin(), GranuleSpec("/time")),
        (gsfc_twin(), GranuleSpec("/time", exclude=("/basin_names_table",))),
    ):
        granule = read_netcdf(twin.data, spec, name=twin.name)
        base = spec.axis.rpartition("/")[0]
        with netCDF4.Dataset("x", memory=twin.data) as dataset:
            dataset.set_auto_maskandscale(False)
            for path, variable in granule.variables.items():
                if path == "time":
                    continue
                raw = dataset[f"{base}/{path}"]
                np.testing.assert_array_equal(variable.values, raw[...])
                assert variable.values.dtype == raw.dtype
                assert "_FillValue" not in variable.attributes


def test_groups_are_nested_and_only_what_is_included_is_read() -> None:
    granule = read_netcdf(sentinel6_twin(100).data, S6, name="s6.nc")
    assert "ku/range_ocean" in granule.variables
    assert not any(path.startswith("c/") for path in granule.variables)
    assert list(granule.variables) == sorted(granule.variables)
    assert granule.attributes["mission_name"] == "Sentinel-6A"


def test_global_attributes_become_row_variables() -> None:
    spec = GranuleSpec("/data_01/time", attributes={"cycle_number": "uint16", "pass_number": "uint16"})
    granule = read_netcdf(sentinel6_twin(101, rows=20).data, spec, name="s6.nc")
    for name, value in (("cycle_number", 114), ("pass_number", 101)):
        variable = granule.variables[name]
        assert variable.dimensions == ("time",)
        assert variable.values.dtype.str == "<u2"
        assert variable.values.tolist() == [value] * 20


@pytest.mark.parametrize(
    ("attribute", "dtype", "reason"),
    [
        ("absent", "u2", "attribute_missing"),
        ("pass_number", "i1", "attribute_value"),
        ("title", "u2", "attribute_value"),
    ],
)
def test_an_attribute_that_is_missing_or_does_not_fit_is_refused(attribute: str, dtype: str, reason: str) -> None:
    data = sentinel6_twin(200, rows=5).data
    error = refusal(data, axis="/data_01/time", attributes={attribute: dtype})
    assert error.code == reason
    assert attribute in str(error)


def test_the_dtype_of_an_attribute_must_be_numeric() -> None:
    with pytest.raises(InvalidInputError, match="not a numeric dtype") as caught:
        read_netcdf(
            sentinel6_twin(99, rows=5).data, GranuleSpec("/data_01/time", attributes={"title": "text"}), name="g.nc"
        )
    assert not isinstance(caught.value, InvalidGranuleError)


def test_characters_are_joined_and_strings_taken_as_text(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("width", 5)
        dataset.createDimension("two", 2)
        rows = [list("ab\0\0\0"), list("c d  "), list("     ")]
        add(dataset, "station", "S1", ("time", "width"), np.array(rows, "S1"), fill_value=b"\0")
        add(dataset, "letter", "S1", ("time",), np.array(list("xyz"), "S1"))
        utf8, latin1 = "é".encode().ljust(5), "é".encode("latin-1").ljust(5)
        both = np.frombuffer(utf8 + latin1, dtype="S1").reshape(2, 5)
        add(dataset, "accents", "S1", ("two", "width"), both)
        add(dataset, "crossed", "S1", ("width", "time"), np.array(rows, "S1").T)
        remark = dataset.createVariable("remark", str, ("time",))
        remark[0], remark[2] = "été", "two words "
        dataset.createVariable("unit", str, ())[...] = "m"

    variables = read(make(build)).variables
    assert variables["station"].values.tolist() == ["ab", "c d", ""]
    assert variables["station"].dimensions == ("time",)
    assert variables["station"].fill_value is None
    assert variables["letter"].values.tolist() == ["x", "y", "z"]
    assert variables["accents"].values.tolist() == ["é", "é"]
    assert variables["crossed"].values.tolist() == ["ab", "c d", ""]
    assert variables["remark"].values.tolist() == ["été", "", "two words "]
    assert (variables["unit"].dimensions, variables["unit"].values.item()) == ((), "m")
    assert all(v.values.dtype == object for path, v in variables.items() if path != "time")


def test_the_table_without_time_of_a_twin_is_text() -> None:
    table = read(gsfc_twin().data).variables["basin_names_table"]
    assert table.dimensions == ("basin_name_dim",)
    assert table.values.tolist() == ["1,Arctic Ocean", "2,SOUTHERN OCEAN", "1001,Feature ID: 1001", "4,Île", ""]


def test_the_axis_comes_first_and_big_endian_becomes_little(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("level", 2)
        add(dataset, "profile", ">i4", ("level", "time"), np.arange(6).reshape(2, 3), endian="big", fill_value=-1)
        add(dataset, "scalar", "f4", (), 2.5)

    variables = read(make(build)).variables
    profile = variables["profile"]
    assert profile.dimensions == ("time", "level")
    assert profile.values.dtype.str == "<i4"
    assert profile.values.flags.c_contiguous
    assert profile.values.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert variables["scalar"].values.shape == ()


def test_enumerations_become_integers_and_other_own_types_are_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        flag = dataset.createEnumType("u1", "flag_t", {"good": 0, "bad": 1})
        add(dataset, "flag", flag, ("time",), [0, 1, 0])
        pair = dataset.createCompoundType(np.dtype([("a", "i4"), ("b", "f8")]), "pair_t")
        dataset.createVariable("pair", pair, ("time",))
        dataset.createVariable("list", dataset.createVLType("i4", "list_t"), ("time",))

    data = make(build)
    assert read(data, exclude=("/pair", "/list")).variables["flag"].values.tolist() == [0, 1, 0]
    for name in ("pair", "list"):
        error = refusal(data, include=(f"/{name}",))
        assert error.code == "unsupported_type"
        assert f"/{name}" in str(error)
        assert "exclude it" in str(error)


def test_fill_values_are_taken_from_either_attribute(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        add(dataset, "both", "f4", ("time",), 1, fill_value=np.nan).missing_value = np.float32(np.nan)
        add(dataset, "differ", "i2", ("time",), 1, fill_value=-1).missing_value = np.int16(-2)
        add(dataset, "only", "f4", ("time",), 1).setncattr("missing_value", 1e20)
        add(dataset, "text", "i2", ("time",), 1).setncattr("missing_value", "none")
        add(dataset, "wide", "i1", ("time",), 1).setncattr("missing_value", -9999.0)
        add(dataset, "huge", "f8", ("time",), 1, fill_value=np.finfo("f8").max)

    variables = read(make(build)).variables
    both = variables["both"]
    assert isinstance(both.fill_value, float)
    assert math.isnan(both.fill_value)
    assert both.attributes == {}
    assert (variables["differ"].fill_value, dict(variables["differ"].attributes)) == (-1, {"missing_value": -2})
    assert (variables["only"].fill_value, dict(variables["only"].attributes)) == (float(np.float32(1e20)), {})
    assert (variables["text"].fill_value, dict(variables["text"].attributes)) == (None, {"missing_value": "none"})
    assert (variables["wide"].fill_value, dict(variables["wide"].attributes)) == (None, {"missing_value": -9999.0})
    assert variables["huge"].fill_value == 1.7976931348623157e308


def test_attributes_are_strict_json(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        variable = add(dataset, "x", "f8", ("time",), 1)
        variable.setncatts({"valid_min": np.nan, "limits": np.array([-np.inf, 1.5]), "count": np.int64(3), "empty": ""})
        variable.setncattr_string("names", ["a", "ü"])
        dataset.when = np.float32(0.1)

    granule = read(make(build))
    attributes = granule.variables["x"].attributes
    assert attributes == {
        "valid_min": "NaN",
        "limits": ["-Infinity", 1.5],
        "count": 3,
        "empty": "",
        "names": ["a", "ü"],
    }
    assert json.loads(json.dumps(attributes, allow_nan=False)) == attributes
    assert granule.attributes == {"when": float(np.float32(0.1))}


def test_a_missing_axis_names_the_variables_that_look_like_times() -> None:
    error = refusal(sentinel6_twin(99, rows=5).data)
    assert error.code == "axis_missing"
    assert "/data_01/time" in str(error)
    assert "/data_01/latitude" not in str(error)


def test_a_file_without_any_time_lists_what_it_has(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as dataset:
        dataset.createDimension("n", 1)
        dataset.createVariable("x", "f4", ("n",))
    assert "it has /x" in str(refusal((tmp_path / "x.nc").read_bytes()))


def test_an_axis_of_two_dimensions_is_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("pixel", 2)
        add(dataset, "time2", "f8", ("time", "pixel"), 1).units = "seconds since 2000-01-01"

    assert refusal(make(build), axis="/time2").code == "axis_not_1d"


def test_an_axis_dimension_twice_is_refused(make: Callable[..., bytes]) -> None:
    data = make(lambda dataset: add(dataset, "covariance", "f8", ("time", "time"), 1))
    error = refusal(data)
    assert (error.code, "/covariance" in str(error)) == ("axis_twice", True)


def test_rows_of_another_axis_with_the_same_name_are_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        group = dataset.createGroup("hz20")
        group.createDimension("time", 3)
        add(group, "range", "f8", ("time",), 1)

    data = make(build)
    error = refusal(data)
    assert (error.code, "/hz20/range" in str(error)) == ("other_axis", True)
    assert list(read(data, exclude=("/hz20/*",)).variables) == ["time"]


def test_one_dimension_name_with_two_lengths_is_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        for name, size in (("a", 2), ("b", 3)):
            group = dataset.createGroup(name)
            group.createDimension("level", size)
            add(group, "x", "f8", ("time", "level"), 1)

    assert refusal(make(build)).code == "dimension_conflict"


def test_patterns_that_match_nothing_are_refused(make: Callable[..., bytes]) -> None:
    error = refusal(make(lambda dataset: add(dataset, "x", "f8", ("time",), 1)), include=("/data_01/*",))
    assert (error.code, "/x" in str(error)) == ("nothing_selected", True)


def test_a_variable_larger_than_any_memory_is_refused_unread(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("n", 1 << 40)
        dataset.createVariable("bomb", "f8", ("n",), chunksizes=(1024,))

    assert refusal(make(build)).code == "too_large"


def test_variables_that_are_too_large_only_together_are_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("n", 1000)
        for name in ("a", "b"):
            add(dataset, name, "f8", ("n",), 1)

    data = make(build)
    error = refusal(data, max_nbytes=10_000)
    assert error.code == "too_large"
    assert "16024 bytes" in str(error)  # the axis, and 8000 twice
    assert "10000" in str(error)
    assert refusal(data, max_nbytes=16_119).code == "too_large"  # decoding the axis takes 96 more
    assert set(read(data, max_nbytes=16_120).variables) == {"time", "a", "b"}
    assert set(read(data, max_nbytes=10_000, exclude=("/b",)).variables) == {"time", "a"}


def test_a_chunk_that_is_too_large_is_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("many", None)
        add(dataset, "x", "f8", ("many",), np.arange(3), chunksizes=(1 << 20,), zlib=True)

    data = make(build)
    error = refusal(data, max_nbytes=1 << 24)
    assert (error.code, "chunks of shape (1048576,)" in str(error)) == ("too_large", True)
    assert read(data, max_nbytes=1 << 25).variables["x"].values.tolist() == [0, 1, 2]


def test_text_counts_what_python_takes_for_it(make: Callable[..., bytes]) -> None:
    def characters(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("n", 1000)
        dataset.createDimension("width", 2)
        add(dataset, "label", "S1", ("n", "width"), np.full((1000, 2), b"x"))

    def strings(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("n", 10)
        dataset.createVariable("label", str, ("n",))[:] = np.array(["x" * 1000] * 10, dtype=object)

    for build, least in ((characters, 72_000), (strings, 40_000)):
        data = make(build)
        assert refusal(data, max_nbytes=least).code == "too_large"
        assert read(data, max_nbytes=2 * least).variables["label"].values[-1].startswith("x")


def test_strings_are_the_same_whether_they_are_read_at_once_or_one_by_one(make: Callable[..., bytes]) -> None:
    texts = np.array([f"{number} é" for number in range(60)], dtype=object).reshape(3, 4, 5)

    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("four", 4)
        dataset.createDimension("five", 5)
        dataset.createVariable("deep", str, ("time", "four", "five"))[...] = texts
        dataset.createVariable("single", str, ())[...] = "alone"

    data = make(build)
    for max_nbytes in (6_000, 20 * 4 * len(data), 1 << 30):
        variables = read(data, max_nbytes=max_nbytes).variables
        assert variables["deep"].values.tolist() == texts.tolist()
        assert variables["single"].values.item() == "alone"


def read_unlimited(data: bytes) -> Granule:
    return read_netcdf(data, GranuleSpec("/time", max_nbytes=1 << 40), name="g.nc")


def test_a_machine_without_the_memory_for_a_granule_says_so(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createDimension("n", 1 << 27)
        dataset.createVariable("x", "f8", ("n",), chunksizes=(1024,))

    with Sandbox([read_netcdf.__module__], Limits(256 << 20)) as sandbox:
        outcome = sandbox.run(read_unlimited, make(build))
    assert isinstance(outcome.error, InvalidGranuleError), outcome
    assert outcome.error.code == "too_large"
    assert "more memory than there is" in str(outcome.error)


def test_zeros_in_place_of_the_strings_are_refused_and_not_walked_for_ever(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createVariable("label", str, ("time",))[:] = np.array(list("abc"), dtype=object)

    data = make(build)
    begin = data.index(b"GCOL") + 16
    damaged = data[:begin] + bytes(64) + data[begin + 64 :]
    with Sandbox([read_netcdf.__module__], Limits(cpu_seconds=5)) as sandbox:
        outcome = sandbox.run(read_unlimited, damaged)
    assert isinstance(outcome.error, InvalidGranuleError), outcome
    assert (outcome.error.code, "global heap" in str(outcome.error)) == ("unreadable", True)


def test_an_object_that_leaves_its_heap_is_refused(make: Callable[..., bytes]) -> None:
    def build(dataset: netCDF4.Dataset) -> None:
        dataset.createVariable("label", str, ("time",))[:] = np.array(list("abc"), dtype=object)

    data = make(build)
    size = data.index(b"GCOL") + 24
    for number in (5000, (1 << 64) - 17, (1 << 64) - 1):
        error = refusal(data[:size] + number.to_bytes(8, "little") + data[size + 8 :])
        assert (error.code, "global heap" in str(error)) == ("unreadable", True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty_time_0.nc", "empty"),
        ("undecodable_time_units.nc", "axis_undecodable"),
        ("truncated_hdf5.nc", "truncated"),
        ("zero_bytes.nc", "empty_file"),
        ("plain_text.nc", "not_netcdf"),
    ],
)
def test_each_quirk_is_refused_with_its_own_reason(name: str, reason: str) -> None:
    error = refusal(quirk_twins()[name])
    assert error.code == reason
    assert isinstance(error, EmptyGranuleError) is (reason == "empty")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(b"CDF"), "gzip"),
        (b"<html><body>404</body></html>", "web page"),
        (b"\0" * 4096, "zeros"),
        (b"\x07\x80random", "unknown format"),
        (b"CDF\x09\0\0", "unknown format"),
    ],
)
def test_other_formats_are_described(data: bytes, words: str) -> None:
    error = refusal(data)
    assert error.code == "not_netcdf"
    assert words in str(error)
    assert f"{len(data)} bytes" in str(error)


def test_damage_inside_an_hdf5_file_is_unreadable(make: Callable[..., bytes]) -> None:
    whole = make(lambda dataset: add(dataset, "x", "f8", ("time",), 1))
    for data in (whole[:48] + b"\xff" * 200 + whole[248:], b"\0" * 512 + whole[:100] + b"\0" * 5000):
        assert refusal(data).code == "unreadable"


def test_a_cut_hdf5_file_is_truncated_at_any_length() -> None:
    whole = sentinel6_twin(99, rows=10).data
    for size in (8, 15, 100, len(whole) // 3, len(whole) - 1):
        assert refusal(whole[:size], axis="/data_01/time").code == "truncated"


def test_granules_are_read_from_many_threads() -> None:
    twins = [sentinel6_twin(number, rows=40) for number in range(99, 107)]
    with ThreadPoolExecutor(8) as pool:
        granules = list(pool.map(lambda twin: read_netcdf(twin.data, S6, name=twin.name), twins * 4))
    for granule, twin in zip(granules, twins * 4, strict=True):
        assert granule.name == twin.name
        seconds = sentinel6_times(int(twin.name.split("_")[9]), rows=40)
        assert abs(granule.variables["time"].values[0] / 1e9 - 946684800 - seconds[0]) < 1e-3
