"""A schema as JSON, and the file in which a user writes one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.granules_twins import gsfc_twin, sentinel6_twin
from zcollection_engine.codecs import PROFILES, parse_codecs, with_codecs
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.schema import PROVENANCE, TEXT, TIME_UNITS, Dimension, Schema, Variable
from zcollection_engine.schema_json import load_schema_file, schema_from_json, schema_to_json

NAMES = st.text("abcxyz_09", min_size=1, max_size=6)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
ATTRIBUTES = st.dictionaries(NAMES, JSON_VALUES, max_size=3)


def fill_values(dtype: str) -> st.SearchStrategy[Any]:
    if dtype == TEXT:
        return st.none() | st.text()
    kind = np.dtype(dtype).kind
    if kind == "f":
        floats = st.floats(width=32 if dtype == "<f4" else 64, allow_nan=False)
        return st.none() | st.just(math.nan) | floats | st.just(float(np.finfo(dtype).max))
    if kind == "b":
        return st.none() | st.booleans()
    bounds = np.iinfo(dtype)
    return st.none() | st.integers(int(bounds.min), int(bounds.max))


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    inner = draw(st.dictionaries(st.text("pqrs", min_size=1, max_size=3), st.integers(0, 50), max_size=3))
    axis = draw(st.sampled_from(["time", "ku/time", "deep/er/t"]))
    variables = [Variable(axis, "<i8", ("rows",), (draw(st.integers(1, 9999)),), None, draw(ATTRIBUTES))]
    for path in draw(st.sets(st.builds("/".join, st.lists(NAMES, min_size=1, max_size=3)), max_size=5)):
        dtype = draw(st.sampled_from(["|i1", "<i2", "<i4", "<i8", "|u1", "<u8", "<f4", "<f8", "|b1", TEXT]))
        dimensions = tuple(draw(st.lists(st.sampled_from(sorted(inner)), unique=True, max_size=3)) if inner else ())
        if draw(st.booleans()):
            dimensions = ("rows", *dimensions)
        chunks = tuple(draw(st.integers(1, 99)) for _ in dimensions)
        fill_value = draw(fill_values(dtype))
        variable = Variable(f"v/{path}", dtype, dimensions, chunks, fill_value, draw(ATTRIBUTES))
        wanted = draw(st.none() | st.sampled_from([*PROFILES, ["gzip"], ["crc32c", "zstd"], ["blosc"]]))
        variables.append(variable if wanted is None else replace(variable, codecs=parse_codecs(wanted, variable)))
    declared = (Dimension("rows", None), *(Dimension(name, size) for name, size in inner.items()))
    return Schema(axis, "rows", declared, tuple(variables), draw(ATTRIBUTES))


@settings(max_examples=150, deadline=None)
@given(schemas())
def test_a_schema_survives_strict_json(schema: Schema) -> None:
    text = json.dumps(schema_to_json(schema), allow_nan=False)
    assert schema_from_json(json.loads(text)) == schema


@pytest.mark.parametrize(
    ("data", "spec"),
    [(sentinel6_twin(99, rows=20).data, GranuleSpec("/data_01/time")), (gsfc_twin(rows=20).data, GranuleSpec("/time"))],
)
def test_the_schema_of_a_twin_survives_json(data: bytes, spec: GranuleSpec) -> None:
    schema = infer_schema(read_netcdf(data, spec, name="g.nc"))
    assert schema_from_json(json.loads(json.dumps(schema_to_json(schema), allow_nan=False))) == schema


def test_the_document_has_the_layout_that_zcollection_reads() -> None:
    schema = Schema(
        "time",
        "time",
        (Dimension("time", None), Dimension("x", 4)),
        (
            Variable("time", "<i8", ("time",), (7,)),
            Variable("g/ssh", "<f4", ("time", "x"), (7, 4), math.nan, {"units": "m"}),
            Variable("names", TEXT, ("x",), (4,)),
        ),
        {"title": "t"},
    )
    document = schema_to_json(schema)
    assert document["dimensions"] == [
        {"name": "time", "size": None, "chunks": 7, "shards": None},
        {"name": "x", "size": 4, "chunks": 4, "shards": None},
    ]
    assert document["name"] == "/"
    assert document["attrs"] == {"title": "t"}
    assert document["format_version"] == 1
    (group,) = document["groups"]
    assert {key: group[key] for key in ("name", "dimensions", "groups", "attrs")} == {
        "name": "g",
        "dimensions": [],
        "groups": [],
        "attrs": {},
    }
    (ssh,) = group["variables"]
    assert (ssh["name"], ssh["dtype"], ssh["dimensions"], ssh["fill_value"], ssh["attrs"], ssh["immutable"]) == (
        "ssh",
        "<f4",
        ["time", "x"],
        "NaN",
        {"units": "m"},
        False,
    )
    names = next(v for v in document["variables"] if v["name"] == "names")
    assert names["immutable"] is True
    assert np.dtype(names["dtype"]) == np.dtypes.StringDType()


def test_a_variable_without_codecs_has_no_such_member_and_comes_back_without() -> None:
    document = minimal()
    assert "codecs" not in document["variables"][0]
    assert schema_from_json(document)["t"].codecs is None
    assert (
        schema_from_json({**document, "variables": [{**document["variables"][0], "codecs": None}]})["t"].codecs is None
    )


def test_codecs_are_written_in_the_layout_that_zcollection_reads() -> None:
    document = schema_to_json(
        with_codecs(schema_from_json(minimal()), [{"name": "gzip", "configuration": {"level": 1}}])
    )
    assert document["variables"][0]["codecs"] == {
        "array_to_array": [],
        "array_to_bytes": {"name": "bytes", "configuration": {"endian": "little"}},
        "bytes_to_bytes": [
            {"name": "gzip", "configuration": {"level": 1}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
        ],
    }


def minimal() -> dict[str, Any]:
    return schema_to_json(Schema("t", "t", (Dimension("t", None),), (Variable("t", "<i8", ("t",), (1,)),)))


def test_a_newer_format_is_refused_and_members_of_the_future_are_ignored() -> None:
    assert schema_from_json({**minimal(), "colour": "blue"}).axis == "t"
    with pytest.raises(FormatError, match="format version 2"):
        schema_from_json({**minimal(), "format_version": 2})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"axis": None}, "'axis'"),
        ({"axis": "lost"}, "'lost'"),
        ({"variables": "t"}, "schema.variables"),
        ({"variables": [{"name": "t"}]}, "'dtype'"),
        ({"variables": [{"name": "t", "dtype": "<M8[ns]"}]}, "dtype"),
        ({"variables": [{"name": "t", "dtype": "<i8", "chunks": [0]}]}, "chunks"),
        ({"variables": [{"name": "t", "dtype": "<i8", "fill_value": "NaN"}]}, "fill_value"),
        ({"variables": [{"name": "t", "dtype": "<i8", "fill_value": 1.5}]}, "fill_value"),
        ({"variables": [{"name": "t", "dtype": "<i8", "dimensions": ["t", "u"], "chunks": [1, 1]}]}, "'u'"),
        ({"variables": [{"name": "t", "dtype": "<i8", "codecs": {"bytes_to_bytes": [{"name": "lzma"}]}}]}, "'lzma'"),
        ({"format_version": "1"}, "format_version"),
        ({"dimensions": [{"name": "t"}, {"name": "x"}]}, "'x'"),
        ({"groups": [3]}, "schema.groups"),
    ],
)
def test_a_damaged_document_is_refused_with_the_member(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match="schema") as caught:
        schema_from_json({**minimal(), **change})
    assert named in str(caught.value)


TOML = """
axis = "time"
attrs = { title = "Sea surface height" }

[[dimensions]]
name = "time"
chunks = 4096

[[dimensions]]
name = "level"
size = 6

[[variables]]
name = "time"
dtype = "datetime64[ns]"
attrs = { standard_name = "time" }

[[variables]]
name = "ku/ssha"
dtype = "int32"
fill_value = 2147483647
codecs = [{ name = "blosc", configuration = { cname = "zstd", clevel = 5, shuffle = "shuffle" } }]
attrs = { units = "m", scale_factor = 1e-4 }

[[variables]]
name = "flags"
dtype = "int8"
codecs = "small"
dimensions = ["time", "level"]
chunks = [512, 6]

[[groups]]
name = "aux"

[[groups.variables]]
name = "names"
dtype = "string"
dimensions = ["level"]

[[groups.variables]]
name = "height"
dtype = "float64"
fill_value = nan
"""


def test_a_user_writes_toml_with_few_members(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(TOML)
    schema = load_schema_file(path)
    assert set(schema.by_path) == {"time", "ku/ssha", "flags", "aux/names", "aux/height", PROVENANCE}
    time = schema["time"]
    assert (time.dtype, time.chunks, time.attributes["units"]) == ("<i8", (4096,), TIME_UNITS)
    ssha = schema["ku/ssha"]
    assert (ssha.dtype, ssha.dimensions, ssha.chunks, ssha.fill_value) == ("<i4", ("time",), (4096,), 2147483647)
    assert schema["flags"].chunks == (512, 6)
    assert (schema["aux/names"].dtype, schema["aux/names"].chunks) == (TEXT, (6,))
    assert repr(schema["aux/height"].fill_value) == "nan"
    assert schema.attributes == {"title": "Sea surface height"}
    assert schema.dimensions == (Dimension("time", None), Dimension("level", 6))


def chain(schema: Schema, path: str) -> list[tuple[str, int]]:
    codecs = schema[path].codecs
    assert codecs is not None
    return [(c.name, c["clevel" if c.name == "blosc" else "level"]) for c in codecs.bytes_to_bytes]


def test_codecs_of_a_file_go_from_the_variable_to_the_file_to_the_caller_to_the_default(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(TOML)
    schema = load_schema_file(path)
    assert chain(schema, "ku/ssha") == [("blosc", 5), ("zstd", 1)]
    assert chain(schema, "flags") == [("zstd", 9)]
    assert chain(schema, "aux/height") == [("blosc", 2), ("zstd", 1)]
    assert chain(schema, PROVENANCE) == [("zstd", 3)]
    schema = load_schema_file(path, codecs="zstd")
    assert (chain(schema, "aux/height"), chain(schema, "flags")) == ([("zstd", 3)], [("zstd", 9)])
    path.write_text('codecs = { "aux/*" = "fast", "time" = ["gzip"] }\n' + TOML)
    schema = load_schema_file(path, codecs="zstd")
    assert chain(schema, "aux/height") == [("blosc", 5), ("zstd", 1)]
    assert chain(schema, "time") == [("gzip", 5), ("zstd", 1)]
    assert chain(schema, "flags") == [("zstd", 9)]
    assert chain(load_schema_file(path, zarr_format=2), PROVENANCE) == [("zstd", 3)]


def test_a_stored_schema_can_be_used_as_a_file(tmp_path: Path) -> None:
    schema = infer_schema(read_netcdf(gsfc_twin(rows=20).data, GranuleSpec("/time"), name="g.nc"))
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema_to_json(schema)))
    assert load_schema_file(path) == schema
    path.write_text(json.dumps({**schema_to_json(infer_schema_without(schema)), "provenance": False}))
    assert not load_schema_file(path).keeps_provenance


def infer_schema_without(schema: Schema) -> Schema:
    kept = tuple(v for v in schema.variables if v.path != PROVENANCE)
    return Schema(schema.axis, schema.dimension, schema.dimensions, kept, schema.attributes)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('axis = "time"', "", "'axis'"),
        ('axis = "time"', 'axes = "time"', "'axis'"),
        ('dtype = "int32"', 'dtype = "int33"', "int33"),
        ('dtype = "int32"', 'dtyp = "int32"', "did you mean 'dtype'"),
        ("size = 6", "", "'size'"),
        ("fill_value = 2147483647", "fill_value = 2147483648", "2147483648"),
        ("scale_factor", "_FillValue", "fill_value"),
        ('cname = "zstd"', 'cname = "lzma"', "variable 'ku/ssha': codec 'blosc': cname is 'lzma'"),
        ('name = "blosc"', 'name = "delta"', "codec 'delta' has no setting"),
        ('codecs = "small"', 'codecs = ["delta"]', "variable 'flags': codec 'delta' does not exist in Zarr v3"),
        ('codecs = "small"', 'codecs = "tiny"', "variable 'flags': 'tiny' is no profile"),
        ('axis = "time"', 'axis = "time"\ncodecs = { "kv/*" = "zstd" }', "'kv/*' matches none"),
        ('dimensions = ["time", "level"]', 'dimensions = ["time", "lever"]', "'lever'"),
        ("chunks = [512, 6]", "chunks = [512]", "chunks"),
        ('name = "flags"', 'name = "ku/ssha"', "twice"),
        ('axis = "time"', 'axis = "time', "TOML"),
    ],
)
def test_mistakes_in_a_file_name_file_and_member(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = tmp_path / "schema.toml"
    assert old in TOML
    path.write_text(TOML.replace(old, new, 1))
    with pytest.raises(InvalidInputError) as caught:
        load_schema_file(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"lost\.toml: the schema file cannot be read"):
        load_schema_file(tmp_path / "lost.toml")
