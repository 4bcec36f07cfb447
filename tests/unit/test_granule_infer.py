"""The schema of a new collection, from its first granule."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.granules_twins import gsfc_twin, sentinel6_twin
from zcollection_engine.chunking import MAX_CHUNK_NBYTES, chunk_rows, row_chunks, whole_chunks
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec, GranuleVariable
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.schema import PROVENANCE, TIME_CALENDAR, TIME_UNITS, Codec, Dimension, Schema


def granule(**variables: GranuleVariable) -> Granule:
    rows = GranuleVariable(("time",), np.arange(100), {"units": TIME_UNITS})
    return Granule("g.nc", "time", "time", {"time": rows, **variables})


def values(shape: tuple[int, ...], dtype: str = "f8", **options: Any) -> GranuleVariable:
    dimensions = ("time", "x", "y")[: len(shape)]
    return GranuleVariable(dimensions, np.zeros(shape, dtype), **options)


@pytest.mark.parametrize(("rows", "expected"), [(1, 8), (100, 1024), (3373, 32768), (5039, 32768), (60090, 524288)])
def test_chunk_rows_are_a_power_of_two_near_eight_granules(rows: int, expected: int) -> None:
    assert chunk_rows(rows) == expected


@given(st.integers(1, 10**7))
def test_chunk_rows_are_nearest_in_their_logarithm(rows: int) -> None:
    exponent = math.log2(chunk_rows(rows))
    assert exponent == int(exponent)
    assert abs(exponent - math.log2(8 * rows)) <= 0.5


@given(st.integers(1, 1 << 20), st.lists(st.integers(0, 3000), max_size=3), st.sampled_from([1, 2, 4, 8, 16]))
def test_a_chunk_never_exceeds_four_megabytes_nor_has_an_empty_side(rows: int, inner: list[int], itemsize: int) -> None:
    for chunks in (row_chunks(rows, inner, itemsize), whole_chunks([rows, *inner], itemsize)):
        assert math.prod(chunks) * itemsize <= MAX_CHUNK_NBYTES
        assert min(chunks) >= 1
        assert all(chunk <= max(1, size) for chunk, size in zip(chunks, [rows, *inner], strict=True))


def test_a_wide_variable_gets_fewer_rows_and_is_split_only_where_one_row_is_too_large() -> None:
    assert row_chunks(1024, (1000,), 8) == (512, 1000)
    assert row_chunks(1024, (1000, 1000), 8) == (1, 500, 1000)
    assert row_chunks(1000, (10,), 8) == (1000, 10)


def test_a_twin_gives_its_schema() -> None:
    twin = sentinel6_twin(99, rows=200)
    spec = GranuleSpec("/data_01/time", include=("/data_01/*", "/data_01/ku/*"), attributes={"pass_number": "uint16"})
    read = read_netcdf(twin.data, spec, name=twin.name)
    schema = infer_schema(read)
    assert (schema.axis, schema.dimension) == ("time", "time")
    assert schema.dimensions == (Dimension("time", None),)
    assert set(schema.by_path) == {*read.variables, PROVENANCE}
    ssha = schema["ku/ssha"]
    assert (ssha.dtype, ssha.chunks, ssha.fill_value, ssha.attributes["scale_factor"]) == (
        "<i4",
        (2048,),
        2147483647,
        1e-4,
    )
    time = schema["time"]
    assert (time.dtype, time.fill_value) == ("<i8", None)
    assert (time.attributes["units"], time.attributes["calendar"]) == (TIME_UNITS, TIME_CALENDAR)
    assert time.attributes["long_name"] == "time in UTC"
    assert dict(schema.attributes) == {
        "institution": "EUMETSAT",
        "title": "L2 LR Non Time Critical",
        "mission_name": "Sentinel-6A",
    }


def test_a_table_without_time_and_inner_dimensions_keep_their_sizes() -> None:
    schema = infer_schema(read_netcdf(gsfc_twin().data, GranuleSpec("/time"), name="g.nc"))
    table = schema["basin_names_table"]
    assert (table.dtype, table.dimensions, table.chunks) == ("string", ("basin_name_dim",), (5,))
    assert schema.immutable_variables == (table,)
    assert schema.sizes == {"time": None, "basin_name_dim": 5, "src_flag_dim": 6}
    assert schema["source_flag"].chunks == (4096, 6)
    assert schema["ssh"].fill_value == 1.7976931348623157e308
    assert repr(schema["latitude"].fill_value) == "nan"
    assert set(schema.attributes) == {"Conventions", "title", "project", "creator_email"}


def test_text_counts_sixteen_bytes_a_value() -> None:
    text = GranuleVariable(("time", "x"), np.full((100, 1000), "a", dtype=object))
    assert infer_schema(granule(text=text))["text"].chunks == (256, 1000)


def test_provenance_is_a_row_variable_unless_it_is_not_wanted() -> None:
    provenance = infer_schema(granule())[PROVENANCE]
    assert (provenance.dtype, provenance.dimensions, provenance.chunks) == ("<u8", ("time",), (1024,))
    assert not infer_schema(granule(), provenance=False).keeps_provenance
    with pytest.raises(InvalidGranuleError, match="reserved"):
        infer_schema(granule(**{PROVENANCE: values((100,))}))


def test_codecs_are_written_out_and_can_be_chosen() -> None:
    read = granule(x=values((100,), "i2"), flag=values((100,), "i1"))
    assert infer_schema(read) == infer_schema(read, codecs="default")
    assert [c.name for c in codecs_of(infer_schema(read), "x")] == ["blosc", "zstd"]
    for path in ("flag", PROVENANCE):
        assert [(c.name, c["level"]) for c in codecs_of(infer_schema(read), path)] == [("zstd", 3)]
    chosen = infer_schema(read, codecs={"x": ["gzip"]})
    assert [c.name for c in codecs_of(chosen, "x")] == ["gzip", "zstd"]
    assert [c.name for c in codecs_of(infer_schema(read, zarr_format=2), "x")] == ["zstd"]
    with pytest.raises(InvalidInputError, match="variable 'x': codec 'lzma'"):
        infer_schema(read, codecs={"x": ["lzma"]})


def codecs_of(schema: Schema, path: str) -> tuple[Codec, ...]:
    codecs = schema[path].codecs
    assert codecs is not None
    return codecs.bytes_to_bytes


def test_chunk_rows_can_be_given() -> None:
    schema = infer_schema(granule(x=values((100, 50_000))), chunk_rows=1000)
    assert (schema["time"].chunks, schema["x"].chunks) == ((1000,), (8, 50_000))
    with pytest.raises(InvalidInputError, match="at least 1"):
        infer_schema(granule(), chunk_rows=0)


def test_a_scalar_is_stored_once() -> None:
    scalar = GranuleVariable((), np.array(3.5))
    assert infer_schema(granule(scalar=scalar))["scalar"].chunks == ()


def test_attributes_from_elsewhere_become_json() -> None:
    x = values((100,), attributes={"valid_min": np.float32("nan"), "flag_values": np.arange(2, dtype="i1")})
    whole = replace(granule(x=x), attributes={"title": np.str_("t"), "keywords": ["a"], "id": "1"})
    schema = infer_schema(whole)
    assert schema["x"].attributes == {"valid_min": "NaN", "flag_values": [0, 1]}
    assert schema.attributes == {"title": "t", "keywords": ["a"]}


def test_a_dimension_with_two_sizes_is_refused() -> None:
    with pytest.raises(InvalidGranuleError, match="'x'"):
        infer_schema(granule(a=values((100, 2)), b=values((100, 3))))
