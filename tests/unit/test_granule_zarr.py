"""From a Zarr hierarchy to a granule: both formats, directories and zip archives, beside the same read from NetCDF."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tracemalloc
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from tests.granules_twins import gsfc_twin, sentinel3_wave_twin, sentinel6_twin
from tests.zarr_twins import FORMATS, MARKERS, Format, objects, pack, write_twin
from zcollection_engine.errors import (
    EmptyGranuleError,
    InvalidGranuleError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from zcollection_engine.granules import opening, zarrgranule, zarrmetadata, zarrobjects
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.granules.opening import open_granule
from zcollection_engine.granules.zarrgranule import read_zarr_archive, read_zarr_folder
from zcollection_engine.schema import TIME_UNITS
from zcollection_engine.stores.base import ObjectStore, StoredObject
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.stores.resolve import open_store

pytestmark = [
    # What zarr says of its own format when the tests write with it.
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
]

both_formats = pytest.mark.parametrize("zarr_format", FORMATS)


def spec_of(axis: str = "/time", **changes: Any) -> GranuleSpec:
    return GranuleSpec(axis, format="zarr", **changes)


def read_folder(folder: Path, spec: GranuleSpec | None = None) -> Granule:
    return read_zarr_folder(PosixStore(folder), "", spec or spec_of(), name="g.zarr")


def refusal(read: Callable[[], Granule]) -> InvalidGranuleError:
    with pytest.raises(InvalidGranuleError) as caught:
        read()
    assert "g.zarr" in str(caught.value)
    return caught.value


def folder_refusal(folder: Path, spec: GranuleSpec | None = None) -> InvalidGranuleError:
    return refusal(lambda: read_folder(folder, spec))


def archive_refusal(data: bytes, spec: GranuleSpec | None = None) -> InvalidGranuleError:
    return refusal(lambda: read_zarr_archive(data, spec or spec_of(), name="g.zarr"))


def assert_same(found: Granule, expected: Granule) -> None:
    assert (found.axis, found.dimension, found.rows) == (expected.axis, expected.dimension, expected.rows)
    assert list(found.variables) == list(expected.variables)
    assert found.attributes == expected.attributes
    for path, theirs in expected.variables.items():
        ours = found.variables[path]
        assert (ours.dimensions, ours.values.dtype, ours.values.shape) == (
            theirs.dimensions,
            theirs.values.dtype,
            theirs.values.shape,
        ), path
        np.testing.assert_array_equal(ours.values, theirs.values, err_msg=path)
        assert ours.attributes == theirs.attributes, path
        assert repr(ours.fill_value) == repr(theirs.fill_value), path


class Small:
    """A store with a time of four rows and whatever a test adds."""

    def __init__(self, folder: Path, zarr_format: Format) -> None:
        self.folder = folder
        self.zarr_format = zarr_format
        self.root = zarr.create_group(folder, zarr_format=zarr_format)
        self.add("time", np.arange(4.0), attributes={"units": "seconds since 2000-01-01"})

    def add(
        self,
        path: str,
        values: Any,
        dimensions: tuple[str, ...] | None = ("time",),
        *,
        attributes: dict[str, Any] | None = None,
        **options: Any,
    ) -> zarr.Array[Any]:
        described = dict(attributes or {})
        if self.zarr_format == 3:
            options["dimension_names"] = dimensions
        elif dimensions is not None:
            described["_ARRAY_DIMENSIONS"] = list(dimensions)
        if self.zarr_format == 2:
            options.setdefault("fill_value", None)  # as xarray writes it; zarr itself would declare 0
        options.setdefault("config", {"write_empty_chunks": True})
        return self.root.create_array(path, data=np.asarray(values), attributes=described, **options)

    def done(self) -> Path:
        zarr.consolidate_metadata(self.folder, zarr_format=self.zarr_format)
        return self.folder

    def edit(self, change: Callable[[dict[str, Any]], Any], path: str = "x") -> Path:
        """Change the metadata document of one array, without which nothing is consolidated."""
        target = self.folder / path / ("zarr.json" if self.zarr_format == 3 else ".zarray")
        document = json.loads(target.read_text())
        change(document)
        target.write_text(json.dumps(document))
        return self.folder

    def chunk(self, path: str, number: int = 0) -> Path:
        return self.folder / path / (f"c/{number}" if self.zarr_format == 3 else str(number))


@pytest.fixture
def small(tmp_path: Path) -> Callable[[Format], Small]:
    return lambda zarr_format: Small(tmp_path / f"g{zarr_format}.zarr", zarr_format)


PRODUCTS = {
    "sentinel6": (
        sentinel6_twin(99, rows=30),
        {
            "axis": "/data_01/time",
            "include": ("/data_01/*", "/data_01/ku/*"),
            "exclude": ("/**/sig0_*",),
            "rename": {"ku/range_ocean": "range"},
            "attributes": {"cycle_number": "uint16", "pass_number": "uint16"},
        },
    ),
    "sentinel3-wave": (sentinel3_wave_twin(rows=30), {"axis": "/time"}),
    "gsfc": (gsfc_twin(rows=30), {"axis": "/time"}),
}


@both_formats
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_granule_is_the_same_from_zarr_as_from_netcdf(tmp_path: Path, product: str, zarr_format: Format) -> None:
    twin, choice = PRODUCTS[product]
    fields = cast("dict[str, Any]", choice)
    expected = read_netcdf(twin.data, GranuleSpec(**fields), name="g.nc")
    folder = write_twin(twin, tmp_path / "g.zarr", zarr_format)
    # xarray writes no chunk of a variable that holds nothing but fill values.
    spec = spec_of(**fields, missing_chunks="fill")
    assert_same(read_folder(folder, spec), expected)
    for inside in ("", "g.zarr/"):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            data = pack(folder, inside=inside, method=method)
            assert_same(read_zarr_archive(data, spec, name="g.zip"), expected)


@both_formats
def test_a_store_that_is_not_consolidated_reads_the_same(tmp_path: Path, zarr_format: Format) -> None:
    folder = write_twin(sentinel6_twin(99, rows=30), tmp_path / "g.zarr", zarr_format)
    spec = spec_of("/data_01/time", marker="_SUCCESS")
    expected = read_folder(folder, spec)
    if zarr_format == 2:
        (folder / ".zmetadata").unlink()
    else:
        document = json.loads((folder / "zarr.json").read_text())
        del document["consolidated_metadata"]
        (folder / "zarr.json").write_text(json.dumps(document))
    assert_same(read_folder(folder, spec), expected)
    assert_same(read_zarr_archive(pack(folder), spec, name="g.zip"), expected)


def test_a_root_without_consolidated_metadata_is_no_default_marker(small: Callable[[Format], Small]) -> None:
    made = small(3)
    with pytest.raises(EmptyGranuleError, match=r"granule\.marker") as caught:
        read_folder(made.folder)
    assert caught.value.code == "unfinished"
    assert read_folder(made.done()).rows == 4


@both_formats
def test_chunks_of_every_kind_are_put_together(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    values = np.arange(28, dtype=">i4").reshape(4, 7)
    options = {"shards": (2, 6)} if zarr_format == 3 else {"order": "F"}
    made.add("x", values, ("time", "y"), chunks=(1, 3), **options)
    made.add("turned", values.T, ("y", "time"), chunks=(3, 3))
    made.add("scalar", np.float32(2.5), ())
    granule = read_folder(made.done())
    for path in ("x", "turned"):
        assert granule.variables[path].dimensions == ("time", "y")
        assert granule.variables[path].values.dtype.str == "<i4"
        np.testing.assert_array_equal(granule.variables[path].values, values)
    assert granule.variables["scalar"].values.tolist() == 2.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["a", "", "bé", "日本"], np.dtypes.StringDType()), ["a", "", "bé", "日本"]),
        (np.array(["a", "", "bé", "日本"]), ["a", "", "bé", "日本"]),
        (np.array([b"ab", b"", "é".encode(), b"\xe9 "]), ["ab", "", "é", "é"]),
        (np.array([b"a", b"b", b"", b"d"]), ["a", "b", "", "d"]),
    ],
)
@both_formats
def test_text_of_every_kind_becomes_python_strings(
    small: Callable[[Format], Small], zarr_format: Format, values: Any, expected: list[str]
) -> None:
    made = small(zarr_format)
    made.add("x", values)
    found = read_folder(made.done()).variables["x"]
    assert found.values.dtype == object
    assert found.values.tolist() == expected
    assert (found.dimensions, found.fill_value) == (("time",), None)


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
@both_formats
def test_datetime64_becomes_nanoseconds_since_1970(
    small: Callable[[Format], Small], zarr_format: Format, unit: str
) -> None:
    made = small(zarr_format)
    times = np.array(["1969-12-31T23:59:59", "2001-01-01", "2001-01-02", "2001-01-03"], f"M8[{unit}]")
    made.add("when", times, attributes={"long_name": "when"})
    gaps = times.copy()
    gaps[1] = np.datetime64("NaT", "ns")
    made.add("gaps", gaps)
    made.add("lag", np.array([-1, 2, 3, 4], f"m8[{unit}]"))
    granule = read_folder(made.done(), spec_of("/when"))
    expected = times.astype("M8[ns]").view(np.int64)
    when = granule.variables["when"]
    assert when.values.dtype.str == "<i8"
    assert when.values.tolist() == expected.tolist()
    assert when.attributes == {"long_name": "when", "units": TIME_UNITS, "calendar": "proleptic_gregorian"}
    found = granule.variables["gaps"]
    assert found.values[1] == found.fill_value == np.iinfo(np.int64).min
    assert found.values[[0, 2, 3]].tolist() == expected[[0, 2, 3]].tolist()
    lag = granule.variables["lag"]
    assert lag.values.tolist() == (np.array([-1, 2, 3, 4]) * {"s": 10**9, "ms": 10**6, "ns": 1}[unit]).tolist()
    assert lag.attributes == {"units": "nanoseconds"}
    assert folder_refusal(made.folder, spec_of("/gaps")).code == "axis_not_finite"


@both_formats
def test_a_datetime64_beyond_the_range_of_nanoseconds_is_refused(
    small: Callable[[Format], Small], zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("x", np.array(["2001-01-01", "2500-01-01", "2001-01-01", "2001-01-01"], "M8[s]"))
    error = folder_refusal(made.done())
    assert error.code == "unreadable"
    assert "/x" in str(error)


@both_formats
def test_fill_values_are_those_that_xarray_sees(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    values = np.arange(4)
    made.add("own", values.astype("i2"), fill_value=7)
    made.add("declared", values.astype("i2"), attributes={"_FillValue": 3}, fill_value=3)
    made.add("nan", values.astype("f4"), attributes={"_FillValue": "AAAAAAAA+H8="}, fill_value=math.nan)
    found = {path: variable.fill_value for path, variable in read_folder(made.done()).variables.items()}
    assert repr(found.pop("nan")) == "nan"
    assert found == {"own": 7 if zarr_format == 2 else None, "declared": 3, "time": None}
    with xr.open_zarr(made.folder, zarr_format=zarr_format, decode_cf=False, chunks=None) as theirs:
        seen = {str(path): variable.attrs.get("_FillValue") for path, variable in theirs.variables.items()}
    assert repr(seen.pop("nan")).endswith("nan)" if zarr_format == 2 else "nan")
    assert seen == found


@both_formats
def test_fill_values_of_other_writers_are_understood(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    made.add("spelt", np.arange(4, dtype="f4"), attributes={"_FillValue": "-Infinity"})
    made.add("number", np.arange(4, dtype="f4"), attributes={"_FillValue": -9999.0})
    made.add("text", np.array(list("abcd"), np.dtypes.StringDType()), attributes={"_FillValue": "b"})
    made.add("bytes", np.array([b"ab", b"cd", b"ef", b"gh"]), attributes={"_FillValue": "Y2Q="})
    found = {path: variable.fill_value for path, variable in read_folder(made.done()).variables.items()}
    assert found == {"spelt": -math.inf, "number": -9999.0, "text": "b", "bytes": "cd", "time": None}


def test_an_array_s_own_fill_value_means_missing_on_an_axis_of_format_2(small: Callable[[Format], Small]) -> None:
    made = small(2)
    made.add("clock", np.arange(4.0), fill_value=0.0, attributes={"units": "seconds since 2000-01-01"})
    assert folder_refusal(made.done(), spec_of("/clock")).code == "axis_not_finite"
    assert read_folder(Small(made.folder.with_name("3.zarr"), 3).done()).rows == 4


@both_formats
def test_a_missing_chunk_is_refused_by_name(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(1, 5), chunks=(2,), fill_value=-1)
    folder = made.done()
    made.chunk("x", 1).unlink()
    key = "x/c/1" if zarr_format == 3 else "x/1"
    for error in (folder_refusal(folder), archive_refusal(pack(folder))):
        assert (error.code, error.context["variable"], error.context["chunk"]) == ("incomplete", "/x", key)
        assert f"/x: the chunk {key} is missing (1 of 2 are)" in str(error)
        assert "write_empty_chunks" in str(error)
    granule = read_folder(folder, spec_of(missing_chunks="fill"))
    assert granule.variables["x"].values.tolist() == [1, 2, -1, -1]
    assert "x" not in read_folder(folder, spec_of(exclude=("/x",))).variables


@both_formats
def test_chunks_that_zarr_leaves_out_by_default_are_missing(
    small: Callable[[Format], Small], zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("x", np.zeros(4, "i2"), config={"write_empty_chunks": False})
    assert folder_refusal(made.done()).code == "incomplete"


@both_formats
def test_a_missing_chunk_of_the_axis_is_refused_always(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    folder = made.done()
    made.chunk("time").unlink()
    assert folder_refusal(folder, spec_of(missing_chunks="fill")).code == "incomplete"


def test_a_missing_chunk_without_a_fill_value_is_refused_always(small: Callable[[Format], Small]) -> None:
    made = small(2)
    made.add("x", np.arange(4))
    made.edit(lambda document: document.update(fill_value=None))
    made.chunk("x").unlink()
    assert folder_refusal(made.folder, spec_of(missing_chunks="fill")).code == "incomplete"


COMPRESSORS = {
    2: {"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "none": None},
    3: {"blosc": BloscCodec(), "zstd": ZstdCodec(), "gzip": GzipCodec(), "none": None},
}


@pytest.mark.parametrize("codec", COMPRESSORS[2])
@both_formats
def test_a_cut_chunk_is_unreadable_and_named(small: Callable[[Format], Small], zarr_format: Format, codec: str) -> None:
    made = small(zarr_format)
    made.add("x", np.random.default_rng(1).integers(0, 1 << 62, 4), compressors=COMPRESSORS[zarr_format][codec])
    folder = made.done()
    assert read_folder(folder).rows == 4
    whole = made.chunk("x").read_bytes()
    for length in (0, 3, 15, 16, len(whole) // 2, len(whole) - 1):
        made.chunk("x").write_bytes(whole[:length])
        error = folder_refusal(folder)
        assert error.code == "unreadable"
        assert "/x" in str(error)


@both_formats
def test_an_axis_without_rows_is_an_empty_granule(small: Callable[[Format], Small], zarr_format: Format) -> None:
    made = small(zarr_format)
    made.add("t0", np.zeros(0), ("t0",))
    with pytest.raises(EmptyGranuleError):
        read_folder(made.done(), spec_of("/t0"))


@both_formats
def test_variables_that_do_not_go_together_are_refused_as_from_netcdf(
    small: Callable[[Format], Small], zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("nameless", np.arange(4), None)
    made.add("longer", np.arange(5))
    made.add("c", np.arange(4) * 1j)
    made.add("one/time", np.arange(4.0))
    made.add("two/x", np.arange(4.0))
    folder = made.done()

    def code(include: str, axis: str = "/time") -> str:
        return folder_refusal(folder, spec_of(axis, include=(include,))).code

    assert code("/nameless") == "dimensions_missing"
    assert code("/longer") == "dimension_conflict"
    assert code("/c") == "unsupported_type"
    assert code("/absent") == "nothing_selected"
    assert code("/*", axis="/absent") == "axis_missing"
    # The root's time goes down to all groups; without it each group has its own.
    assert read_folder(folder, spec_of(include=("/two/x",))).variables["two/x"].dimensions == ("time",)
    separate = Small(folder.with_name("separate.zarr"), zarr_format)
    separate.add("one/t", np.arange(4.0), ("t",))
    separate.add("two/x", np.arange(4.0), ("t",))
    assert folder_refusal(separate.done(), spec_of("/one/t", include=("/two/x",))).code == "other_axis"


def with_codec(zarr_format: Format, codec: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        if zarr_format == 2:
            document["filters"] = [{"id": codec}]
        else:
            document["codecs"] = [{"name": f"numcodecs.{codec}", "configuration": {}}]

    return change


@both_formats
def test_codecs_that_could_run_code_are_refused_before_anything_is_decoded(
    small: Callable[[Format], Small], zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(4))
    error = folder_refusal(made.edit(with_codec(zarr_format, "pickle")), spec_of(marker="m"))
    assert error.code == "unsupported_codec"
    assert "'pickle'" in str(error)


def test_a_shard_inside_a_shard_is_refused(small: Callable[[Format], Small]) -> None:
    made = small(3)
    made.add("x", np.arange(4), shards=(4,), chunks=(2,))

    document = json.loads((made.folder / "x/zarr.json").read_text())
    inner = document["codecs"][0]
    folder = made.edit(lambda found: found["codecs"][0]["configuration"].update(codecs=[inner]))
    assert folder_refusal(folder, spec_of(marker="m")).code == "unsupported_codec"


def claims(zarr_format: Format, *, shape: list[int], chunk: list[int]) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["shape"] = shape
        if zarr_format == 2:
            document["chunks"] = chunk
        else:
            document["chunk_grid"]["configuration"]["chunk_shape"] = chunk

    return change


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [([1 << 40], [1 << 20]), ([4], [1 << 40]), ([1 << 25], [1])],
    ids=["array", "chunk", "chunks"],
)
@both_formats
def test_sizes_that_no_granule_has_are_refused_before_anything_is_read(
    small: Callable[[Format], Small], zarr_format: Format, shape: list[int], chunk: list[int]
) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(4), ("huge",))
    folder = made.edit(claims(zarr_format, shape=shape, chunk=chunk))
    assert folder_refusal(folder, spec_of(marker="m", missing_chunks="fill")).code == "too_large"


@pytest.mark.parametrize("shape", [[-4], ["4"], [4.0], 4, None])
@both_formats
def test_metadata_that_are_no_metadata_are_unreadable(
    small: Callable[[Format], Small], zarr_format: Format, shape: Any
) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(4))
    folder = made.edit(lambda document: document.update(shape=shape))
    assert folder_refusal(folder, spec_of(marker="m")).code == "unreadable"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"metadata": 3}', b"[" * 100_000, b"\xff\xfe"])
@both_formats
def test_a_marker_that_is_no_metadata_is_refused(
    small: Callable[[Format], Small], zarr_format: Format, content: bytes
) -> None:
    made = small(zarr_format)
    (made.folder / MARKERS[zarr_format]).write_bytes(content)
    assert folder_refusal(made.folder).code in {"unreadable", "not_zarr"}


@both_formats
def test_a_path_in_the_metadata_that_leads_outside_is_refused(
    small: Callable[[Format], Small], zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(4))
    marker = made.done() / MARKERS[zarr_format]
    marker.write_text(marker.read_text().replace('"x', '"../x'))
    assert folder_refusal(made.folder).code == "unsafe_path"


def test_a_folder_that_holds_no_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_bytes(b"text")
    assert folder_refusal(tmp_path).code == "not_zarr"
    for zarr_format in FORMATS:
        folder = tmp_path / f"{zarr_format}.zarr"
        zarr.create_array(folder, data=np.arange(4), zarr_format=zarr_format)
        assert folder_refusal(folder).code == "not_zarr"


def test_more_objects_chunks_or_metadata_than_a_granule_has_are_refused(
    small: Callable[[Format], Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small(3).done()
    for module, limit, value in (
        (zarrobjects, "MAX_OBJECTS", 2),
        (zarrmetadata, "MAX_METADATA_NBYTES", 100),
        (zarrgranule, "MAX_CHUNKS", 0),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            assert folder_refusal(folder).code == "too_large"
            assert archive_refusal(pack(folder)).code == "too_large"
    assert read_folder(folder).rows == 4


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        (np.zeros(100), 800),
        (np.zeros(100, "S1"), 6_800),
        (np.zeros(100, "S30"), 12_000 + 6_400),
        (np.full(100, "a"), 6_800),
        (np.array(["a" * 30] * 100, np.dtypes.StringDType()), 18_400),
    ],
    ids=["numbers", "bytes", "fixed bytes", "fixed text", "text"],
)
@both_formats
def test_what_a_granule_may_take_of_memory_is_limited(
    small: Callable[[Format], Small], zarr_format: Format, values: Any, needed: int
) -> None:
    made = small(zarr_format)
    made.add("x", values, ("y",))
    folder = made.done()
    assert folder_refusal(folder, spec_of(max_nbytes=needed)).code == "too_large"
    # Beside it: the time, twice the largest chunk, and what zarr holds of text before it is Python's.
    assert read_folder(folder, spec_of(max_nbytes=needed + 200 + 3 * 3_000)).rows == 4


def test_the_objects_of_a_granule_may_not_be_larger_than_its_values_may(small: Callable[[Format], Small]) -> None:
    made = small(2)
    made.add("x", np.arange(4), compressors=None)
    folder = made.done()
    (folder / "x/0").write_bytes(bytes(10_000))
    assert folder_refusal(folder, spec_of(max_nbytes=9_000)).code == "too_large"
    assert archive_refusal(pack(folder), spec_of(max_nbytes=9_000)).code == "too_large"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = Small(tmp_path_factory.mktemp("archive") / "g.zarr", 2)
    made.add("x", np.arange(4), chunks=(2,))
    return pack(made.done(), method=zipfile.ZIP_DEFLATED)


def test_a_cut_archive_is_truncated(archive: bytes) -> None:
    for length in (4, 30, len(archive) // 2, len(archive) - 23, len(archive) - 1):
        assert archive_refusal(archive[:length]).code == "truncated"
    assert archive_refusal(b"").code == "empty_file"


def test_what_is_no_archive_is_not_zarr(archive: bytes) -> None:
    for data in (b"this is text", sentinel3_wave_twin(rows=3).data, b"\0" + archive):
        assert archive_refusal(data).code == "not_zarr"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_archive_with_changed_bytes_gives_its_values_or_a_refusal(archive: bytes, data: st.DataObject) -> None:
    changed = bytearray(archive)
    for place in data.draw(st.lists(st.integers(0, len(archive) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidGranuleError):
        granule = read_zarr_archive(bytes(changed), spec_of(include=("/x",)), name="g.zarr")
        assert granule.variables["x"].values.tolist() == [0, 1, 2, 3]


def zipped(tmp_path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w", method) as made:
        for key, data in members.items():
            made.writestr(key, data)
    return path.read_bytes()


@pytest.mark.parametrize("key", ["../x/.zarray", "/etc/x", "a//b", "a\\..\\x", "../"])
def test_an_object_of_an_archive_whose_name_leads_outside_is_refused(tmp_path: Path, key: str) -> None:
    assert archive_refusal(zipped(tmp_path, {".zgroup": b"{}", key: b""})).code == "unsafe_path"


def test_an_archive_must_have_one_root(tmp_path: Path) -> None:
    group = b'{"zarr_format": 2}'
    two = zipped(tmp_path, {"a.zarr/.zgroup": group, "b.zarr/.zgroup": group})
    assert "a.zarr, b.zarr" in str(archive_refusal(two))
    for members in ({"a/b/.zgroup": group}, {"readme.txt": b"text"}, {}):
        assert archive_refusal(zipped(tmp_path, members)).code == "not_zarr"


def declare(archive: bytes, key: str, size: int) -> bytes:
    """Change the uncompressed size that an archive's directory tells of an object."""
    place = archive.rindex(key.encode()) - 46
    assert archive[place : place + 4] == b"PK\x01\x02"
    return archive[: place + 24] + size.to_bytes(4, "little") + archive[place + 28 :]


def test_an_archive_that_declares_more_than_memory_holds_is_refused(archive: bytes) -> None:
    lying = declare(archive, "x/0", 1 << 31)
    assert archive_refusal(lying).code == "unreadable"
    assert archive_refusal(declare(archive, ".zmetadata", 1 << 30)).code == "too_large"
    assert archive_refusal(declare(lying, "x/1", 1 << 31)).code == "too_large"


def test_an_archive_is_inflated_no_further_than_it_declares(tmp_path: Path) -> None:
    bomb = declare(zipped(tmp_path, {"zarr.json": bytes(200 << 20)}, zipfile.ZIP_DEFLATED), "zarr.json", 16)
    tracemalloc.start()
    try:
        assert archive_refusal(bomb).code == "unreadable"
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression_are_refused(tmp_path: Path, method: int) -> None:
    error = archive_refusal(zipped(tmp_path, {".zgroup": b'{"zarr_format": 2}' * 9}, method))
    assert error.code == "unreadable"
    assert "stored and deflated" in str(error)


def test_the_last_object_of_a_name_counts_as_zarr_s_own_zip_store_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "g.zip"
    with warnings.catch_warnings(action="ignore"), zarr.storage.ZipStore(path, mode="w") as store:
        root = zarr.create_group(store, zarr_format=3)
        root.create_array("time", data=np.arange(4.0), dimension_names=["time"], config={"write_empty_chunks": True})
        root["time"].attrs.update({"units": "seconds since 2000-01-01"})
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist().count("time/zarr.json") == 2
    granule = read_zarr_archive(path.read_bytes(), spec_of(), name="g.zip")
    assert granule.variables["time"].values[1] == 946684801 * 10**9


@pytest.mark.parametrize(
    ("key", "marker", "expected"),
    [
        ("in/a.zarr/.zmetadata", "", True),
        ("in/a.zarr/zarr.json", "", True),
        ("zarr.json", "", True),
        ("in/a.zarr/x/0.0", "", False),
        ("in/a.zarr.zip", "", False),
        ("in/a.zarr/_SUCCESS", "_SUCCESS", True),
        ("in/a.zarr/day.done", "*.done", True),
        ("in/a.zarr/zarr.json", "_SUCCESS", False),
    ],
)
def test_markers_are_told_by_the_last_part_of_a_key(key: str, marker: str, expected: bool) -> None:
    assert spec_of(marker=marker).is_marker(key) is expected
    assert not GranuleSpec("/time").is_marker(key)


@pytest.fixture
def bucket() -> Iterator[ObjectStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def upload(store: ObjectStore, folder: Path, prefix: str) -> None:
    for key, data in objects(folder):
        store.create(prefix + key, data)


@both_formats
def test_a_url_opens_the_directory_of_its_marker_and_tells_the_marker_s_version(
    small: Callable[[Format], Small], bucket: ObjectStore, zarr_format: Format
) -> None:
    made = small(zarr_format)
    made.add("x", np.arange(4))
    folder = made.done()
    upload(bucket, folder, "in/g.zarr/")
    upload(bucket, folder, "in/g.zarr.other/")
    key = f"in/g.zarr/{MARKERS[zarr_format]}"
    opened = open_granule(f"{bucket.url}/{key}", spec_of())
    assert opened.granule.name == f"{bucket.url}/{key}"
    assert opened.granule.variables["x"].values.tolist() == [0, 1, 2, 3]
    assert opened.info == bucket.head(key)
    local = open_granule(str(folder / MARKERS[zarr_format]), spec_of())
    assert local.granule.rows == 4
    with pytest.raises(NotFoundError):
        open_granule(f"{bucket.url}/in/absent.zarr/{MARKERS[zarr_format]}", spec_of())


def test_a_url_opens_an_archive_or_a_netcdf_file(archive: bytes, bucket: ObjectStore) -> None:
    bucket.create("in/g.zarr.zip", archive)
    twin = sentinel3_wave_twin(rows=5)
    bucket.create("in/g.nc", twin.data)
    opened = open_granule(f"{bucket.url}/in/g.zarr.zip", spec_of())
    assert opened.granule.rows == 4
    assert opened.info == bucket.head("in/g.zarr.zip")
    assert open_granule(f"{bucket.url}/in/g.nc", GranuleSpec("/time")).granule.rows == 5
    with pytest.raises(InvalidGranuleError, match=r"granule\.format"):
        open_granule(f"{bucket.url}/in/g.zarr.zip", GranuleSpec("/time"))
    with pytest.raises(InvalidGranuleError) as caught:
        open_granule(f"{bucket.url}/in/g.nc", spec_of())
    assert caught.value.code == "not_zarr"


def test_a_marker_of_any_name_stands_for_its_folder(small: Callable[[Format], Small], bucket: ObjectStore) -> None:
    made = small(3)
    upload(bucket, made.folder, "g/")
    bucket.create("g/_SUCCESS", b"")
    assert open_granule(f"{bucket.url}/g/_SUCCESS", spec_of(marker="_SUCCESS")).granule.rows == 4


def test_a_directory_that_is_written_again_while_it_is_read_is_to_be_read_again(
    small: Callable[[Format], Small], bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, small(2).done(), "g/")
    read = opening.read_zarr_folder

    def meddled(store: ObjectStore, *arguments: Any, **options: Any) -> Granule:
        granule = read(store, *arguments, **options)
        info = store.head("g/.zmetadata")
        store.replace("g/.zmetadata", store.get("g/.zmetadata").data, info.etag)
        return granule

    monkeypatch.setattr(opening, "read_zarr_folder", meddled)
    with pytest.raises(StorageError, match="written again"):
        open_granule(f"{bucket.url}/g/.zmetadata", spec_of())


class Vanishing(MemoryStore):
    """A store whose chunks are gone after they were listed."""

    def get(self, key: str) -> StoredObject:
        if key.endswith("/0"):
            raise NotFoundError(key)
        return super().get(key)


def test_a_chunk_that_is_removed_while_the_granule_is_read_is_no_fault_of_the_granule(
    small: Callable[[Format], Small], bucket: ObjectStore
) -> None:
    upload(bucket, small(2).done(), "")
    with pytest.raises(StorageError, match="removed while"):
        read_zarr_folder(Vanishing(bucket.url), "", spec_of(), name="g.zarr")


def test_the_specification_itself_can_be_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_zarr_folder(open_store(str(tmp_path)), "", spec_of("time"), name="g.zarr")
    assert not isinstance(caught.value, InvalidGranuleError)


def test_only_chosen_variables_are_fetched(small: Callable[[Format], Small]) -> None:
    made = small(2)
    made.add("x", np.arange(4))
    folder = made.done()
    shutil.rmtree(folder / "x")
    assert read_folder(folder, spec_of(exclude=("/x",))).rows == 4
    assert folder_refusal(folder).code == "incomplete"
