"""Garbage collection: what goes, what stays, and that a dry run tells it and writes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

import pytest

from tests.engine_support import DAY_16, DAY_17, FakeClock, S3LikeStore, engine_rows, heights, small_schema
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.log import FOLDER, CommitLog
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import Grant
from zcollection_engine.errors import InvalidInputError, ReadOnlyError, SnapshotExpiredError
from zcollection_engine.garbage import GarbageReport
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.testing.stores import CountingStore, FaultStore
from zcollection_engine.transaction import WriterOptions

DAY = 86_400
HOURS = timedelta(hours=24)
WEEK = timedelta(days=7)
READS = {"get", "head", "list"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[S3LikeStore]:
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    yield made
    made.clear()


def created(store: ObjectStore, clock: FakeClock, **options: Any) -> Collection:
    return create_collection(
        store,
        small_schema(chunk_rows=4),
        DatePartitioning("time", "day"),
        writer=WriterOptions(owner="maker", **options),
        clock=clock,
    )


def opened(store: ObjectStore, clock: FakeClock, mode: Literal["r", "w"], owner: str = "keeper") -> Collection:
    return open_collection(store, mode=mode, writer=WriterOptions(owner=owner), clock=clock)


def busy_life(store: ObjectStore, clock: FakeClock) -> Collection:
    """Forty days with a commit each: rewrites, a drop, two changes of attributes; a checkpoint every ten records."""
    collection = created(store, clock, checkpoint_records=10)
    for day in range(40):
        clock.advance(DAY)
        if day == 20:
            collection.drop_partitions([DAY_17])
        elif day in (5, 35):
            collection.set_attributes({"title": f"of day {day}"})
        else:
            collection.insert(heights([3, 4, DAY + 5], offset=day), granule=f"granule {day % 3}")
    return collection


# A dry run.


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_dry_run_writes_nothing_however_the_collection_was_opened(
    store: S3LikeStore, clock: FakeClock, mode: Literal["r", "w"]
) -> None:
    busy_life(store, clock)
    counting = CountingStore(store)
    collection = opened(counting, clock, mode)
    counting.reset()
    before = list(store.list())
    report = collection.collect_garbage(dry_run=True)
    assert report.dry_run
    assert report.objects.total() > 0
    assert {method for method, _ in counting.log} <= READS
    assert list(store.list()) == before


def test_a_dry_run_leaves_a_view_at_its_commit(store: S3LikeStore, clock: FakeClock) -> None:
    writer = created(store, clock)
    view = opened(store, clock, "r")
    writer.insert(heights([1]))
    writer.set_attributes({"title": "new"})
    view.collect_garbage(dry_run=True)
    assert (view.commit, view.schema.attributes["title"]) == (-1, "a small collection")


@pytest.mark.parametrize("retention", [timedelta(0), WEEK, timedelta(days=30), timedelta(days=365)])
def test_a_dry_run_tells_what_a_run_then_removes(store: S3LikeStore, clock: FakeClock, retention: timedelta) -> None:
    busy_life(store, clock)
    told = opened(store, clock, "r").collect_garbage(dry_run=True, retention=retention)
    done = opened(store, clock, "w").collect_garbage(dry_run=False, retention=retention)
    assert +told.objects == +done.objects
    assert told.size == done.size
    assert told.foreign == done.foreign
    assert opened(store, clock, "r").collect_garbage(dry_run=True, retention=retention).objects.total() == 0


def test_only_a_writer_removes(store: S3LikeStore, clock: FakeClock) -> None:
    created(store, clock)
    with pytest.raises(ReadOnlyError, match='mode="w"'):
        opened(store, clock, "r").collect_garbage(dry_run=False)


@pytest.mark.parametrize("rules", [(timedelta(-1), WEEK), (HOURS, timedelta(-1))])
def test_negative_ages_are_refused(store: S3LikeStore, clock: FakeClock, rules: tuple[timedelta, timedelta]) -> None:
    with pytest.raises(InvalidInputError, match="must not be negative"):
        created(store, clock).collect_garbage(min_age=rules[0], retention=rules[1])


# What stays.


def test_a_young_collection_keeps_all_its_commits(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock)
    for number in range(3):
        collection.insert(heights([number]), granule=f"{number}")
    before = [commit.number for commit in collection.history()]
    report = collection.collect_garbage(dry_run=False)
    assert report.objects.total() == 0
    assert [commit.number for commit in collection.history()] == before
    for number in before:
        assert opened(store, clock, "r").diff(0, number).newer == number


def test_commits_within_the_retention_stay_and_older_ones_go(store: S3LikeStore, clock: FakeClock) -> None:
    collection = busy_life(store, clock)
    now, rows = clock.now(), engine_rows(store)
    collection.collect_garbage(dry_run=False, retention=timedelta(days=10))
    kept = list(collection.history())
    assert min(commit.time for commit in kept) <= now - timedelta(days=10)
    assert len(kept) < 40
    for days in range(1, 11):
        view = open_collection(store, at=now - timedelta(days=days), clock=clock)
        assert view.schema.attributes["title"] == ("of day 35" if days < 5 else "of day 5")
    with pytest.raises(SnapshotExpiredError):
        open_collection(store, at=now - timedelta(days=30), clock=clock)
    assert engine_rows(store) == rows


def test_a_longer_retention_than_before_removes_nothing_that_the_log_still_needs(
    store: S3LikeStore, clock: FakeClock
) -> None:
    collection = created(store, clock)
    for number in range(3):
        collection.insert(heights([number]), granule=f"{number}")
    collection.checkpoint()
    clock.advance(10 * DAY)
    assert collection.collect_garbage(dry_run=False).objects["record"] > 0
    for number in range(3):
        collection.set_attributes({"title": f"{number}"})
    between = collection.commit - 2
    clock.advance(2 * DAY)
    report = collection.collect_garbage(dry_run=False, retention=timedelta(days=365))
    assert (report.objects["record"], report.objects["config"]) == (0, 0)
    assert open_collection(store, at=between, clock=clock).schema.attributes["title"] == "1"


def test_a_partition_at_work_is_left_alone_and_named(store: S3LikeStore, clock: FakeClock) -> None:
    busy_life(store, clock)
    clock.advance(30 * DAY)
    keeper = opened(store, clock, "w")
    grant = Grant(uuid.uuid4().hex, clock.now(), "daemon-7", "session", 60.0, (DAY_16,))
    CommitLog(store, clock).append(load_state(store).number + 1, grant)
    told = opened(store, clock, "r").collect_garbage(dry_run=True)
    held = {info.key for info in store.list(f"{DAY_16}/")}
    done = keeper.collect_garbage(dry_run=False)
    for report in (told, done):
        assert set(report.busy) == {DAY_16}
        assert "'daemon-7'" in report.busy[DAY_16]
    assert told.objects["chunk"] == done.objects["chunk"] > 0
    assert {info.key for info in store.list(f"{DAY_16}/")} == held
    clock.advance(61)
    assert keeper.collect_garbage(dry_run=False).busy == {}
    assert {info.key for info in store.list(f"{DAY_16}/")} < held


def test_objects_that_are_none_of_ours_are_counted_and_stay(store: S3LikeStore, clock: FakeClock) -> None:
    busy_life(store, clock)
    store.create(f"{DAY_16}/notes.txt", b"mine")
    clock.advance(30 * DAY)
    report = opened(store, clock, "w").collect_garbage(dry_run=False)
    assert report.foreign == 1
    assert store.get(f"{DAY_16}/notes.txt").data == b"mine"


def test_two_collections_at_once_do_not_disturb_each_other(store: S3LikeStore, clock: FakeClock) -> None:
    busy_life(store, clock)
    clock.advance(30 * DAY)
    other = opened(store, clock, "w", "other")
    rows = engine_rows(store)

    class Overtaken(FaultStore):
        """Lets the other one run to its end as soon as this one has listed the log."""

        def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
            found = list(super().list(prefix, after=after))
            if prefix == FOLDER:
                done.append(other.collect_garbage(dry_run=False))
            return iter(found)

    done: list[GarbageReport] = []
    keeper = opened(Overtaken(store, []), clock, "w")
    report = keeper.collect_garbage(dry_run=False)
    assert done[0].objects["record"] > 0
    assert report.objects["chunk"] == 0
    assert opened(store, clock, "r").collect_garbage(dry_run=True).objects.total() == 0
    assert engine_rows(store) == rows


@pytest.mark.parametrize("rested", ["writer", "reader"])
def test_who_rested_while_the_tables_of_its_checkpoint_were_collected_goes_on(
    store: S3LikeStore, clock: FakeClock, rested: str
) -> None:
    created(store, clock).insert(heights([1, 2]), granule="old")
    opened(store, clock, "w").checkpoint()
    resting = opened(store, clock, "w" if rested == "writer" else "r", owner="rested")
    busy = opened(store, clock, "w", owner="busy")
    for number in range(3, 9):
        busy.insert(heights([number]), granule=f"granule {number}")
        busy.checkpoint()
    busy.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0))
    if rested == "writer":
        resting.insert(heights([1, 2], offset=50), granule="old")
        assert engine_rows(store)[DAY_16][:2] == [(1, 51), (2, 52)]
        return
    with pytest.raises(SnapshotExpiredError, match="refresh"):
        list(resting.granules())
    assert len(list(resting.refresh().granules())) == 7
