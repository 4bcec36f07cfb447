"""Times beside the axis, by whose date a collection is partitioned: decoded like the axis, from files and datasets."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.zarr_twins import FORMATS, MARKERS, Format
from zcollection_engine import Collection, DatePartitioning, create_collection, schema_of
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError, SchemaMismatchError
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.schema import TIME_CALENDAR, TIME_UNITS
from zcollection_engine.sources import Source, SourceExecutor, read_source
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.verification.verifying import verify

SPEC = GranuleSpec("/index", times=("acquired",))
MONTHLY = DatePartitioning("acquired", "month")
JANUARY, FEBRUARY = "year=2020/month=01", "year=2020/month=02"
DAY = 86_400 * 10**9

#: 2020-01-31, in days since 2000-01-01 and as an instant.
LAST = 7335
INSTANT = int(np.datetime64("2020-01-31", "ns").astype(np.int64))

Make = Callable[..., Granule]


def track(index: list[int], days: list[float], **attributes: Any) -> xr.Dataset:
    """Points along a track, each acquired so many days after 2020-01-31."""
    described = {"units": "days since 2000-01-01", "long_name": "time of acquisition", "valid_min": 0.0} | attributes
    variables = {
        "acquired": xr.Variable("point", LAST + np.array(days, np.float64), described),
        "height": xr.Variable("point", np.array(index, np.int32) * 10, {"units": "m"}),
    }
    return xr.Dataset(variables, coords={"index": ("point", np.array(index, np.int64))})


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a file and read it."""

    def write(dataset: xr.Dataset, spec: GranuleSpec = SPEC) -> Granule:
        path = tmp_path / "g.nc"
        path.unlink(missing_ok=True)
        dataset.to_netcdf(path)
        return read_source(Source.at(str(path)), spec).granule

    return write


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def stored(collection: Collection) -> dict[str, list[tuple[int, int]]]:
    """(index, height) of each row by partition."""
    found = {}
    for partition in collection.partitions():
        dataset = collection.load([partition.path], decode=False)
        assert isinstance(dataset, xr.Dataset)
        columns = (dataset[name].values.tolist() for name in ("index", "height"))
        found[partition.path] = list(zip(*columns, strict=True))
    return found


# Reading.


def test_a_time_beside_the_axis_becomes_nanoseconds_with_the_attributes_of_a_time(make: Make) -> None:
    found = make(track([0, 1, 2], [0, 0.5, 1])).variables["acquired"]
    assert found.values.tolist() == [INSTANT, INSTANT + DAY // 2, INSTANT + DAY]
    assert found.values.dtype == np.int64
    expected = {"long_name": "time of acquisition", "units": TIME_UNITS, "calendar": TIME_CALENDAR}
    assert {k: v for k, v in found.attributes.items() if k != "coordinates"} == expected
    assert found.fill_value is None
    assert make(track([0], [0]), replace(SPEC, times=())).variables["acquired"].values.tolist() == [LAST]


def test_its_name_is_the_collection_s(make: Make) -> None:
    spec = replace(SPEC, rename={"acquired": "sensing/time"}, times=("sensing/time",))
    assert make(track([0], [0]), spec).variables["sensing/time"].values.tolist() == [INSTANT]
    with pytest.raises(InvalidGranuleError, match=r"g\.nc: .*'acquired'.*look like times: sensing/time") as caught:
        make(track([0], [0]), replace(spec, times=("acquired",)))
    assert caught.value.code == "time_missing"


def test_the_axis_is_decoded_once(make: Make) -> None:
    spec = GranuleSpec("/acquired", times=("acquired",))
    assert make(track([0], [0]), spec).variables["acquired"].values.tolist() == [INSTANT]


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_times_of_zarr_granules_are_decoded_too(tmp_path: Path, zarr_format: Format) -> None:
    folder = tmp_path / "g.zarr"
    with warnings.catch_warnings(action="ignore"):
        track([0, 1], [0, 1]).to_zarr(folder, zarr_format=zarr_format, consolidated=True)
    spec = replace(SPEC, format="zarr", missing_chunks="fill")
    granule = read_source(Source.at(str(folder / MARKERS[zarr_format])), spec).granule
    assert granule.variables["acquired"].values.tolist() == [INSTANT, INSTANT + DAY]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"units": "m"}, "time_undecodable", "'m', not those of a time"),
        ({"units": "days since yesterday"}, "time_undecodable", "cannot be decoded"),
        ({"calendar": "lunar"}, "time_undecodable", "'lunar' is not one of CF's"),
        ({"units": "days since 9000-01-01"}, "time_out_of_range", "outside 1677"),
        ({"missing_value": float(LAST)}, "time_not_finite", "a row without a date belongs to no partition"),
    ],
)
def test_a_time_that_cannot_be_decoded_is_refused_by_name(
    make: Make, changes: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(InvalidGranuleError, match=r"g\.nc: the time /acquired .*") as caught:
        make(track([0, 1], [0, 1], **changes))
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_time_of_another_shape_is_refused(make: Make) -> None:
    dataset = track([0, 1], [0, 1])
    dataset["acquired"] = (("point", "side"), np.zeros((2, 2)), {"units": "days since 2000-01-01"})
    with pytest.raises(InvalidGranuleError, match=r"must have the one dimension 'point'") as caught:
        make(dataset)
    assert caught.value.code == "time_not_1d"


# Partitioning.


def test_files_are_partitioned_by_it_and_ordered_by_the_axis(make: Make, store: MemoryStore, tmp_path: Path) -> None:
    schema = infer_schema(make(track([0], [0])))
    assert schema["acquired"].attributes["units"] == TIME_UNITS
    collection = create_collection(store, schema, MONTHLY)
    first, second = tmp_path / "a.nc", tmp_path / "b.nc"
    track([3, 2, 1, 0], [1, 0, 1, 0]).to_netcdf(first)
    track([2, 4], [2, -1]).to_netcdf(second)
    collection.ingest([str(first), str(second)], SPEC)
    assert stored(collection) == {JANUARY: [(0, 0), (2, 20), (4, 40)], FEBRUARY: [(1, 10), (2, 20), (3, 30)]}
    collection.retract([str(second).lstrip("/")], executor=SourceExecutor(collection, SPEC))
    assert stored(collection) == {JANUARY: [(0, 0), (2, 20)], FEBRUARY: [(1, 10), (3, 30)]}
    assert verify(collection, store=store).findings == ()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_datasets_are_partitioned_by_it_too(store: MemoryStore, zarr_format: int) -> None:
    dataset = xr.decode_cf(track([1, 0, 3, 2], [0, 1, 0, 1]).drop_attrs())
    dataset["acquired"] = ("point", (INSTANT + np.array([0, 1, 0, 1]) * DAY).astype("datetime64[ns]"))
    schema = replace(schema_of(dataset, "index"), zarr_format=zarr_format)
    collection = create_collection(store, schema, MONTHLY)
    collection.insert(dataset)
    assert stored(collection) == {JANUARY: [(1, 10), (3, 30)], FEBRUARY: [(0, 0), (2, 20)]}
    loaded = collection.load([FEBRUARY])
    assert isinstance(loaded, xr.Dataset)
    assert loaded["acquired"].values.tolist() == [INSTANT + DAY] * 2
    assert loaded["acquired"].dtype == np.dtype("<M8[ns]")


def test_rows_without_it_have_no_place(make: Make, store: MemoryStore) -> None:
    collection = create_collection(store, infer_schema(make(track([0], [0]))), MONTHLY)
    with pytest.raises(SchemaMismatchError, match="without it rows have no place"):
        collection.insert(track([0], [0]).drop_vars("acquired"))
    dataset = track([0, 1], [0, 1])
    dataset["acquired"] = ("point", np.array(["2020-01-01", "NaT"], "datetime64[ns]"))
    with pytest.raises(InvalidGranuleError, match="NaT"):
        collection.insert(dataset)
    assert collection.partitions() == []


def test_a_collection_needs_it_as_a_time(make: Make, store: MemoryStore) -> None:
    raw = infer_schema(make(track([0], [0]), replace(SPEC, times=())))
    with pytest.raises(InvalidInputError, match=r"'acquired'.*is no time"):
        create_collection(store, raw, MONTHLY)
