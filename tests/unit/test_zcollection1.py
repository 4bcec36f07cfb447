"""The ``.zcollection`` file: what released zcollection writes is understood, and what we write has its form."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine_support import small_schema
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.layout.v2documents import NOT_A_TIME
from zcollection_engine.schema import TEXT, TIME_CALENDAR, TIME_UNITS, Dimension, Schema, Variable
from zcollection_engine.zcollection1 import (
    depth_of,
    dump_zcollection,
    from_zcollection,
    parse_zcollection,
    to_zcollection,
)

MONTHLY = {"name": "date", "variable": "time", "resolution": "M"}
BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}


def member(name: str, dtype: str, dimensions: list[str], **changed: Any) -> dict[str, Any]:
    return {
        "attrs": [],
        "compressor": None,
        "dimensions": dimensions,
        "dtype": dtype,
        "fill_value": None,
        "filters": [],
        "name": name,
        **changed,
    }


def released() -> dict[str, Any]:
    """A file as 2024.2.0 and 2026.6.0 write it."""
    return {
        "axis": "time",
        "dataset": {
            "attrs": [["title", "t"], ["v", 1.5]],
            "dimensions": ["time", "pixel"],
            "variables": [
                member("lon", "<f8", ["pixel"], attrs=[["units", "degrees"]]),
                member(
                    "packed",
                    "<i4",
                    ["time"],
                    attrs=[["scale_factor", 0.0001], ["units", "m"]],
                    compressor={"id": "zstd", "level": 3, "checksum": False},
                    fill_value=2147483647,
                    filters=[{"id": "delta", "dtype": "<i4", "astype": "<i4"}],
                ),
                member("ssh", ">f4", ["time", "pixel"], fill_value="NaN", attrs=[["w", [1, 2]]]),
                member("time", "<M8[us]", ["time"], compressor=BLOSC),
            ],
            "chunks": [["time", 7]],
            "block_size_limit": 134217728,
        },
        "partitioning": {"id": "Date", "variables": ["time"], "resolution": "M"},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """The released file with one member changed, or without it if the value is `...`."""
    document = copy.deepcopy(released())
    *parents, last = path.split(".")
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is ...:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return document


def test_a_released_file_is_understood() -> None:
    found = from_zcollection(released(), {"pixel": 3})
    schema = found.schema
    assert (schema.axis, schema.dimension) == ("time", "time")
    assert schema.dimensions == (Dimension("time", None), Dimension("pixel", 3))
    assert schema.attributes == {"title": "t", "v": 1.5}
    units = {"units": "microseconds since 1970-01-01", "calendar": TIME_CALENDAR}
    assert schema["time"] == Variable("time", "<i8", ("time",), (7,), None, units)
    packing = {"scale_factor": 1e-4, "units": "m"}
    assert schema["packed"] == Variable("packed", "<i4", ("time",), (7,), 2**31 - 1, packing)
    assert schema["ssh"] == Variable("ssh", "<f4", ("time", "pixel"), (7, 3), math.nan, {"w": [1, 2]})
    assert schema["lon"].chunks == (3,)
    assert found.partitioning == MONTHLY
    assert found.layouts["ssh"].dtype == ">f4"
    assert found.warnings == ()


def test_a_released_file_comes_back_byte_for_byte() -> None:
    found = from_zcollection(released(), {"pixel": 3})
    written = dump_zcollection(to_zcollection(found.schema, found.partitioning, layouts=found.layouts))
    assert written == json.dumps(released(), indent=4).encode()


def test_an_unknown_codec_survives() -> None:
    strange = {"id": "unheard-of", "level": [1, {"a": None}]}
    found = from_zcollection(changed("dataset.variables.1.compressor", strange), {"pixel": 3})
    written = to_zcollection(found.schema, found.partitioning, layouts=found.layouts)
    assert written["dataset"]["variables"][1]["compressor"] == strange


def test_the_first_releases_had_no_chunks() -> None:
    document = changed("dataset.chunks", ...)
    del document["dataset"]["block_size_limit"]
    found = from_zcollection(document, {"pixel": 3})
    assert found.schema["time"].chunks[0] > 1000
    assert found.layouts["time"].chunks == ()
    assert found.layouts["lon"].chunks == (3,)


def test_the_unreleased_successor_tells_sizes_and_chunks_with_the_dimensions() -> None:
    document = changed("dataset.dimensions", [["time", -1, 100], ["pixel", 3, 2]])
    del document["dataset"]["chunks"]
    document["version"] = "2025.1"
    document["partitioning"] = {
        "id": "GroupedSequence", "variables": ["cycle", "pass"], "dtype": ["int64"] * 2, "size": 10, "start": 1,
    }  # fmt: skip
    found = from_zcollection(document)
    assert found.schema.sizes == {"time": None, "pixel": 3}
    assert found.schema["ssh"].chunks == (100, 2)
    assert found.partitioning == {"name": "grouped-sequence", "variables": ["cycle", "pass"], "size": 10, "start": 1}


@pytest.mark.parametrize(
    "partitioning",
    [
        MONTHLY,
        {"name": "date", "variable": "time", "resolution": "h"},
        {"name": "sequence", "variables": ["cycle", "pass"]},
        {"name": "grouped-sequence", "variables": ["cycle", "pass"], "size": 10, "start": 1},
    ],
)
def test_every_partitioning_comes_back_and_released_readers_know_its_id(partitioning: Mapping[str, Any]) -> None:
    document = to_zcollection(small_schema(), partitioning, commit=3)
    assert document["partitioning"]["id"] in {"Date", "Sequence"}
    assert document["partitioning"].keys() <= {"id", "variables", "resolution"}  # one more, and they fail to open
    assert from_zcollection(document, {"band": 3}).partitioning == partitioning
    assert depth_of(document) == 2 if partitioning["name"] != "date" else depth_of(document) in {2, 4}


def test_what_we_write_has_all_members_that_released_readers_need() -> None:
    extra = [
        Variable("name", TEXT, ("time",), (4,)),
        Variable("ssh", "<f4", ("time", "band"), (4, 2), math.nan, {"b": 1, "a": math.inf}),
    ]
    schema = small_schema(chunk_rows=4, extra=extra)
    document = json.loads(dump_zcollection(to_zcollection(schema, MONTHLY, commit=3)))
    assert document["zcollectiond"] == {"format_version": 1, "commit": 3}
    told = {v["name"]: v for v in document["dataset"]["variables"]}
    assert list(told) == sorted(told)
    assert all(v.keys() == member("x", "", []).keys() for v in told.values())
    assert (told["time"]["dtype"], told["time"]["attrs"]) == ("<M8[ns]", [])
    assert (told["name"]["dtype"], told["name"]["filters"]) == ("|O", [{"id": "vlen-utf8"}])
    assert (told["ssh"]["fill_value"], told["ssh"]["attrs"]) == ("NaN", [["a", "Infinity"], ["b", 1]])
    assert told["ssh"]["compressor"] == {"id": "zstd", "level": 3}
    assert document["dataset"]["chunks"] == [["time", 4], ["band", 2]]


def test_a_schema_that_zarr_v2_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'ku/x'"):
        to_zcollection(small_schema(extra=[Variable("ku/x", "<i4", ("time",), (4,))]), MONTHLY)
    with pytest.raises(InvalidInputError, match="'by-moon'"):
        to_zcollection(small_schema(), {"name": "by-moon"})


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("axis", ..., "'axis'"),
        ("axis", "lost", "'lost'"),
        ("dataset", ..., "'dataset'"),
        ("dataset", [], "list"),
        ("dataset.variables.0.filters", ..., "'filters'"),
        ("dataset.variables.1.fill_value", "NaN", "'packed'"),
        ("dataset.variables.1.dtype", "<i99", "data type"),
        ("dataset.variables.2.dimensions", ["pixel", "time"], "'ssh'.*not as its first"),
        ("dataset.variables.2.dimensions", ["time", "lost"], "'lost'"),
        ("dataset.variables.3.dimensions", ["time", "pixel"], "'time'"),
        ("dataset.variables.0.dtype", "|S3", r"'lon' has dtype \|S3"),
        ("dataset.variables.0.dtype", "<U3", "'lon' has dtype <U3"),
        ("dataset.variables.0.dtype", "<m8[s]", "'lon' has dtype <m8"),
        ("dataset.variables.0.dtype", "<M8[M]", "'lon' has dtype <M8"),
        ("dataset.variables.0.dtype", "<M8[10us]", "'lon' has dtype <M8"),
        ("dataset.variables.0.dtype", "|O", r"'lon' has dtype \|O"),
        ("dataset.variables.0.dtype", [["a", "<i4"]], "'lon' has the structured dtype"),
        ("dataset.variables.3.fill_value", 0, "'time' is a time with the fill value 0"),
        ("partitioning.id", "Mine", "'Mine'"),
        ("partitioning.variables", ["a", "b"], "values to unpack"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_name(path: str, value: Any, named: str) -> None:
    with pytest.raises(FormatError, match=named) as caught:
        from_zcollection(changed(path, value), {"pixel": 3}, name="here/.zcollection")
    assert str(caught.value).startswith("here/.zcollection: ")


def test_all_variables_that_are_not_supported_are_named_at_once() -> None:
    document = changed("dataset.variables.0.dtype", "|S3")
    document["dataset"]["variables"][1]["dtype"] = "<U3"
    with pytest.raises(FormatError, match=r"'lon'.*'packed'"):
        from_zcollection(document, {"pixel": 3})


def test_a_size_that_nobody_tells_is_asked_for() -> None:
    with pytest.raises(FormatError, match="'pixel'"):
        from_zcollection(released())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"a"', b"\xff"])
def test_a_damaged_file_is_named(data: bytes) -> None:
    with pytest.raises(FormatError, match="where/it/is is damaged"):
        parse_zcollection(data, name="where/it/is")


def test_nan_among_the_attributes_is_read_and_spelt_out() -> None:
    document = parse_zcollection(dump_zcollection(released()).replace(b"1.5", b"NaN"))
    assert from_zcollection(document, {"pixel": 3}).schema.attributes["v"] == "NaN"


def test_what_is_passed_over_is_told() -> None:
    document = changed("dataset.chunks", [["time", "auto"], ["pixel", -1]])
    document["dataset"]["variables"][1]["attrs"] += [["_FillValue", 3]]
    document["dataset"]["variables"][3]["attrs"] += [["units", "s"]]
    warnings = from_zcollection(document, {"pixel": 3}).warnings
    assert len(warnings) == 3
    assert "'time': 'auto'" in warnings[0]
    assert "'packed': attribute '_FillValue'" in warnings[1]
    assert "'time': its units" in warnings[2]


NUMBERS = st.sampled_from(["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8", "|b1", TEXT])
UNITS = st.sampled_from([TIME_UNITS, *(f"{u} since 1970-01-01" for u in ("microseconds", "seconds", "days"))])
FILLS = {"i": 7, "u": 7, "f": math.nan, "b": True, "r": "none"}


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    rows, inner = draw(st.integers(1, 50)), draw(st.integers(1, 4))
    times = {"units": draw(UNITS), "calendar": TIME_CALENDAR}
    variables = [Variable("time", "<i8", ("time",), (rows,), draw(st.sampled_from([None, NOT_A_TIME])), times)]
    for number, dtype in enumerate(draw(st.lists(NUMBERS, max_size=5))):
        dimensions = draw(st.sampled_from([("time",), ("time", "x"), ("x",), ()]))
        chunks = tuple(rows if d == "time" else inner for d in dimensions)
        fill = draw(st.sampled_from([None, FILLS[dtype.lstrip("<|")[0] if dtype != TEXT else "r"]]))
        attributes = draw(st.dictionaries(st.sampled_from(["a", "units"]), st.sampled_from(["m", 1, [1.5, 2]])))
        variables.append(Variable(f"v{number}", dtype, dimensions, chunks, fill, attributes))
    return Schema("time", "time", (Dimension("time", None), Dimension("x", 4)), tuple(variables), {"title": "t"})


@given(schemas())
def test_every_flat_schema_comes_back(schema: Schema) -> None:
    document = parse_zcollection(dump_zcollection(to_zcollection(schema, MONTHLY)))
    found = from_zcollection(document, {"x": 4})
    assert found.warnings == ()
    assert found.schema == schema
