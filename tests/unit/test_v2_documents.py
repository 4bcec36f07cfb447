"""Zarr v2 documents: what the engine renders is what plain zarr and plain xarray read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr

from tests.engine_support import START, small_schema
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.v2documents import (
    NOT_A_TIME,
    ArrayLayout,
    check_v2,
    commit_of_v2,
    layout_of,
    render_v2,
    time_code,
)
from zcollection_engine.schema import TEXT, TIME_CALENDAR, TIME_UNITS, Dimension, Schema, Variable
from zcollection_engine.stores.resolve import open_store
from zcollection_engine.zcollection1 import dump_zcollection, to_zcollection

ROWS = 11  # more than one chunk of 4, and a partly filled last one
VERSION = Version(7, 1, ROWS)
PARTITION = "year=2023/month=12"

EXTRA = (
    Variable("packed", "<i4", ("time",), (4,), 2**31 - 1, {"scale_factor": 1e-4, "add_offset": 1.5, "units": "m"}),
    Variable("profile", "<f4", ("time", "band"), (4, 2), math.nan, {"units": "K"}),
    Variable("zero", "<i2", ("time",), (4,)),
    Variable("flag", "|b1", ("time",), (4,)),
    Variable("name", TEXT, ("time",), (4,)),
    Variable("t2", "<i8", ("time",), (4,), NOT_A_TIME, {"units": "seconds since 1970-01-01"}),
    Variable("band", "<f8", ("band",), (3,), None, {"units": "GHz"}),
)


def schema() -> Schema:
    return small_schema(chunk_rows=4, extra=EXTRA)


def documents_of(of: Schema, version: Version = VERSION, **options: Any) -> dict[str, dict[str, Any]]:
    return {path: json.loads(body) for path, body in render_v2(of, version, **options).items()}


def values() -> dict[str, npt.NDArray[Any]]:
    """What the engine holds: times as integers, packed numbers packed."""
    packed = np.arange(ROWS, dtype="i4") * 1000
    packed[3] = 2**31 - 1
    profile = np.arange(ROWS * 3, dtype="f4").reshape(ROWS, 3)
    profile[2, 1] = np.nan
    seconds = np.arange(ROWS, dtype="i8")
    seconds[5] = NOT_A_TIME
    return {
        "time": START + np.arange(ROWS, dtype="i8") * 10**9,
        "packed": packed,
        "profile": profile,
        "zero": np.arange(ROWS, dtype="i2") % 3,
        "flag": np.arange(ROWS) % 2 == 0,
        "name": np.array((["ab", "", "détente"] * 4)[:ROWS], dtype=object),
        "t2": seconds,
        "height": np.arange(ROWS, dtype="f8"),
        "granule": np.arange(ROWS, dtype="u8") + 2**63,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A partition whose chunks the engine wrote, with the documents that readers see."""
    store = open_store(str(tmp_path))
    inner = ChunkStore(
        store,
        PARTITION,
        render_v2(schema(), VERSION, published=False),
        ChunkWriter(store, uuid4(), lambda: None),
    )
    for name, rows in values().items():
        if name in schema().by_path:
            array = zarr.open_array(inner, path=name, mode="r+", zarr_format=2)
            array.with_config({"write_empty_chunks": True})[...] = rows
    for key, body in render_v2(schema(), VERSION).items():
        store.create(f"{PARTITION}/{key}", body)
    return tmp_path / PARTITION


def test_a_partition_has_the_documents_of_a_group_and_of_each_array() -> None:
    documents = documents_of(schema())
    names = [v.path for v in schema().row_variables]
    assert set(documents) == {".zgroup", ".zattrs", ".zmetadata"} | {
        f"{name}/{leaf}" for name in names for leaf in (".zarray", ".zattrs")
    }
    assert documents[".zgroup"] == {"zarr_format": 2}


def test_the_consolidated_document_says_what_the_single_ones_say_without_the_commit_in_variables_attributes() -> None:
    documents = documents_of(schema())
    consolidated = documents.pop(".zmetadata")
    assert consolidated["zarr_consolidated_format"] == 1
    for path, document in documents.items():
        if "/" in path and path.endswith(".zattrs"):
            assert document.pop("zcollection_commit") == 7
        assert consolidated["metadata"].pop(path) == document
    assert not consolidated["metadata"]


def test_the_immutable_group_holds_the_other_variables() -> None:
    documents = documents_of(schema(), immutable=True)
    assert set(documents) == {".zgroup", ".zattrs", ".zmetadata", "band/.zarray", "band/.zattrs"}
    assert documents["band/.zarray"]["shape"] == [3]


def test_every_document_but_the_constant_one_tells_the_commit_it_was_rendered_for() -> None:
    rendered = render_v2(schema(), VERSION)
    assert commit_of_v2(rendered.pop(".zgroup")) == -1
    assert {commit_of_v2(body) for body in rendered.values()} == {7}
    config = to_zcollection(schema(), {"name": "date", "variable": "time", "resolution": "M"}, commit=12)
    assert commit_of_v2(dump_zcollection(config)) == 12


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b'{"zarr_format": 2, "shape": [1]}',
        b'{"metadata": {}, "zarr_consolidated_format": 1}',
        b'{"metadata": {".zattrs": {"zcollection_commit": "x"}}, "zarr_consolidated_format": 1}',
        b'{"_ARRAY_DIMENSIONS": ["time"], "metadata": "of a user"}',
    ],
)
def test_a_document_of_someone_else_tells_no_commit(document: bytes) -> None:
    assert commit_of_v2(document) == -1


def test_an_attribute_of_a_user_does_not_hide_the_commit() -> None:
    odd = Variable("odd", "<i2", ("time",), (4,), None, {"metadata": "x", "zarr_format": 2, "dataset": 1})
    rendered = render_v2(small_schema(extra=[odd]), VERSION)
    assert commit_of_v2(rendered["odd/.zattrs"]) == 7


def test_rendering_is_a_function_of_its_arguments_and_generations_do_not_matter() -> None:
    assert render_v2(schema(), VERSION, {"a": 1}) == render_v2(schema(), Version(7, 4, ROWS), {"a": 1})
    assert json.loads(render_v2(schema(), VERSION, {"a": 1})[".zattrs"])["a"] == 1


def test_times_are_datetimes_for_readers_and_integers_for_the_engine() -> None:
    seen, inner = documents_of(schema()), documents_of(schema(), published=False)
    assert (seen["time/.zarray"]["dtype"], inner["time/.zarray"]["dtype"]) == ("<M8[ns]", "<i8")
    assert (seen["t2/.zarray"]["dtype"], seen["t2/.zarray"]["fill_value"]) == ("<M8[s]", NOT_A_TIME)
    assert seen["time/.zarray"]["fill_value"] is None
    assert seen["time/.zattrs"].keys().isdisjoint({"units", "calendar"})
    assert seen["packed/.zattrs"]["units"] == "m"


def test_the_engine_alone_sees_the_checksum_named() -> None:
    seen, inner = documents_of(schema()), documents_of(schema(), published=False)
    assert seen["packed/.zarray"]["compressor"] == {"id": "zstd", "level": 3}
    assert inner["packed/.zarray"]["compressor"] == {"id": "zstd", "level": 3, "checksum": True}


def test_only_a_declared_fill_value_is_told() -> None:
    documents = documents_of(schema())
    fills = {path.split("/")[0]: d["fill_value"] for path, d in documents.items() if path.endswith("/.zarray")}
    assert (fills["packed"], fills["profile"]) == (2**31 - 1, "NaN")
    assert {fills[name] for name in ("zero", "flag", "name", "time", "granule")} == {None}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, "ns"),
        ({"attributes": {"units": "microseconds since 1970-01-01", "calendar": "standard"}}, "us"),
        ({"attributes": {"units": "days since 1970-01-01"}}, "D"),
        ({"attributes": {"units": "days since 1950-01-01"}}, None),
        ({"attributes": {"units": TIME_UNITS, "calendar": "noleap"}}, None),
        ({"attributes": {"units": TIME_UNITS, "scale_factor": 2}}, None),
        ({"attributes": {"units": 3}}, None),
        ({"attributes": {}}, None),
        ({"dtype": "<u8"}, None),
        ({"dtype": "<f8"}, None),
        ({"fill_value": 0}, None),
        ({"fill_value": NOT_A_TIME}, "ns"),
    ],
)
def test_only_what_has_the_bytes_of_a_datetime_becomes_one(changed: Mapping[str, Any], code: str | None) -> None:
    given = {"dtype": "<i8", "fill_value": None, "attributes": {"units": TIME_UNITS, "calendar": TIME_CALENDAR}}
    assert time_code(Variable("t", dimensions=("time",), chunks=(4,), **(given | changed))) == code


def test_zarr_reads_what_the_engine_wrote(folder: Path) -> None:
    for consolidated in (True, False):
        group = zarr.open_group(folder, mode="r", zarr_format=2, use_consolidated=consolidated)
        for name, array in group.arrays():
            read = np.asarray(array[...])
            expected = values()[name]
            np.testing.assert_array_equal(read.view("i8") if read.dtype.kind == "M" else read, expected)


def test_xarray_decodes_what_the_engine_wrote(folder: Path) -> None:
    expected = values()
    with xr.open_zarr(folder) as seen:
        packed = np.where(np.arange(ROWS) == 3, np.nan, expected["packed"] * 1e-4 + 1.5)
        np.testing.assert_allclose(seen["packed"].values, packed)
        np.testing.assert_array_equal(seen["profile"].values, expected["profile"])
        np.testing.assert_array_equal(seen["time"].values, expected["time"].view("M8[ns]"))
        np.testing.assert_array_equal(seen["t2"].values.astype("M8[s]"), expected["t2"].view("M8[s]"))
        assert seen["zero"].dtype == np.int16
        assert seen["flag"].dtype == bool
        assert list(seen["name"].values) == list(expected["name"])
        assert seen["packed"].attrs == {"units": "m"}
        assert seen["profile"].dims == ("time", "band")
        assert seen.attrs["zcollection_commit"] == 7


def test_chunks_have_the_checksum_that_readers_are_not_told_of(folder: Path) -> None:
    for chunk in (folder / "packed" / "0", folder / "profile" / "0.0", folder / "name" / "2"):
        descriptor = chunk.read_bytes()[4]  # RFC 8878, 3.1.1.1.1
        assert descriptor & 0b100


def test_a_partition_without_rows_opens(tmp_path: Path) -> None:
    for key, body in render_v2(schema(), Version(1, 0, 0)).items():
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes(body)
    with xr.open_zarr(tmp_path) as seen:
        assert dict(seen.sizes) == {"time": 0, "band": 3}
        assert seen["time"].dtype.kind == "M"


def test_a_layout_of_someone_else_is_rendered_as_it_is() -> None:
    layout = ArrayLayout(">i4", (ROWS,), {"id": "unheard-of"}, ({"id": "delta", "dtype": ">i4"},), 0, "F", "/")
    document = documents_of(schema(), layouts={"packed": layout})["packed/.zarray"]
    assert document["dimension_separator"] == "/"
    assert (document["order"], document["compressor"], document["shape"]) == ("F", {"id": "unheard-of"}, [ROWS])
    assert ArrayLayout.from_document(document) == layout


def test_a_big_endian_time_of_someone_else_is_a_big_endian_integer_for_the_engine() -> None:
    layouts = {"time": ArrayLayout(">M8[ns]", (4,))}
    assert documents_of(schema(), layouts=layouts)["time/.zarray"]["dtype"] == ">M8[ns]"
    assert documents_of(schema(), layouts=layouts, published=False)["time/.zarray"]["dtype"] == ">i8"


@pytest.mark.parametrize("variable", EXTRA, ids=lambda v: v.path)
def test_the_layout_of_a_variable_is_that_of_its_document(variable: Variable) -> None:
    documents = documents_of(schema(), immutable=variable.path == "band")
    assert ArrayLayout.from_document(documents[f"{variable.path}/.zarray"]) == layout_of(variable)


@pytest.mark.parametrize("change", [{"dtype": [["a", "<i4"]]}, {"zarr_format": 3}, {"chunks": 4}, {"chunks": ["x"]}])
def test_what_is_no_array_of_zarr_v2_is_refused(change: Mapping[str, Any]) -> None:
    document = documents_of(schema())["packed/.zarray"]
    with pytest.raises(FormatError):
        ArrayLayout.from_document({**document, **change})
    with pytest.raises(FormatError):
        ArrayLayout.from_document({"shape": [1]})


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        (Variable("ku/range", "<i4", ("time",), (4,)), "'ku/range'.*nested groups"),
        (Variable(".hidden", "<i4", ("time",), (4,)), r"'\.hidden'.*rename"),
        (Variable("empty", "<i4", ("time",), (0,)), "'empty'.*at least 1"),
    ],
)
def test_what_released_readers_cannot_read_is_refused_with_the_variable(variable: Variable, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        check_v2(small_schema(extra=[variable]))


def test_an_axis_of_times_that_is_no_datetime_is_refused() -> None:
    def axis(**changed: Any) -> Schema:
        variable = Variable("time", **({"dtype": "<i8", "dimensions": ("time",), "chunks": (4,)} | changed))
        return Schema("time", "time", (Dimension("time", None),), (variable,))

    units = {"units": TIME_UNITS}
    check_v2(axis(attributes=units))
    check_v2(axis(attributes={"units": "m"}, dtype="<f8"))
    for refused in ({"fill_value": 0}, {"dtype": "<f8"}):
        with pytest.raises(InvalidInputError, match=r"'time'.*datetime64"):
            check_v2(axis(attributes=units, **refused))


def test_a_schema_that_can_be_stored_passes() -> None:
    check_v2(schema())
