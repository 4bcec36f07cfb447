"""A tree of released zcollection is taken over as it lies, and lives on as a collection of ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import FakeClock
from tests.foreign_trees import (
    BY_MONTH,
    BY_PASS,
    FEBRUARY,
    JANUARY,
    LON,
    Values,
    by_month,
    by_pass,
    hours,
    rows,
    write_tree,
)
from tests.verification_support import copy_of, deaths, overwrite
from zcollection_engine import Collection, Concat, TimeSeries, open_collection
from zcollection_engine.errors import ConflictError, InvalidInputError, SnapshotExpiredError
from zcollection_engine.importing import MergeSettings, import_collection, survey_import
from zcollection_engine.repairing import repair
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.verifying import verify


def monthly(**more: Any) -> MemoryStore:
    """Two months; the second in other chunks and big-endian; a variable without rows."""
    chunks = {FEBRUARY: (4, 2)}
    return write_tree(by_month(), BY_MONTH, chunks=chunks, fixed={"lon": LON}, **more)


def taken(store: ObjectStore, merge: MergeSettings | None = None) -> Collection:
    writer = WriterOptions(owner="import")
    collection, report = import_collection(store, merge=merge, writer=writer, clock=FakeClock())
    assert report.commit is not None
    return collection


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key).data for info in store.list()}


def stored(collection: Collection, path: str | None = None) -> dict[str, Values]:
    loaded = collection.load(None if path is None else [path], decode=False)
    assert isinstance(loaded, xr.Dataset)
    return {str(name): loaded[name].values for name in loaded.variables}


def expected(*parts: Mapping[str, Values]) -> dict[str, Values]:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**joined, "time": joined["time"].astype("datetime64[ns]").astype(np.int64)}


def differs(found: Mapping[str, Values], wanted: Mapping[str, Values]) -> list[str]:
    return [name for name in wanted if not np.array_equal(found[name], wanted[name])]


def dataset(members: Mapping[str, Values]) -> xr.Dataset:
    found = xr.Dataset({n: (("time", "pixel")[: v.ndim], v) for n, v in members.items()} | {"lon": ("pixel", LON)})
    found["packed"].attrs["scale_factor"] = 0.5
    return found


def faultless(collection: Collection) -> None:
    assert verify(collection).findings == ()


def test_every_value_is_read_and_no_object_of_the_tree_is_touched() -> None:
    store = monthly(big_endian=())
    before = contents(store)
    collection = taken(store)
    assert differs(stored(collection), expected(*by_month().values()) | {"lon": LON}) == []
    after = contents(store)
    assert {key: after[key] for key in before} == before
    assert {key for key in after if key not in before and not key.startswith(".zcommits/")} == {".zgroup", ".zattrs"}
    faultless(collection)
    again = open_collection(store, mode="w", clock=FakeClock())
    assert {key: contents(store)[key] for key in before} == before
    assert [(p.path, p.rows, p.granules) for p in again.partitions()] == [(JANUARY, 5, 0), (FEBRUARY, 9, 0)]


def test_numbers_in_another_byte_order_are_read_and_merged() -> None:
    numbers = {
        path: {n: v for n, v in m.items() if n in {"time", "packed", "profile"}} for path, m in by_month().items()
    }
    store = write_tree(numbers, BY_MONTH, big_endian=(FEBRUARY,))
    collection = taken(store)
    assert differs(stored(collection), expected(*numbers.values())) == []
    later = {n: v for n, v in rows(hours("2000-02-04T12", 2), 70).items() if n in numbers[JANUARY]}
    collection.insert(dataset(later))
    assert differs(stored(collection), expected(*numbers.values(), later)) == []
    faultless(collection)


@pytest.mark.parametrize("strategy", [TimeSeries(), Concat()], ids=str)
def test_rows_of_a_granule_outrank_those_that_were_taken_over(strategy: Any) -> None:
    collection = taken(monthly(), MergeSettings(strategy))
    january = by_month()[JANUARY]
    collection.insert(dataset(rows(january["time"][1:3], 500)))
    found = stored(collection, JANUARY)["packed"].tolist()
    assert found == ([0, 500, 501, 3, 4] if strategy == TimeSeries() else [0, 1, 500, 2, 501, 3, 4])
    assert collection.state.partition(JANUARY).generation == 1
    assert collection.state.partition(FEBRUARY).generation == 0
    faultless(collection)


def test_what_comes_behind_a_partition_never_goes_into_its_chunks() -> None:
    store = monthly()
    before = contents(store)
    collection = taken(store)
    collection.insert(dataset(rows(hours("2000-01-20", 3), 90)))
    assert stored(collection, JANUARY)["packed"].tolist() == [0, 1, 2, 3, 4, 90, 91, 92]
    assert collection.state.partition(JANUARY).generation == 1
    collection.insert(dataset(rows(hours("2000-01-15", 2), 70)))
    assert stored(collection, JANUARY)["packed"].tolist() == [0, 1, 2, 3, 4, 70, 71, 90, 91, 92]
    collection.insert(dataset(rows(hours("2000-01-25", 2), 30)))
    assert collection.state.partition(JANUARY).generation == 2
    faultless(collection)
    after = contents(store)
    assert {k: after[k] for k in before if FEBRUARY in k} == {k: v for k, v in before.items() if FEBRUARY in k}
    assert after[".zcollection"] == before[".zcollection"]


def test_rows_behind_a_granule_but_before_taken_over_ones_are_put_between() -> None:
    collection = taken(monthly())
    times = by_month()[FEBRUARY]["time"]
    collection.insert(dataset(rows(times[:1], 500)))
    collection.insert(dataset(rows(times[2:3] + np.timedelta64(1, "m"), 600)))
    assert stored(collection, FEBRUARY)["packed"].tolist() == [500, 51, 52, 600, 53, 54, 55, 56, 57, 58]
    faultless(collection)


def test_readers_that_know_nothing_of_the_log_see_rewritten_and_untouched_partitions() -> None:
    store = monthly()
    collection = taken(store)
    collection.insert(dataset(rows(hours("2000-01-20", 3), 90)))
    plain = contents(store)
    for path, wanted in ((JANUARY, [0, 1, 2, 3, 4, 90, 91, 92]), (FEBRUARY, list(range(50, 59)))):
        group = {key.removeprefix(f"{path}/"): data for key, data in plain.items() if key.startswith(f"{path}/")}
        with xr.open_zarr(group_store(group), mask_and_scale=False) as found:
            assert found["packed"].values.tolist() == wanted
            assert found["time"].dtype == np.dtype("datetime64[ns]")


def group_store(group: Mapping[str, bytes]) -> Any:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore as ZarrMemory

    buffer = default_buffer_prototype().buffer
    return ZarrMemory({key: buffer.from_bytes(data) for key, data in group.items()}, read_only=True)


def test_a_tree_by_sequence_is_taken_over_and_merged_into() -> None:
    collection = taken(write_tree(by_pass(), BY_PASS))
    assert [p.path for p in collection.partitions()] == list(by_pass())
    assert differs(stored(collection), expected(*by_pass().values())) == []
    new = {"cycle": np.array([10, 10], "<i2"), "pass": np.array([1, 2], "<i2")}
    collection.insert(dataset(rows(hours("2000-01-05", 2), 900, **new)))
    assert stored(collection, "cycle=10/pass=1")["packed"].tolist() == [20, 21, 22, 23, 900]
    assert stored(collection, "cycle=10/pass=2")["packed"].tolist() == [901]
    faultless(collection)


def test_chunks_that_are_not_there_hold_the_fill_value_but_one_that_gets_lost_is_missed() -> None:
    store = monthly()
    store.delete(f"{FEBRUARY}/packed/1")
    collection = taken(store)
    filled = by_month()[FEBRUARY]["packed"].copy()
    filled[4:8] = -1
    assert stored(collection, FEBRUARY)["packed"].tolist() == filled.tolist()
    faultless(collection)
    store.delete(f"{FEBRUARY}/packed/0")
    assert [(f.code.value, f.key) for f in verify(collection).findings] == [("missing_chunk", f"{FEBRUARY}/packed/0")]
    with pytest.raises(SnapshotExpiredError):
        stored(collection, FEBRUARY)


def test_an_absent_chunk_of_an_old_snapshot_is_not_taken_for_fill_values() -> None:
    store = monthly()
    store.delete(f"{FEBRUARY}/packed/1")
    collection = taken(store)
    loaded = open_collection(store).load([FEBRUARY], decode=False)
    collection.insert(dataset(rows(hours("2000-02-20", 3), 90)))
    with pytest.raises(SnapshotExpiredError):
        loaded["packed"][4:8].compute()


@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=1)])
def test_garbage_collection_leaves_a_tree_alone_and_takes_what_a_rewrite_left(age: timedelta) -> None:
    store = monthly()
    before = contents(store)
    collection = taken(store)
    collection.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0))
    assert {key: contents(store)[key] for key in before} == before
    collection.insert(dataset(rows(hours("2000-02-20", 3), 90)))
    values = stored(collection)
    collection.collect_garbage(dry_run=False, min_age=age, retention=timedelta(0))
    left = {key for key in contents(store) if key.startswith(f"{FEBRUARY}/profile/") and "/.z" not in key}
    # One chunk holds all rows now; there were three by two.
    assert len(left) == (1 if age == timedelta(0) else 6)
    assert differs(stored(collection), values) == []
    faultless(collection)


def test_verification_tells_damage_and_repair_never_rewrites_a_whole_document() -> None:
    store = monthly()
    before = contents(store)
    collection = taken(store)
    repair(collection)
    assert {key: contents(store)[key] for key in before} == before
    store.delete(f"{JANUARY}/.zmetadata")
    overwrite(store, f"{FEBRUARY}/.zmetadata", b"{")
    store.delete(".zcollection")
    assert {f.key for f in verify(collection).findings} == {
        f"{JANUARY}/.zmetadata",
        f"{FEBRUARY}/.zmetadata",
        ".zcollection",
    }
    assert repair(collection).left == ()
    assert contents(store)[".zcollection"] == before[".zcollection"]
    assert differs(stored(collection), expected(*by_month().values())) == []
    faultless(collection)
    for path, wanted in by_month().items():
        group = {k.removeprefix(f"{path}/"): d for k, d in contents(store).items() if k.startswith(f"{path}/")}
        with xr.open_zarr(group_store(group), mask_and_scale=False) as found:
            assert found["packed"].values.tolist() == wanted["packed"].tolist()


def test_the_schema_of_what_was_taken_over_can_be_changed() -> None:
    from zcollection_engine.schema import Variable

    store = monthly()
    collection = taken(store)
    collection.set_attributes({"units": "m"} | {"title": "another"})
    faultless(collection)
    collection.add_variables([Variable("extra", "<i2", ("time",), (100,), -5)])
    faultless(collection)
    collection.drop_variables(["label"])
    faultless(collection)
    found = stored(open_collection(store))
    assert found["extra"].tolist() == [-5] * 14
    assert "label" not in found
    wanted = expected(*by_month().values())
    del wanted["label"]
    assert differs(found, wanted) == []
    january = {k.removeprefix(f"{JANUARY}/"): d for k, d in contents(store).items() if k.startswith(f"{JANUARY}/")}
    with xr.open_zarr(group_store(january), mask_and_scale=False) as plain:
        assert plain["packed"].values.tolist() == [0, 1, 2, 3, 4]
        assert plain["extra"].values.tolist() == [-5] * 5


def test_what_was_taken_over_survives_a_checkpoint() -> None:
    store = monthly()
    collection = taken(store)
    before = dict(collection.state.partitions)
    collection.checkpoint()
    opened = open_collection(store)
    assert opened.state.checkpoint == opened.state.number
    assert opened.state.partitions == before
    assert differs(stored(opened), expected(*by_month().values())) == []


def test_a_partition_that_was_dropped_can_be_filled_again() -> None:
    collection = taken(monthly())
    collection.drop_partitions([JANUARY])
    faultless(collection)
    new = rows(hours("2000-01-02", 2), 40)
    collection.insert(dataset(new))
    assert differs(stored(collection, JANUARY), expected(new)) == []
    faultless(collection)


def test_obstacles_are_all_named_and_nothing_is_written() -> None:
    trees = by_month("us")
    del trees[FEBRUARY]["packed"]
    store = write_tree(trees, BY_MONTH)
    before = contents(store)
    report = survey_import(store)
    assert len(report.obstacles) >= 2
    with pytest.raises(InvalidInputError, match=r"packed.*microseconds.*convert"):
        import_collection(store, clock=FakeClock())
    assert contents(store) == before


def test_a_tree_is_taken_over_once() -> None:
    store = monthly()
    taken(store)
    with pytest.raises(ConflictError, match="already"):
        import_collection(store, clock=FakeClock())


def test_attributes_that_someone_gave_the_root_are_kept() -> None:
    store = monthly()
    store.create(".zattrs", b'{"owner": "someone"}')
    collection = taken(store)
    collection.insert(dataset(rows(hours("2000-01-20", 3), 90)))
    assert collection.schema.attributes == {"owner": "someone", "title": "a tree"}
    assert b'"someone"' in contents(store)[".zattrs"]


def test_nobody_writes_before_an_import_that_died_is_completed() -> None:
    base = monthly()
    unfinished = 0
    for store, is_dead in deaths(base, taken):
        tree = {key: data for key, data in contents(store).items() if not key.startswith(".z")}
        assert tree == {key: data for key, data in contents(base).items() if not key.startswith(".z")}
        if is_dead and any(key.endswith(f"{0:020d}.json") for key in contents(store)):
            opened = open_collection(store, clock=FakeClock())
            if opened.commit < 0:
                unfinished += 1
                writing = open_collection(copy_of(store), mode="w", clock=FakeClock())
                with pytest.raises(ConflictError, match="import it again"):
                    writing.insert(dataset(rows(hours("2000-01-20", 3))))
            else:
                assert differs(stored(opened), expected(*by_month().values())) == []
                continue
        if is_dead:
            assert differs(stored(taken(store)), expected(*by_month().values())) == []
            faultless(open_collection(store))
    assert unfinished


def test_a_merge_into_a_partition_that_was_taken_over_may_die_anywhere() -> None:
    base = monthly()
    taken(base)
    new = rows(hours("2000-02-20", 3), 90)
    before, after = expected(*by_month().values()), expected(*by_month().values(), new)

    def merge(store: ObjectStore) -> None:
        opened = open_collection(store, mode="w", writer=WriterOptions(owner="daemon"), clock=FakeClock())
        opened.insert(dataset(new), granule="new")

    for store, _ in deaths(base, merge):
        found = stored(open_collection(store))
        assert not differs(found, before) or not differs(found, after)
        opened = open_collection(store, mode="w", writer=WriterOptions(owner="daemon"), clock=FakeClock())
        faultless(opened)
        opened.insert(dataset(new), granule="new")
        assert differs(stored(opened), after) == []
        faultless(opened)
