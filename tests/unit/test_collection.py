"""A collection as a library: what goes in comes out, sorted, once, and a refused dataset changes nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import DAY_16, DAY_17, HOUR, FakeClock, heights, rows_of, small_schema, times
from zcollection_engine import Collection, create_collection, open_collection, schema_of
from zcollection_engine.commits.log import record_key
from zcollection_engine.errors import (
    ConflictError,
    EmptyGranuleError,
    FormatError,
    InvalidGranuleError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    SchemaMismatchError,
    SnapshotExpiredError,
)
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.merging import TimeSeries
from zcollection_engine.partitioning import DatePartitioning, SequencePartitioning
from zcollection_engine.planning import Verdict
from zcollection_engine.schema import PROVENANCE, TEXT, Schema, Variable
from zcollection_engine.stores.memory import MemoryStore

DAILY = DatePartitioning("time", "day")
SIXTEENTH = 86_400


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def daily(store: MemoryStore, schema: Schema | None = None, **options: Any) -> Collection:
    return create_collection(store, schema or small_schema(), DAILY, clock=FakeClock(), **options)


def raw(collection: Collection, *partitions: str, variables: list[str] | None = None) -> xr.Dataset:
    found = collection.load(partitions or None, variables=variables, decode=False)
    assert isinstance(found, xr.Dataset)
    return found


# Creating and opening.


def test_a_collection_is_created_once(store: MemoryStore) -> None:
    daily(store)
    with pytest.raises(ConflictError, match=store.url):
        daily(store)


def test_a_refused_creation_leaves_the_collection_as_it_is(store: MemoryStore) -> None:
    daily(store).insert(heights([1, 2]))
    with pytest.raises(ConflictError):
        daily(store)
    assert rows_of(raw(open_collection(store))) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("mode", ["r", "w"])
def test_opening_what_is_not_there_is_refused_and_makes_nothing(store: MemoryStore, mode: Any) -> None:
    with pytest.raises(NotFoundError, match=store.url):
        open_collection(store, mode=mode)
    assert list(store.list()) == []


def test_a_collection_whose_log_was_trimmed_is_not_created_again(store: MemoryStore) -> None:
    writer = daily(store)
    writer.insert(heights([1, 2]))
    writer.checkpoint()
    for number in range(writer.state.number):
        store.delete(record_key(number))
    with pytest.raises(ConflictError, match=store.url):
        daily(store)
    assert rows_of(raw(open_collection(store))) == [(1, 1), (2, 2)]


def test_an_unknown_mode_is_refused(store: MemoryStore) -> None:
    daily(store)
    with pytest.raises(InvalidInputError, match='"r" or "w"'):
        open_collection(store, mode="a")  # type: ignore[arg-type]


def test_a_collection_is_opened_by_url_with_the_schema_it_was_created_with(store: MemoryStore) -> None:
    created = create_collection(store.url, small_schema(), DAILY, strategy=TimeSeries(5))
    opened = open_collection(store.url)
    assert opened.schema == created.schema == small_schema()
    assert opened.config.partitioning == DAILY
    assert opened.config.strategy == TimeSeries(5)
    assert json.loads(store.get("_zcollection.json").data)["partitioning"]["name"] == "date"


def test_a_collection_written_by_a_newer_version_is_refused(store: MemoryStore) -> None:
    store.create(record_key(0), b'{"format_version": 99, "kind": "create"}')
    with pytest.raises(FormatError, match="newer"):
        open_collection(store)


@pytest.mark.parametrize("name", ["absent", "waveform", "height"])
def test_a_date_partitioning_needs_a_time_along_the_rows(store: MemoryStore, name: str) -> None:
    schema = small_schema(extra=[Variable("waveform", "<f4", ("time", "band"), (8, 3))])
    with pytest.raises(InvalidInputError, match=name):
        create_collection(store, schema, DatePartitioning(name, "day"))
    assert list(store.list()) == []


def test_a_sequence_partitioning_needs_integers(store: MemoryStore) -> None:
    schema = small_schema(extra=[Variable("cycle", "<f4", ("time",), (8,))])
    with pytest.raises(InvalidInputError, match="cycle"):
        create_collection(store, schema, SequencePartitioning(("cycle",)))
    assert list(store.list()) == []


def test_a_variable_in_the_place_of_the_origin_of_rows_is_refused(store: MemoryStore) -> None:
    bare = small_schema()
    others = tuple(v for v in bare.variables if v.path != PROVENANCE)
    mine = Variable(PROVENANCE, "<f4", (bare.dimension,), (10,))
    schema = Schema(bare.axis, bare.dimension, bare.dimensions, (*others, mine))
    with pytest.raises(InvalidInputError, match=PROVENANCE):
        create_collection(store, schema, DAILY)


# What goes in comes out.


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-30, 80), min_size=1, max_size=40), st.integers(1, 9))
def test_rows_in_any_order_over_several_partitions_come_out_sorted_and_complete(
    hours: list[int], chunk_rows: int
) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    collection = daily(store, small_schema(chunk_rows=chunk_rows))
    collection.insert(heights(hours, unit=HOUR))
    found = raw(collection)
    order = np.argsort(hours, kind="stable")
    np.testing.assert_array_equal(found["time"].values, times(hours, unit=HOUR).astype(np.int64)[order])
    np.testing.assert_array_equal(found["height"].values, np.array(hours)[order])
    assert len(set(found[PROVENANCE].values.tolist())) == 1
    assert [p.path for p in collection.partitions()] == sorted(
        {f"year={t[:4]}/month={t[5:7]}/day={t[8:10]}" for t in np.datetime_as_string(times(hours, unit=HOUR), "D")}
    )
    store.clear()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(-8, 40), min_size=1, max_size=12), st.integers(0, 9)), min_size=1, max_size=6
    )
)
def test_any_series_of_inserts_leaves_the_rows_that_no_higher_granule_owns(
    series: list[tuple[list[int], int]],
) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    collection = daily(store, small_schema(chunk_rows=4))
    for number, (hours, precedence) in enumerate(series):
        collection.insert(heights(hours, unit=HOUR, offset=1000 * number), granule=f"g{number}", precedence=precedence)
    ranked = sorted(enumerate(series), key=lambda item: (item[1][1], f"g{item[0]}"))
    expected = []
    for rank, (number, (hours, _)) in enumerate(ranked):
        for position, hour in enumerate(hours):
            day = hour // 24
            above = [[h for h in higher if h // 24 == day] for _, (higher, _) in ranked[rank + 1 :]]
            if not any(same and min(same) <= hour <= max(same) for same in above):
                expected.append((hour * 3600, rank, position, hour + 1000 * number))
    assert rows_of(raw(collection)) == [(t, h) for t, _, _, h in sorted(expected)]
    assert rows_of(raw(open_collection(store))) == rows_of(raw(collection))
    store.clear()


def test_partitions_tell_rows_period_generation_and_granules(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([SIXTEENTH - 1, SIXTEENTH, SIXTEENTH + 5]))
    collection.insert(heights([SIXTEENTH + 2]))
    first, second = collection.partitions()
    assert (first.path, first.rows, first.generation, first.granules) == (DAY_16, 1, 0, 1)
    assert (second.path, second.rows, second.generation, second.granules) == (DAY_17, 3, 1, 2)
    assert second.keys == (("year", 2023), ("month", 12), ("day", 17))
    low, high = times([SIXTEENTH, SIXTEENTH + 5]).astype(np.int64).tolist()
    assert (second.first, second.last) == (low, high)
    assert second.commit > first.commit


def test_partitions_by_sequence_come_in_numeric_order(store: MemoryStore) -> None:
    schema = small_schema(extra=[Variable("cycle", "<u2", ("time",), (8,))])
    collection = create_collection(store, schema, SequencePartitioning(("cycle",)), clock=FakeClock())
    dataset = heights(range(6)).assign(cycle=("time", np.array([100, 9, 10, 9, 100, 2], np.uint16)))
    collection.insert(dataset)
    assert [p.path for p in collection.partitions()] == ["cycle=2", "cycle=9", "cycle=10", "cycle=100"]
    assert rows_of(raw(collection)) == [(5, 5), (1, 1), (3, 3), (2, 2), (0, 0), (4, 4)]
    assert rows_of(raw(collection, "cycle=10", "cycle=2")) == [(2, 2), (5, 5)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_resolution_become_nanoseconds(store: MemoryStore, unit: str) -> None:
    collection = daily(store)
    dataset = heights([5, 7])
    dataset = dataset.assign_coords(time=dataset["time"].values.astype(f"datetime64[{unit}]"))
    collection.insert(dataset)
    found = collection.load()
    assert isinstance(found, xr.Dataset)
    np.testing.assert_array_equal(found["time"].values, times([5, 7]))


def test_a_time_that_nanoseconds_cannot_hold_is_refused_instead_of_wrapping_around(store: MemoryStore) -> None:
    collection = daily(store)
    dataset = heights([5, 7]).assign_coords(time=np.array(["2023-12-16", "3000-01-01"], "datetime64[s]"))
    with pytest.raises(InvalidGranuleError, match=r"'time'.*3000-01-01"):
        collection.insert(dataset)
    assert collection.partitions() == []


def test_a_time_that_is_not_a_time_is_refused(store: MemoryStore) -> None:
    collection = daily(store)
    dataset = heights([5, 7]).assign_coords(time=np.array(["2023-12-16", "NaT"], "datetime64[ns]"))
    with pytest.raises(InvalidGranuleError, match=r"'time'.*NaT"):
        collection.insert(dataset)


def test_values_decoded_by_xarray_return_to_the_integers_they_came_from(store: MemoryStore) -> None:
    collection = daily(store)
    stored = np.array([0, 1, -17, 2**31 - 1, 123_456_789], np.int32)
    attributes = {"scale_factor": 0.001, "units": "m", "_FillValue": np.int32(2**31 - 1)}
    encoded = xr.Dataset({"height": ("time", stored, attributes)}, coords={"time": times(range(5))})
    collection.insert(xr.decode_cf(encoded))
    np.testing.assert_array_equal(raw(collection)["height"].values, stored)
    decoded = collection.load()
    assert isinstance(decoded, xr.Dataset)
    expected = np.where(stored == 2**31 - 1, np.nan, stored * 0.001)
    np.testing.assert_allclose(decoded["height"].values, expected, rtol=1e-15)
    assert decoded["height"].attrs["units"] == "m"


def test_what_was_loaded_can_be_inserted_into_another_collection(store: MemoryStore) -> None:
    first = daily(store)
    first.insert(heights([3, 1, SIXTEENTH]))
    other = MemoryStore(f"memory://{uuid.uuid4().hex}")
    second = daily(other)
    second.insert(first.load())
    assert rows_of(raw(second)) == rows_of(raw(first))
    other.clear()


def test_decoding_can_be_left_out(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1, 2]))
    found = raw(collection)
    assert found["height"].dtype == np.int32
    assert found["height"].attrs["scale_factor"] == 0.001
    assert found["time"].dtype == np.int64
    assert found.attrs == {"title": "a small collection"}


def test_text_flags_and_several_dimensions_come_out_as_they_went_in(store: MemoryStore) -> None:
    schema = small_schema(
        chunk_rows=3,
        extra=[
            Variable("pass_name", TEXT, ("time",), (3,)),
            Variable("valid", "|b1", ("time",), (3,)),
            Variable("waveform", "<f4", ("time", "band", "side"), (3, 2, 2)),
        ],
    )
    collection = daily(store, schema)
    rows = 8
    names = np.array(["", "é", "a\nb", "日本", *"abcd"], object)
    valid = np.arange(rows) % 3 == 0
    waveform = np.arange(rows * 6, dtype=np.float32).reshape(rows, 3, 2)
    dataset = heights(range(rows)).assign(
        pass_name=("time", names), valid=("time", valid), waveform=(("time", "band", "side"), waveform)
    )
    order = np.array([5, 0, 7, 2, 1, 6, 3, 4])
    collection.insert(dataset.isel(time=order[:5]))
    collection.insert(dataset.isel(time=order[5:]), precedence=-1)
    found = raw(collection)
    kept = sorted({*order[:5].tolist()})  # the second insert lies inside the first
    assert [t for t, _ in rows_of(found)] == kept
    assert found["pass_name"].values.tolist() == names[kept].tolist()
    np.testing.assert_array_equal(found["valid"].values, valid[kept])
    np.testing.assert_array_equal(found["waveform"].values, waveform[kept])


def test_text_as_fixed_width_strings_is_taken(store: MemoryStore) -> None:
    collection = daily(store, small_schema(extra=[Variable("pass_name", TEXT, ("time",), (8,))]))
    collection.insert(heights([1, 2]).assign(pass_name=("time", np.array(["ab", "c"]))))
    assert raw(collection)["pass_name"].values.tolist() == ["ab", "c"]


def test_nested_groups_go_in_and_come_out_as_a_tree(store: MemoryStore) -> None:
    ku = Variable("ku/range", "<i4", ("time",), (8,), 2**31 - 1)
    deep = Variable("ku/deep/flag", "|i1", ("time",), (8,))
    collection = daily(store, small_schema(extra=[ku, deep]))
    top = heights([4, SIXTEENTH, 2])
    tree = xr.DataTree.from_dict(
        {
            "/": top,
            "/ku": xr.Dataset({"range": ("time", np.array([40, 50, 20], np.int32), {"_FillValue": 2**31 - 1})}),
            "/ku/deep": xr.Dataset({"flag": ("time", np.array([4, 5, 2], np.int8))}),
        }
    )
    collection.insert(tree)
    found = collection.load(decode=False)
    assert isinstance(found, xr.DataTree)
    assert rows_of(found.to_dataset()) == [(2, 2), (4, 4), (SIXTEENTH, SIXTEENTH)]
    assert found["ku/range"].values.tolist() == [20, 40, 50]
    assert found["ku/deep/flag"].values.tolist() == [2, 4, 5]
    some = collection.load([DAY_17], variables=["ku/range"], decode=False)
    assert isinstance(some, xr.DataTree)
    assert some["ku/range"].values.tolist() == [50]
    assert set(some.to_dataset().variables) == {"time"}


def test_a_dataset_on_dask_is_taken(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([3, 1, 2]).chunk({"time": 2}))
    assert rows_of(raw(collection)) == [(1, 1), (2, 2), (3, 3)]


def test_loading_is_lazy_with_the_stored_chunks(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights(range(20)))
    assert raw(collection)["height"].chunks == ((8, 8, 4),)


def test_an_empty_collection_loads_as_no_rows_of_every_variable(store: MemoryStore) -> None:
    found = daily(store).load()
    assert isinstance(found, xr.Dataset)
    assert found.sizes == {"time": 0}
    assert set(found.variables) == {"time", "height", PROVENANCE}


# Variables that do not depend on rows.


def banded(values: Any) -> Granule:
    return Granule("first", "time", "time", {"band": GranuleVariable(("band",), np.asarray(values))})


def banded_schema() -> Schema:
    return small_schema(extra=[Variable("band", "<f8", ("band",), (3,), attributes={"units": "Hz"})])


def with_band(dataset: xr.Dataset, values: Any) -> xr.Dataset:
    return dataset.assign(band=("band", np.asarray(values), {"units": "Hz"}))


def test_a_variable_without_rows_is_stored_once_and_joins_every_load(store: MemoryStore) -> None:
    bands = [1.0, np.nan, 3.0]
    collection = daily(store, banded_schema(), immutable=banded(bands))
    collection.insert(with_band(heights([1, SIXTEENTH]), bands))
    collection.insert(with_band(heights([2]), bands))
    np.testing.assert_array_equal(raw(collection)["band"].values, bands)
    np.testing.assert_array_equal(raw(collection, DAY_17, variables=["band"])["band"].values, bands)
    chunks = [i.key for i in store.list() if "/band/c" in i.key and not i.key.startswith(".zcommits/")]
    assert chunks == ["_immutable/band/c/0"]


def test_other_values_of_a_variable_without_rows_are_refused_and_change_nothing(store: MemoryStore) -> None:
    collection = daily(store, banded_schema(), immutable=banded([1.0, 2.0, 3.0]))
    before = {i.key: i.etag for i in store.list()}
    with pytest.raises(SchemaMismatchError, match="'band'"):
        collection.insert(with_band(heights([1]), [1.0, 2.0, 4.0]))
    assert {i.key: i.etag for i in store.list()} == before


def test_the_values_of_variables_without_rows_are_needed_at_creation(store: MemoryStore) -> None:
    with pytest.raises(InvalidInputError, match=r"band.*immutable="):
        daily(store, banded_schema())
    assert list(store.list()) == []


def test_missing_values_of_variables_without_rows_are_refused_at_creation(store: MemoryStore) -> None:
    empty = Granule("first", "time", "time", {})
    with pytest.raises(InvalidInputError, match="band"):
        daily(store, banded_schema(), immutable=empty)
    assert list(store.list()) == []


# Granules by name.


def test_the_same_name_again_replaces_what_it_gave_before(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1, 2, SIXTEENTH]), granule="a")
    collection.insert(heights([3], offset=100), granule="b")
    outcome = collection.insert(heights([2, 7], offset=200), granule="a")
    assert rows_of(raw(collection)) == [(2, 202), (7, 207)]
    assert outcome.lost == ()
    assert [p.path for p in collection.partitions()] == [DAY_16]
    assert sorted(e.identity.key for e in collection.granules()) == ["a", "b"]


def test_a_partition_that_lost_all_rows_comes_back(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([SIXTEENTH]), granule="a")
    collection.insert(heights([1]), granule="a")
    with pytest.raises(NotFoundError):
        collection.load([DAY_17])
    collection.insert(heights([SIXTEENTH + 3]), granule="b")
    assert rows_of(raw(collection)) == [(1, 1), (SIXTEENTH + 3, SIXTEENTH + 3)]


def test_an_insert_of_lower_precedence_than_its_predecessor_is_superseded(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1]), granule="a", precedence=5)
    outcome = collection.insert(heights([2]), granule="a", precedence=4)
    assert outcome.commit is None
    assert set(outcome.verdicts.values()) == {Verdict.SUPERSEDED}
    assert rows_of(raw(collection)) == [(1, 1)]


def test_rows_taken_by_a_granule_without_source_are_reported_as_lost_when_it_leaves(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([0, 5, 10]), granule="low")
    collection.insert(heights([4, 6]), granule="high")
    outcome = collection.insert(heights([20]), granule="high")
    assert [e.identity.key for e in outcome.lost] == ["low"]
    assert rows_of(raw(collection)) == [(0, 0), (10, 10), (20, 20)]


# Refusals.


@pytest.mark.parametrize(
    ("dataset", "error"),
    [
        (heights([]), EmptyGranuleError),
        (heights([1]).drop_vars("height"), SchemaMismatchError),
        (heights([1]).drop_vars("time"), InvalidGranuleError),
        (heights([1]).assign(height=("time", ["text"])), SchemaMismatchError),
        (heights([1]).rename_dims(time="row"), SchemaMismatchError),
    ],
    ids=["empty", "variable missing", "axis missing", "text for numbers", "other dimension"],
)
def test_a_dataset_that_does_not_fit_is_refused_and_changes_nothing(
    store: MemoryStore, dataset: xr.Dataset, error: type[Exception]
) -> None:
    collection = daily(store)
    before = {i.key: i.etag for i in store.list()}
    with pytest.raises(error):
        collection.insert(dataset, granule="bad.nc")
    assert {i.key: i.etag for i in store.list()} == before


def test_a_collection_opened_for_reading_refuses_every_change(store: MemoryStore) -> None:
    daily(store)
    reader = open_collection(store)
    for change in (
        lambda: reader.insert(heights([1])),
        lambda: reader.commit_offers([]),
        reader.roll_forward,
        reader.publish_arrays,
        reader.checkpoint,
        lambda: reader.drop_partitions([DAY_16]),
        lambda: reader.rollback(0),
        lambda: reader.set_attributes({"title": "x"}),
    ):
        with pytest.raises(ReadOnlyError, match=store.url):
            change()


def test_unknown_partitions_and_variables_are_refused_by_name(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1]))
    with pytest.raises(NotFoundError, match="day=99"):
        collection.load(["year=2023/month=12/day=99"])
    with pytest.raises(NotFoundError, match="depth"):
        collection.load(variables=["depth"])


# Reading while others write.


def test_a_reader_stays_at_its_commit_until_it_refreshes(store: MemoryStore) -> None:
    writer = daily(store)
    writer.insert(heights([1]))
    reader = open_collection(store)
    writer.insert(heights([2, SIXTEENTH]))
    assert rows_of(raw(reader)) == [(1, 1)]
    assert reader.commit < writer.commit
    assert rows_of(raw(reader.refresh())) == [(1, 1), (2, 2), (SIXTEENTH, SIXTEENTH)]
    assert reader.commit == writer.commit


def test_a_dataset_that_was_loaded_keeps_its_rows_through_appends_and_a_rewrite(store: MemoryStore) -> None:
    writer = daily(store)
    writer.insert(heights([1, 5]))
    loaded = raw(writer)
    writer.insert(heights([7]))
    writer.insert(heights([4], offset=100))
    assert writer.partitions()[0].generation == 1
    assert rows_of(loaded) == [(1, 1), (5, 5)]
    assert rows_of(raw(writer)) == [(1, 1), (4, 104), (5, 5), (7, 7)]


@pytest.mark.parametrize("fewer", [False, True])
def test_a_dataset_that_was_loaded_too_long_ago_says_so_instead_of_giving_other_rows(
    store: MemoryStore, fewer: bool
) -> None:
    writer = daily(store)
    writer.insert(heights(range(20)), granule="a")
    loaded = raw(open_collection(store))
    for turn in range(1, 4):
        writer.insert(heights(range(9 if fewer else 30), offset=100 * turn), granule="a")
    assert writer.partitions()[0].generation == 3
    with pytest.raises(SnapshotExpiredError, match="refresh"):
        loaded.load()


def test_a_selection_of_variables_brings_the_axis_along(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1]))
    assert set(raw(collection, variables=[PROVENANCE]).variables) == {"time", PROVENANCE}
    assert set(raw(collection, variables=[]).variables) == {"time"}


def test_the_root_tells_what_the_collection_covers(store: MemoryStore) -> None:
    collection = daily(store)
    collection.insert(heights([1, SIXTEENTH]))
    attributes = cast("dict[str, Any]", json.loads(store.get("zarr.json").data)["attributes"])
    assert attributes["zcollection_rows"] == 2
    assert attributes["zcollection_partitions"] == 2
    assert attributes["zcollection_granules"] == 1
    assert attributes["time_coverage_start"] == "2023-12-16T00:00:01Z"
    assert attributes["time_coverage_end"] == "2023-12-17T00:00:00Z"
    partition = json.loads(store.get(f"{DAY_16}/zarr.json").data)["attributes"]
    assert partition["time_coverage_end"] == "2023-12-16T00:00:01Z"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_axis_that_orders_no_rows_is_refused(store: MemoryStore, value: float) -> None:
    dataset = xr.Dataset({"height": ("level", [1.0, 2.0])}, {"level": ("level", [0.5, 1.5])})
    dataset["cycle"] = ("level", np.array([1, 1]))
    collection = create_collection(store, schema_of(dataset, "level"), SequencePartitioning(("cycle",)))
    with pytest.raises(InvalidGranuleError, match=f"'level' holds {value}") as caught:
        collection.insert(dataset.assign_coords(level=[0.5, value]))
    assert caught.value.code == "axis_not_finite"
    assert collection.partitions() == []
