"""Documents: what the engine renders is what plain zarr and plain xarray read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from tests.engine_support import DAY_16, heights, rows_of, small_schema, time_variable, times
from zcollection_engine import create_collection
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.codecs import PROFILES, Choice, v3_codecs, with_codecs
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.layout import keyspaces
from zcollection_engine.layout.documents import Version, commit_of, render
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import (
    TEXT,
    TIME_CALENDAR,
    TIME_UNITS,
    Codec,
    Codecs,
    Dimension,
    Scalar,
    Schema,
    Variable,
)

ROWS = 11  # more than one chunk of 4, and a partly filled last one

INTEGERS = ["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"]


def documents_of(schema: Schema, version: Version, **options: Any) -> dict[str, dict[str, Any]]:
    return {path: json.loads(body) for path, body in render(schema, version, **options).items()}


def nested_schema() -> Schema:
    return small_schema(
        chunk_rows=4,
        extra=[
            Variable("ku/range", "<i4", ("time",), (4,), 2**31 - 1, {"scale_factor": 1e-4, "units": "m"}),
            Variable("ku/deep/waveform", "<f4", ("time", "band"), (4, 2)),
            Variable("c/flag", "|i1", ("time",), (4,), 127),
            Variable("band", "<f8", ("band",), (3,)),
        ],
    )


def test_every_group_and_array_has_a_document_and_the_root_describes_them_all() -> None:
    documents = documents_of(nested_schema(), Version(7, 1, ROWS))
    assert set(documents) == {
        "zarr.json",
        "time/zarr.json",
        "height/zarr.json",
        "granule/zarr.json",
        "ku/zarr.json",
        "ku/range/zarr.json",
        "ku/deep/zarr.json",
        "ku/deep/waveform/zarr.json",
        "c/zarr.json",
        "c/flag/zarr.json",
    }
    metadata = documents["zarr.json"]["consolidated_metadata"]["metadata"]
    assert set(metadata) == {path.removesuffix("/zarr.json") for path in documents} - {"zarr.json"}


def test_consolidated_documents_equal_those_of_the_arrays() -> None:
    documents = documents_of(nested_schema(), Version(7, 1, ROWS))
    for group in ("", "ku/", "ku/deep/", "c/"):
        metadata = documents[f"{group}zarr.json"]["consolidated_metadata"]["metadata"]
        arrays = {p: d for p, d in metadata.items() if d["node_type"] == "array"}
        assert arrays
        for path, document in arrays.items():
            assert documents[f"{group}{path}/zarr.json"] == document


def test_every_document_tells_the_commit_it_was_rendered_for() -> None:
    rendered = render(nested_schema(), Version(7, 1, ROWS))
    assert {commit_of(body) for body in rendered.values()} == {7}
    assert commit_of(b'{"zarr_format": 3, "node_type": "group"}') == -1
    assert commit_of(b'{"zarr_format": 3, "node_type": "array"}') == -1


def test_rendering_is_a_function_of_its_arguments() -> None:
    first, second = (render(nested_schema(), Version(7, 1, ROWS), {"a": 1}) for _ in range(2))
    assert first == second


def test_a_variable_without_codecs_is_rendered_as_before_there_was_a_choice() -> None:
    schema = typed_schema(
        Variable("ku/x", "<i2", ("time", "band"), (8, 3), 32767, {"scale_factor": 0.1}),
        Variable("name", TEXT, ("time",), (8,)),
    )
    found = render(schema, Version(7, 1, ROWS))
    assert found["ku/x/zarr.json"].decode() == (
        '{"zarr_format":3,"node_type":"array","shape":[11,3],"data_type":"int16",'
        '"chunk_grid":{"name":"regular","configuration":{"chunk_shape":[8,3]}},'
        '"chunk_key_encoding":{"name":"default","configuration":{"separator":"."}},"fill_value":32767,'
        '"codecs":[{"name":"bytes","configuration":{"endian":"little"}},'
        '{"name":"zstd","configuration":{"level":3,"checksum":true}}],'
        '"attributes":{"scale_factor":0.1,"_FillValue":32767},"dimension_names":["time","band"],'
        '"storage_transformers":[],"zcollection":{"must_understand":false,"commit":7}}'
    )
    assert found["name/zarr.json"].decode() == (
        '{"zarr_format":3,"node_type":"array","shape":[11],"data_type":"string",'
        '"chunk_grid":{"name":"regular","configuration":{"chunk_shape":[8]}},'
        '"chunk_key_encoding":{"name":"default","configuration":{"separator":"."}},"fill_value":"",'
        '"codecs":[{"name":"vlen-utf8"},{"name":"zstd","configuration":{"level":3,"checksum":true}}],'
        '"attributes":{},"dimension_names":["time"],'
        '"storage_transformers":[],"zcollection":{"must_understand":false,"commit":7}}'
    )


def test_a_codec_that_zarr_v3_does_not_have_is_refused() -> None:
    delta = replace(time_variable("x"), codecs=Codecs(array_to_array=(Codec("delta"),)))
    with pytest.raises(InvalidInputError, match="variable 'x': codec 'delta' does not exist in Zarr v3"):
        render(typed_schema(delta), Version(7, 1, ROWS))


@pytest.mark.parametrize(
    ("generation", "separator", "name"), [(0, "/", "default"), (1, ".", "default"), (2, ".", "v2")]
)
def test_generations_spell_their_chunks_in_three_ways_in_turn(generation: int, separator: str, name: str) -> None:
    for turn in (generation, generation + 3, generation + 300):
        found = documents_of(small_schema(), Version(1, turn, 5))["time/zarr.json"]["chunk_key_encoding"]
        assert found == {"name": name, "configuration": {"separator": separator}}


@pytest.mark.parametrize("index", [(0,), (12,), (0, 3), (10, 0, 7)])
def test_a_chunk_key_belongs_to_the_space_of_its_own_generation_only(index: tuple[int, ...]) -> None:
    keys = [keyspaces.chunk_key(g, index) for g in range(3)]
    for generation, key in enumerate(keys):
        assert [keyspaces.is_in_space(g, key) for g in range(3)] == [g == generation for g in range(3)]
        assert keyspaces.is_in_space(generation + 3, key)


@pytest.mark.parametrize("key", ["zarr.json", "c", "c/", "c/0/x", "c.0/1", "0/1", "c/0.1", "x.0", "c/0/zarr.json"])
def test_a_key_that_is_no_chunk_belongs_to_no_space(key: str) -> None:
    assert not any(keyspaces.is_in_space(g, key) for g in range(3))


@pytest.mark.parametrize("generation", [0, 1, 2])
@pytest.mark.parametrize("index", [(0,), (3, 1)])
def test_chunk_keys_are_spelt_as_zarr_spells_them(generation: int, index: tuple[int, ...]) -> None:
    variable = Variable("x", "<i4", ("time", "band")[: len(index)], (4, 2)[: len(index)])
    schema = small_schema(extra=[variable])
    root = zarr.open_group(zarr.storage.MemoryStore(rendered_buffers(schema, Version(1, generation, ROWS))), mode="r")
    array = root["x"]
    assert isinstance(array, zarr.Array)
    assert array.metadata.encode_chunk_key(index) == keyspaces.chunk_key(generation, index)


def rendered_buffers(schema: Schema, version: Version) -> dict[str, Any]:
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    return {path: make(body) for path, body in render(schema, version).items()}


# Values through the engine to a folder, read by others.


def typed_schema(variable: Variable, *others: Variable) -> Schema:
    return Schema(
        "time",
        "time",
        (Dimension("time", None), Dimension("band", 3)),
        (time_variable(chunk_rows=4), provenance_variable("time", 4), variable, *others),
    )


def write(folder: Path, schema: Schema, columns: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Insert rows with raw (stored) values through the engine; return the partition's folder."""
    nodes: dict[str, xr.Dataset] = {"/": xr.Dataset(coords={"time": times(range(ROWS))})}
    for path, values in columns.items():
        variable = schema[path]
        group = f"/{variable.group}"
        attributes = {k: v for k, v in variable.attributes.items() if k in ("scale_factor", "add_offset", "units")}
        if variable.fill_value is not None:
            attributes["_FillValue"] = variable.fill_value
        nodes.setdefault(group, xr.Dataset())[variable.name] = (variable.dimensions, values, attributes)
    tree = xr.DataTree.from_dict(nodes)
    collection = create_collection(str(folder), schema, DatePartitioning("time", "day"), immutable=immutable(schema))
    collection.insert(tree if schema.groups() else nodes["/"])
    return folder / DAY_16


def immutable(schema: Schema) -> Granule | None:
    variables = {
        v.path: GranuleVariable(v.dimensions, np.arange(3, dtype=v.numpy_dtype)) for v in schema.immutable_variables
    }
    return Granule("first", schema.axis, schema.dimension, variables) if variables else None


def values_for(dtype: str, fill: Scalar | None) -> npt.NDArray[Any]:
    kind = np.dtype(dtype).kind
    values = (np.arange(ROWS) % 2).astype(bool) if kind == "b" else np.arange(1, ROWS + 1).astype(dtype)
    if fill is not None:
        values[3] = fill
    return values


FILLS: list[tuple[str, Scalar | None]] = [
    *((dtype, None) for dtype in [*INTEGERS, "<f4", "<f8", "|b1"]),
    *((dtype, int(np.iinfo(dtype).max)) for dtype in INTEGERS),
    *((dtype, int(np.iinfo(dtype).min)) for dtype in INTEGERS),
    ("<f4", math.nan),
    ("<f8", math.nan),
    ("<f8", math.inf),
    ("<f8", -math.inf),
    ("<f8", 1.797e308),
    ("<f8", float(np.finfo("<f8").max)),
    ("<f8", 5e-324),
    ("<f8", -9999.0),
    ("<f8", 9.969209968386869e36),
    ("<f4", float(np.float32(9.96921e36))),
    ("<f4", float(np.float32(1e-45))),
    ("<f4", float(np.finfo("<f4").max)),
]


@pytest.mark.parametrize(("dtype", "fill"), FILLS, ids=str)
def test_stored_values_and_fill_values_of_every_type_are_read_by_zarr_and_xarray(
    tmp_path: Path, dtype: str, fill: Scalar | None
) -> None:
    values = values_for(dtype, fill)
    folder = write(tmp_path, typed_schema(Variable("x", dtype, ("time",), (4,), fill)), {"x": values})
    array = zarr.open_group(str(folder), mode="r")["x"]
    assert isinstance(array, zarr.Array)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array[:], values)
    if fill is not None:
        np.testing.assert_array_equal(array.fill_value, np.dtype(dtype).type(fill))
    with xr.open_zarr(folder, mask_and_scale=False) as raw:
        np.testing.assert_array_equal(raw["x"].values, values)
        if fill is not None:
            np.testing.assert_array_equal(raw["x"].attrs["_FillValue"], np.dtype(dtype).type(fill))
    with xr.open_zarr(folder) as decoded:
        masked = decoded["x"].isnull().values
        assert masked.tolist() == [fill is not None and i == 3 for i in range(ROWS)]


@pytest.mark.parametrize("choice", [*PROFILES, ["gzip"], ["crc32c"], {"height": ["blosc", "crc32c"]}], ids=str)
def test_appended_and_rewritten_rows_are_read_by_zarr_and_xarray_whatever_their_codecs(
    tmp_path: Path, choice: Choice
) -> None:
    schema = with_codecs(small_schema(chunk_rows=4), choice)
    collection = create_collection(str(tmp_path), schema, DatePartitioning("time", "day"))
    for seconds in (range(10, 16), range(16, 22), range(4)):  # created, appended, rewritten
        collection.insert(heights(seconds))
    expected = [(second, second) for second in (*range(4), *range(10, 22))]
    with xr.open_zarr(tmp_path / DAY_16, mask_and_scale=False, decode_times=False) as dataset:
        assert rows_of(dataset) == expected
    array = zarr.open_array(str(tmp_path / DAY_16 / "height"), mode="r")
    assert array[:].tolist() == [height for _, height in expected]
    assert [codec.to_dict() for codec in array.metadata.codecs] == v3_codecs(schema["height"])


def test_packed_integers_are_decoded_by_xarray_and_missing_ones_are_nan(tmp_path: Path) -> None:
    attributes = {"scale_factor": 0.001, "add_offset": 1.3e6, "units": "m"}
    variable = Variable("x", "<i4", ("time",), (4,), 2**31 - 1, attributes)
    values = values_for("<i4", 2**31 - 1)
    folder = write(tmp_path, typed_schema(variable), {"x": values})
    with xr.open_zarr(folder) as decoded:
        expected = np.where(np.arange(ROWS) == 3, np.nan, values * 0.001 + 1.3e6)
        np.testing.assert_array_equal(decoded["x"].values, expected)
        assert decoded["x"].attrs["units"] == "m"
        assert decoded["x"].encoding["scale_factor"] == 0.001


@pytest.mark.parametrize("fill", [None, "", "n/a"])
def test_text_is_read_as_text(tmp_path: Path, fill: str | None) -> None:
    values = np.array([fill or "", "é", "a" * 300, "", "日本", *"bcdefg"], object)
    folder = write(tmp_path, typed_schema(Variable("x", TEXT, ("time",), (4,), fill)), {"x": values})
    assert list(zarr.open_group(str(folder), mode="r")["x"][:]) == values.tolist()
    with xr.open_zarr(folder) as decoded:
        assert decoded["x"].values.tolist() == values.tolist()


def test_times_are_int64_nanoseconds_with_units_that_xarray_decodes(tmp_path: Path) -> None:
    instants = times([-1, *range(1, ROWS)], unit=10**9 + 1) + np.timedelta64(1, "D")
    schema = typed_schema(Variable("other", "<i8", ("time",), (4,), -(2**63), dict(time_variable().attributes)))
    collection = create_collection(str(tmp_path), schema, DatePartitioning("time", "month"))
    collection.insert(xr.Dataset({"other": ("time", instants)}, coords={"time": instants}))
    with xr.open_zarr(tmp_path / "year=2023/month=12") as decoded:
        np.testing.assert_array_equal(decoded["time"].values, instants)
        np.testing.assert_array_equal(decoded["other"].values, instants)
        assert decoded["time"].dtype == np.dtype("datetime64[ns]")
    with xr.open_zarr(tmp_path / "year=2023/month=12", decode_times=False) as raw:
        np.testing.assert_array_equal(raw["time"].values, instants.astype(np.int64))
        assert (raw["time"].attrs["units"], raw["time"].attrs["calendar"]) == (TIME_UNITS, TIME_CALENDAR)


def test_nested_groups_and_several_dimensions_open_as_a_tree_from_the_partition_and_from_the_root(
    tmp_path: Path,
) -> None:
    schema = nested_schema()
    columns = {
        "height": values_for("<i4", 2**31 - 1),
        "ku/range": values_for("<i4", None),
        "ku/deep/waveform": np.arange(ROWS * 3, dtype="<f4").reshape(ROWS, 3),
        "c/flag": values_for("|i1", 127),
    }
    immutable_column = {"band": np.arange(3.0)}
    folder = write(tmp_path, schema, {**columns, **immutable_column})
    with xr.open_datatree(folder, engine="zarr", mask_and_scale=False) as tree:
        for path, values in columns.items():
            np.testing.assert_array_equal(tree[path].values, values)
    # zarr lists the root and tells of what is no part of the hierarchy: the log and the configuration.
    with pytest.warns(ZarrUserWarning, match=r"_zcollection\.json|\.zcommits"):
        whole = xr.open_datatree(tmp_path, engine="zarr", mask_and_scale=False, consolidated=False)
    with whole as tree:
        for path, values in columns.items():
            np.testing.assert_array_equal(tree[f"{DAY_16}/{path}"].values, values)
        np.testing.assert_array_equal(tree["_immutable/band"].values, immutable_column["band"])
    with xr.open_zarr(folder, group="ku/deep") as group:
        np.testing.assert_array_equal(group["waveform"].values, columns["ku/deep/waveform"])


def test_readers_that_ignore_consolidated_metadata_see_the_same(tmp_path: Path) -> None:
    values = values_for("<i4", None)
    folder = write(tmp_path, typed_schema(Variable("x", "<i4", ("time",), (4,))), {"x": values})
    plain = zarr.open_group(str(folder), mode="r", use_consolidated=False)
    together = zarr.open_group(str(folder), mode="r", use_consolidated=True)
    for name in ("x", "time", "granule"):
        np.testing.assert_array_equal(plain[name][:], together[name][:])
    np.testing.assert_array_equal(zarr.open_array(str(folder / "x"), mode="r")[:], values)


def test_zarr_accepts_the_extension_that_names_the_commit_and_keeps_reading(tmp_path: Path) -> None:
    folder = write(tmp_path, typed_schema(Variable("x", "<i4", ("time",), (4,))), {"x": values_for("<i4", None)})
    document = json.loads((folder / "x" / "zarr.json").read_text())
    assert document["zcollection"] == {
        "must_understand": False,
        "commit": commit_of((folder / "zarr.json").read_bytes()),
    }
    array = zarr.open_array(str(folder / "x"), mode="r")
    assert array.shape == (ROWS,)


def test_documents_on_disk_are_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    variable = Variable("x", "<f8", ("time",), (4,), math.nan, {"valid_max": math.inf, "comment": "é"})
    folder = write(tmp_path, typed_schema(variable), {"x": values_for("<f8", None)})
    found = list(tmp_path.rglob("*.json"))
    assert folder / "x" / "zarr.json" in found
    for path in found:
        json.loads(path.read_text("utf-8"), parse_constant=refuse)
