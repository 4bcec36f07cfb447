"""Transactions under fire: two writers, lost grants, deaths and lost answers at every single request."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.engine_support import (
    DAY_16,
    DAY_17,
    FakeClock,
    Rows,
    S3LikeStore,
    engine_rows,
    heights,
    offer_of,
    plain_columns,
    plain_rows,
    small_schema,
)
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.clock import SystemClock
from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.records import Commit, Grant, Release
from zcollection_engine.errors import BusyError, ConflictError, FencedError, OutcomeUnknownError, StorageError
from zcollection_engine.granules.model import Granule
from zcollection_engine.ingest import LocalExecutor
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.planning import Verdict
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore, fail_before, lose_response
from zcollection_engine.transaction import WriterOptions

DAY = 86_400
FOREVER = 10**9


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[S3LikeStore]:
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    yield made
    made.clear()


def created(store: ObjectStore, clock: Any, owner: str = "maker", **options: Any) -> Collection:
    return create_collection(
        store,
        small_schema(chunk_rows=4),
        DatePartitioning("time", "day"),
        writer=WriterOptions(owner=owner, **options),
        clock=clock,
    )


def opened(store: ObjectStore, clock: Any, owner: str, **options: Any) -> Collection:
    return open_collection(store, mode="w", writer=WriterOptions(owner=owner, **options), clock=clock)


class HookedExecutor(LocalExecutor):
    """Runs jobs here, after ``hook``."""

    def __init__(self, store: ObjectStore, hook: Callable[[], None]) -> None:
        super().__init__(store)
        self._hook = hook

    def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Granule]) -> list[JobResult]:
        self._hook()
        return super().run(jobs, payloads)


# Grants.


def test_a_held_partition_is_refused_with_the_name_of_its_holder(store: S3LikeStore, clock: FakeClock) -> None:
    first, second = created(store, clock, "alice"), opened(store, clock, "bob")
    caught: list[BusyError] = []

    def meanwhile() -> None:
        with pytest.raises(BusyError, match=f"{DAY_16} is held by 'alice'") as info:
            second.insert(heights([1]), timeout=0)
        caught.append(info.value)

    first.commit_offers([offer_of(first, heights([5]), "a")], HookedExecutor(store, meanwhile))
    assert 0 < caught[0].retry_after <= 60
    assert caught[0].context["partition"] == DAY_16
    assert engine_rows(store) == {DAY_16: [(5, 5)]}


def test_another_partition_is_written_at_the_same_time(store: S3LikeStore, clock: FakeClock) -> None:
    first, second = created(store, clock, "alice"), opened(store, clock, "bob")
    executor = HookedExecutor(store, lambda: void(second.insert(heights([DAY + 1]), timeout=0)))
    first.commit_offers([offer_of(first, heights([5]), "a")], executor)
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(5, 5)], DAY_17: [(DAY + 1, DAY + 1)]}


def void(_: object) -> None:
    return None


def test_a_committed_grant_is_free_at_once(store: S3LikeStore, clock: FakeClock) -> None:
    first, second = created(store, clock, "alice"), opened(store, clock, "bob")
    first.insert(heights([5]))
    second.insert(heights([7]), timeout=0)
    assert clock.slept == []
    assert engine_rows(store) == {DAY_16: [(5, 5), (7, 7)]}


def test_a_grant_whose_outcome_stayed_unknown_is_given_back(store: S3LikeStore, clock: FakeClock) -> None:
    created(store, clock)
    unanswered = [lose_response("create", record_key(1)), fail_before("get", record_key(1), nth=4, times=7)]
    silent = FaultStore(store, unanswered)
    writer = opened(silent, clock, "w")
    offers = [offer_of(writer, heights([5]), "a")]
    with pytest.raises(OutcomeUnknownError):
        writer.commit_offers(offers)
    assert silent.untriggered == ()
    assert [r.kind for _, r in CommitLog(store).follow(-1)] == ["create", "grant", "release"]
    writer.commit_offers(offers)
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(5, 5)]}


@pytest.mark.parametrize("arrived", [True, False])
def test_a_commit_whose_outcome_stayed_unknown_is_settled_before_the_grant_is_given_back(
    store: S3LikeStore, clock: FakeClock, arrived: bool
) -> None:
    created(store, clock)
    key = record_key(2)
    lost = [lose_response("create", key), fail_before("create", key, nth=2, times=7)]
    silent = FaultStore(store, lost if arrived else [fail_before("create", key, times=8)])
    writer = opened(silent, clock, "w")
    offers = [offer_of(writer, heights([5]), "a")]
    with pytest.raises(OutcomeUnknownError):
        writer.commit_offers(offers)
    kinds = [r.kind for _, r in CommitLog(store).follow(-1)]
    assert kinds == ["create", "grant", *(["commit"] if arrived else []), "release"]
    outcome = writer.commit_offers(offers)
    assert set(outcome.verdicts.values()) == {Verdict.KNOWN if arrived else Verdict.COMMITTED}
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(5, 5)]}


def test_a_failed_transaction_gives_its_grant_back(store: S3LikeStore, clock: FakeClock) -> None:
    first, second = created(store, clock, "alice"), opened(store, clock, "bob")

    def fail() -> None:
        raise RuntimeError("the worker died")

    with pytest.raises(RuntimeError):
        first.commit_offers([offer_of(first, heights([5]), "a")], HookedExecutor(store, fail))
    assert isinstance(CommitLog(store).read(2), Release)
    second.insert(heights([7]), timeout=0)
    assert engine_rows(store) == {DAY_16: [(7, 7)]}


def test_a_grant_without_sign_of_life_is_taken_over_after_its_time_and_its_holder_is_fenced(
    store: S3LikeStore, clock: FakeClock
) -> None:
    first, second = created(store, clock, "alice", grant_seconds=30), opened(store, clock, "bob")
    fenced: list[BaseException] = []

    def sleep_too_long() -> None:
        second.insert(heights([3], offset=100), granule="b", timeout=None)

    class Watching(HookedExecutor):
        def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Granule]) -> list[JobResult]:
            try:
                return super().run(jobs, payloads)
            except FencedError as error:
                fenced.append(error)
                raise

    done = []

    def once() -> None:
        if not done:
            done.append(True)
            sleep_too_long()

    outcome = first.commit_offers([offer_of(first, heights([5]), "a")], Watching(store, once))
    assert sum(clock.slept) >= 30 - 1
    assert outcome.commit is not None
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(3, 103), (5, 5)]}
    grants = [(n, r.owner) for n, r in CommitLog(store).follow(-1) if isinstance(r, Grant)]
    assert [owner for _, owner in grants] == ["alice", "bob", "alice"]


def test_a_fenced_writer_with_a_job_still_running_changes_nothing_published(
    store: S3LikeStore, clock: FakeClock
) -> None:
    first = created(store, clock, "alice")
    first.insert(heights(range(6)), granule="base", precedence=0)
    jobs: list[tuple[Sequence[PartitionJob], Mapping[int, Granule]]] = []

    class Lost(LocalExecutor):
        def run(self, found: Sequence[PartitionJob], payloads: Mapping[int, Granule]) -> list[JobResult]:
            jobs.append((found, payloads))
            raise StorageError("the cluster went away")

    with pytest.raises(StorageError):
        first.commit_offers([offer_of(first, heights([2], offset=50), "a", precedence=5)], Lost(store))
    second = opened(store, clock, "bob")
    second.insert(heights([3, 4], offset=900), granule="b", precedence=9)
    before = {i.key: i.etag for i in store.list()}
    (stray, payloads) = jobs[0]
    with pytest.raises(FencedError):
        LocalExecutor(store).run(stray, payloads)
    assert {i.key: i.etag for i in store.list()} == before
    assert plain_rows(store) == {DAY_16: [(0, 0), (1, 1), (2, 2), (3, 903), (4, 904), (5, 5)]}


def test_an_earlier_run_of_the_same_owner_is_taken_over_at_once(store: S3LikeStore, clock: FakeClock) -> None:
    created(store, clock, "daemon")
    killed = FaultStore(store, [Fault("create", key=".zcommits/*", nth=2, times=FOREVER, before=die)])
    first = opened(killed, clock, "daemon")
    with pytest.raises(DeathError):
        first.commit_offers([offer_of(first, heights([5]), "a")])
    assert set(open_collection(store).state.held) == {DAY_16}
    second = opened(store, clock, "daemon")
    second.insert(heights([7]), timeout=0)
    assert clock.slept == []
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(7, 7)]}


def test_a_transaction_that_lasts_gives_signs_of_life(store: S3LikeStore, clock: FakeClock) -> None:
    created(store, clock)
    renewed = threading.Event()
    watched = FaultStore(store, [Fault("create", key=".zcommits/*", nth=2, after=lambda _m, _k: renewed.set())])
    writer = opened(watched, clock, "slow", grant_seconds=0.03)
    executor = HookedExecutor(watched, lambda: void(renewed.wait(30)))
    writer.commit_offers([offer_of(writer, heights([1]), "a")], executor)
    kinds = [record.kind for _, record in CommitLog(store).follow(-1)]
    assert kinds[:3] == ["create", "grant", "renew"]
    # A renewal on its way when the commit is made may come behind it; it revives nothing.
    assert [kind for kind in kinds if kind != "renew"] == ["create", "grant", "commit"]
    assert open_collection(store).state.held == {}
    assert engine_rows(store) == {DAY_16: [(1, 1)]}


def test_a_writer_that_always_loses_gives_up_and_says_why(store: S3LikeStore, clock: FakeClock) -> None:
    first, second = created(store, clock, "alice", grant_seconds=1), opened(store, clock, "bob")
    turns = itertools.count()
    executor = HookedExecutor(store, lambda: void(second.insert(heights([next(turns)]))))
    with pytest.raises(ConflictError, match="10 times"):
        first.commit_offers([offer_of(first, heights([50]), "a")], executor)
    assert engine_rows(store) == plain_rows(store) == {DAY_16: plus(*range(10))}
    assert open_collection(store).state.held == {}


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), (2, 1)])
def test_two_versions_of_a_key_in_different_partitions_leave_only_the_newer(
    store: S3LikeStore, clock: FakeClock, mine: int, theirs: int
) -> None:
    first, second = created(store, clock, "alice"), opened(store, clock, "bob")
    their_offer = offer_of(second, heights([DAY + 1]), "k", precedence=theirs)
    executor = HookedExecutor(store, lambda: void(second.commit_offers([their_offer])))
    my_offer = offer_of(first, heights([1]), "k", precedence=mine)
    outcome = first.commit_offers([my_offer], executor)
    newer = {DAY_16: [(1, 1)]} if mine > theirs else {DAY_17: [(DAY + 1, DAY + 1)]}
    assert engine_rows(store) == plain_rows(store) == newer
    expected = Verdict.COMMITTED if mine > theirs else Verdict.SUPERSEDED
    assert outcome.verdicts == {my_offer.entry.id: expected}


def test_nothing_offered_is_nothing_done(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock)
    before = {i.key: i.etag for i in store.list()}
    assert collection.commit_offers([]).commit is None
    assert {i.key: i.etag for i in store.list()} == before


def test_granules_of_one_batch_are_one_commit(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock)
    offers = [offer_of(collection, heights([n, DAY + n]), f"g{n}") for n in range(4)]
    outcome = collection.commit_offers([*offers, offers[0]])
    assert [r.kind for _, r in CommitLog(store).follow(-1)] == ["create", "grant", "commit"]
    assert {p.path for p in outcome.partitions} == {DAY_16, DAY_17}
    assert engine_rows(store) == plain_rows(store) == {DAY_16: plus(*range(4)), DAY_17: plus(*range(DAY, DAY + 4))}
    again = collection.commit_offers(offers)
    assert (again.commit, set(again.verdicts.values())) == (None, {Verdict.KNOWN})


def test_times_of_commits_go_up_even_when_the_clock_goes_back(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock)
    collection.insert(heights([1]))
    clock.advance(-3600)
    collection.insert(heights([2]), precedence=2**60)
    times = [r.time for _, r in CommitLog(store).follow(-1) if isinstance(r, Commit)]
    assert times[1] == times[0] + timedelta(microseconds=1)


# Publication.


def test_a_commit_whose_writer_died_before_publishing_is_published_at_the_next_opening(
    store: S3LikeStore, clock: FakeClock
) -> None:
    committed_and_died(store, clock)
    assert engine_rows(store) == {DAY_16: [(1, 1), (5, 5)]}
    assert plain_rows(store) == {DAY_16: [(1, 1)]}
    opened(store, clock, "other")
    assert plain_rows(store) == {DAY_16: [(1, 1), (5, 5)]}
    assert plain_columns(store, "height") == {DAY_16: [1, 5]}


def test_rolling_forward_completes_what_another_left_while_this_writer_was_open(
    store: S3LikeStore, clock: FakeClock
) -> None:
    created(store, clock)
    open_before = opened(store, clock, "other")
    committed_and_died(store, clock, create=False)
    open_before.roll_forward()
    assert plain_rows(store) == {DAY_16: [(1, 1), (5, 5)]}


def test_a_granule_that_is_known_but_not_visible_is_published_when_it_comes_again(
    store: S3LikeStore, clock: FakeClock
) -> None:
    created(store, clock)
    other = opened(store, clock, "other")
    committed_and_died(store, clock, create=False)
    outcome = other.commit_offers([offer_of(other, heights([5]), "b")])
    assert set(outcome.verdicts.values()) == {Verdict.KNOWN}
    assert plain_rows(store) == {DAY_16: [(1, 1), (5, 5)]}


def committed_and_died(store: S3LikeStore, clock: FakeClock, *, create: bool = True) -> None:
    first = created(store, clock) if create else opened(store, clock, "maker")
    first.insert(heights([1]), precedence=0)
    killed = FaultStore(store, [Fault("replace", key=f"{DAY_16}/zarr.json", times=FOREVER, before=die)])
    dying = opened(killed, clock, "dying")
    with pytest.raises(DeathError):
        dying.commit_offers([offer_of(dying, heights([5]), "b")])


def test_a_slow_publisher_never_replaces_a_newer_document(store: S3LikeStore, clock: FakeClock) -> None:
    created(store, clock).insert(heights([1]), precedence=0)
    other = opened(store, clock, "other")
    newer = Fault(
        "replace", key=f"{DAY_16}/zarr.json", before=lambda _m, _k: void(other.insert(heights([9]), precedence=2))
    )
    slow = opened(FaultStore(store, [newer]), clock, "slow")
    slow.insert(heights([5]), precedence=1)
    assert plain_rows(store) == engine_rows(store) == {DAY_16: [(1, 1), (5, 5), (9, 9)]}
    assert plain_columns(store, "height") == {DAY_16: [1, 5, 9]}


def test_documents_of_single_arrays_may_wait_and_then_catch_up(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock, eager_arrays=False)
    collection.insert(heights([1]))
    collection.insert(heights([2]))
    assert plain_rows(store) == {DAY_16: [(1, 1), (2, 2)]}
    assert plain_columns(store, "height") == {DAY_16: [1]}
    collection.publish_arrays()
    assert plain_columns(store, "height") == {DAY_16: [1, 2]}


# Readers' grace.


def rewritten(collection: Collection, turn: int, **options: Any) -> None:
    collection.insert(heights([2], offset=1000 * turn), granule=f"rewrite {turn}", **options)


def test_a_third_rewrite_within_the_readers_grace_waits_for_the_rest_of_it(
    store: S3LikeStore, clock: FakeClock
) -> None:
    collection = created(store, clock, reader_grace=timedelta(seconds=600))
    collection.insert(heights(range(5)))
    rewritten(collection, 1)  # retires generation 0
    clock.advance(100)
    rewritten(collection, 2)
    clock.advance(100)
    with pytest.raises(BusyError, match="reader_grace") as caught:
        rewritten(collection, 3, timeout=0)
    assert caught.value.retry_after == pytest.approx(400, abs=1)
    assert engine_rows(store) == {DAY_16: [(0, 0), (1, 1), (2, 2002), (3, 3), (4, 4)]}
    assert open_collection(store).state.held == {}
    rewritten(collection, 3)
    assert sum(clock.slept) == pytest.approx(400, abs=1)
    assert collection.partitions()[0].generation == 3
    with pytest.raises(BusyError) as caught:  # generation 1 was retired 100 s after generation 0
        rewritten(collection, 4, timeout=0)
    assert caught.value.retry_after == pytest.approx(100, abs=1)


def test_appends_go_on_within_the_readers_grace(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock, reader_grace=timedelta(seconds=600))
    collection.insert(heights(range(5)))
    rewritten(collection, 1)
    rewritten(collection, 2)
    collection.insert(heights([10]), timeout=0)
    assert collection.partitions()[0].rows == 6
    with pytest.raises(BusyError):
        rewritten(collection, 3, timeout=0)


def test_the_grace_counts_from_the_flip_also_for_a_writer_that_was_not_there(
    store: S3LikeStore, clock: FakeClock
) -> None:
    collection = created(store, clock, reader_grace=timedelta(seconds=600))
    collection.insert(heights(range(5)))
    rewritten(collection, 1)
    clock.advance(50)
    collection.insert(heights([7]), granule="append")  # shows generation 1 again, later
    clock.advance(50)
    rewritten(collection, 2)
    newcomer = opened(store, clock, "newcomer", reader_grace=timedelta(seconds=600))
    with pytest.raises(BusyError) as caught:
        rewritten(newcomer, 3, timeout=0)
    assert caught.value.retry_after == pytest.approx(500, abs=1)


def test_without_grace_rewrites_follow_each_other_at_once(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock)
    collection.insert(heights(range(5)))
    for turn in range(1, 8):
        rewritten(collection, turn, timeout=0)
    assert collection.partitions()[0].generation == 7
    assert engine_rows(store) == plain_rows(store) == {DAY_16: [(0, 0), (1, 1), (2, 7002), (3, 3), (4, 4)]}


def test_a_reader_within_the_grace_finishes_on_the_generation_it_opened(store: S3LikeStore, clock: FakeClock) -> None:
    collection = created(store, clock, reader_grace=timedelta(seconds=600))
    collection.insert(heights(range(9)))
    loaded = open_collection(store).load(decode=False)
    rewritten(collection, 1)
    rewritten(collection, 2)
    with pytest.raises(BusyError):
        rewritten(collection, 3, timeout=0)
    assert loaded["height"].values.tolist() == list(range(9))


# Many threads.


class QuickClock(SystemClock):
    """The machine's clocks, sleeping a hundredth of what is asked."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / 100)


@pytest.mark.parametrize("shared", [False, True], ids=["two writers", "one writer in two threads"])
@pytest.mark.parametrize("days", [(0, 0), (0, 1)], ids=["same partition", "two partitions"])
def test_two_writers_side_by_side_bring_every_row_in_once(
    store: S3LikeStore, days: tuple[int, int], shared: bool
) -> None:
    clock = QuickClock()
    created(store, clock)
    writers = [opened(store, clock, "w0")] * 2 if shared else [opened(store, clock, f"w{n}") for n in range(2)]
    start = threading.Barrier(2)

    def work(number: int) -> None:
        start.wait()
        for turn in range(5):
            second = days[number] * DAY + 10 * turn + number
            writers[number].insert(heights([second, second + 4]), granule=f"{number}-{turn}", precedence=turn)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, n) for n in range(2)]:
            future.result()
    together = open_collection(store)
    assert sum(1 for _ in together.granules()) == 10
    expected: dict[str, Rows] = {}
    for number, day in enumerate(days):
        for turn in range(5):
            for second in (10 * turn + number, 10 * turn + number + 4):
                owned_by_other = days == (0, 0) and number == 0 and 10 * turn + 1 <= second <= 10 * turn + 5
                if not owned_by_other:
                    at = day * DAY + second
                    expected.setdefault((DAY_16, DAY_17)[day], []).append((at, at))
    expected = {path: sorted(rows) for path, rows in expected.items()}
    assert engine_rows(store) == expected
    assert plain_rows(store) == expected


def test_writers_that_take_each_other_over_all_the_time_still_bring_every_row_in_once(store: S3LikeStore) -> None:
    clock = QuickClock()
    created(store, clock)
    start = threading.Barrier(2)

    def work(number: int) -> None:
        writer = opened(store, clock, f"w{number}", grant_seconds=0.03)
        start.wait()
        for turn in range(4):
            second = 10 * turn + number
            offers = [offer_of(writer, heights([second, second + 4]), f"{number}-{turn}", precedence=turn)]
            for _ in range(5000):
                try:
                    writer.commit_offers(offers)
                    break
                except (BusyError, ConflictError):
                    clock.sleep(number)  # unequal pauses let one of them win
            else:
                raise AssertionError("no transaction got through")

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, n) for n in range(2)]:
            future.result()
    expected = [(s, s) for turn in range(4) for s in (10 * turn, 10 * turn + 1, 10 * turn + 5)]
    assert engine_rows(store) == plain_rows(store) == {DAY_16: expected}


def test_two_writers_of_a_folder_bring_every_row_in_once(tmp_path: Path) -> None:
    folder = str(tmp_path / "collection")
    clock = QuickClock()
    created(PosixStore(f"file://{folder}"), clock)

    def work(number: int) -> None:
        writer = opened(PosixStore(f"file://{folder}"), clock, f"w{number}")
        for turn in range(3):
            writer.insert(heights([10 * turn + number, 10 * turn + 5]), granule=f"{number}-{turn}", precedence=turn)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, n) for n in range(2)]:
            future.result()
    expected = plus(0, 1, 5, 10, 11, 15, 20, 21, 25)
    assert engine_rows(PosixStore(f"file://{folder}")) == {DAY_16: expected}
    group = zarr.open_group(f"{folder}/{DAY_16}", mode="r")
    assert np.asarray(group["height"][:]).tolist() == [height for _, height in expected]
    assert list(tmp_path.rglob("*.part")) == []


# Deaths and lost answers at every request.


class DeathError(Exception):
    """The process was killed; nothing it does afterwards reaches the store."""


def die(method: str, key: str) -> None:
    raise DeathError(f"{method} {key}")


@dataclass(frozen=True)
class Scenario:
    """A transaction on top of others: all of it is described by rows, so that any process can do it."""

    name: str
    base: tuple[tuple[str, tuple[int, ...], int], ...]
    key: str
    seconds: tuple[int, ...]
    before: Mapping[str, Rows]
    after: Mapping[str, Rows]

    def prepare(self, clock: FakeClock) -> S3LikeStore:
        store = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
        collection = created(store, clock)
        for number, (key, seconds, offset) in enumerate(self.base):
            collection.commit_offers([offer_of(collection, heights(seconds, offset=offset), key, precedence=number)])
        return store

    def run(self, collection: Collection) -> None:
        offer = offer_of(collection, heights(self.seconds, offset=7000), self.key, precedence=50)
        collection.commit_offers([offer])


def plus(*seconds: int, offset: int = 0) -> Rows:
    return [(s, s + offset) for s in seconds]


FIRST = Scenario("first commit", (), "x", (1, 2, 3), {}, {DAY_16: plus(1, 2, 3, offset=7000)})
APPEND = Scenario(
    "append",
    (("a", (0, 1, 2, 3, 4, 5), 0),),
    "x",
    (7, 8, 9),
    {DAY_16: plus(*range(6))},
    {DAY_16: plus(*range(6)) + plus(7, 8, 9, offset=7000)},
)
#: Into the key space of the first generation, over chunks that lie there already.
REWRITE = Scenario(
    "rewrite",
    (("a", tuple(range(7)), 0), ("b", (3, 4), 100), ("c", (5, 6), 200)),
    "x",
    (2, 3),
    {DAY_16: plus(0, 1, 2) + plus(3, 4, offset=100) + plus(5, 6, offset=200)},
    {DAY_16: plus(0, 1) + plus(2, 3, offset=7000) + plus(4, offset=100) + plus(5, 6, offset=200)},
)
#: An append and a rewrite in one commit.
BOTH = Scenario(
    "two partitions",
    (("a", (0, 1, DAY, DAY + 1, DAY + 2), 0),),
    "x",
    (5, DAY + 1),
    {DAY_16: plus(0, 1), DAY_17: plus(DAY, DAY + 1, DAY + 2)},
    {DAY_16: plus(0, 1) + plus(5, offset=7000), DAY_17: plus(DAY) + plus(DAY + 1, offset=7000) + plus(DAY + 2)},
)
SCENARIOS = [FIRST, APPEND, REWRITE, BOTH]


def requests_to_open(store: S3LikeStore, clock: FakeClock) -> int:
    """How many requests an opening makes where there is nothing to repair; it changes nothing."""
    counting = CountingStore(store.copy())
    before = {i.key: i.etag for i in store.list()}
    opened(counting, clock, "daemon")
    assert {i.key: i.etag for i in counting.list()} == before
    return len(counting.log)


def check_each_partition_shows_one_commit(store: ObjectStore, scenario: Scenario) -> None:
    for path, rows in plain_rows(store).items():
        assert rows in (scenario.before.get(path), scenario.after.get(path))
    for path, values in plain_columns(store, "height").items():
        assert values in [[h for _, h in state.get(path, [])] for state in (scenario.before, scenario.after)]


def check_done(store: ObjectStore, scenario: Scenario) -> None:
    assert engine_rows(store) == scenario.after
    assert plain_rows(store) == scenario.after
    assert plain_columns(store, "height") == {p: [h for _, h in rows] for p, rows in scenario.after.items()}
    assert len(list(open_collection(store).granules())) == len(scenario.base) + 1


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_death_before_any_request_leaves_one_commit_and_doing_it_again_completes_it(
    clock: FakeClock, scenario: Scenario
) -> None:
    base = scenario.prepare(clock)
    for number in itertools.count(1 if scenario is FIRST else requests_to_open(base, clock)):
        store = base.copy()
        dying = FaultStore(store, [Fault("*", nth=number, times=FOREVER, before=die)])
        with contextlib.suppress(DeathError):
            scenario.run(opened(dying, clock, "daemon"))
        check_each_partition_shows_one_commit(store, scenario)
        assert engine_rows(store) in (scenario.before, scenario.after)
        survivor = opened(store, clock, "daemon")
        assert plain_rows(store) == engine_rows(store)
        scenario.run(survivor)
        check_done(store, scenario)
        store.clear()
        if dying.untriggered:
            break
    assert number > 20
    base.clear()


@pytest.mark.parametrize(
    ("scenario", "make"),
    [(APPEND, fail_before), (REWRITE, lose_response)],
    ids=lambda value: getattr(value, "name", None) or getattr(value, "__name__", None),
)
def test_a_request_without_answer_leaves_one_commit_and_trying_again_completes_it(
    clock: FakeClock, scenario: Scenario, make: Callable[..., Fault]
) -> None:
    base = scenario.prepare(clock)
    for number in itertools.count(requests_to_open(base, clock)):
        store = base.copy()
        shaky = FaultStore(store, [make("*", nth=number)])
        collection = opened_quietly(shaky, clock)
        for _ in range(3):
            try:
                scenario.run(collection)
                break
            except StorageError:
                assert engine_rows(store) in (scenario.before, scenario.after)
        check_done(store, scenario)
        store.clear()
        if shaky.untriggered:
            break
    assert number > 20
    assert sum(clock.slept) < 600
    base.clear()


def opened_quietly(store: ObjectStore, clock: FakeClock) -> Collection:
    """Open for writing; opening fails without answer, too, and is tried again."""
    try:
        return opened(store, clock, "daemon")
    except StorageError:
        return opened(store, clock, "daemon")


@pytest.mark.parametrize("scenario", SCENARIOS[1:], ids=lambda s: s.name)
def test_a_writer_overtaken_at_any_request_damages_nothing_and_ends_with_both_granules_in(
    clock: FakeClock, scenario: Scenario
) -> None:
    """The writer sleeps before its n-th request until another took its grant over and committed."""
    base = scenario.prepare(clock)
    taken = {4, DAY + 2} if DAY_17 in scenario.after else {4}
    whole: dict[str, Rows] = {}
    for path, rows in scenario.after.items():
        own = [s for s in taken if (s >= DAY) == (path == DAY_17)]
        whole[path] = sorted([row for row in rows if row[0] not in taken] + plus(*own, offset=9000))
    for number in itertools.count(requests_to_open(base, clock)):
        store = base.copy()
        other = opened(store, clock, "other")
        overtake = Overtaking(store, other, sorted(taken))
        slow = FaultStore(store, [Fault("*", nth=number, before=overtake)])
        scenario.run(opened(slow, clock, "sleepy"))
        if slow.untriggered:
            store.clear()
            break
        assert overtake.seen == [overtake.expected]
        assert engine_rows(store) == whole
        assert plain_rows(store) == whole
        store.clear()
    assert number > 20
    base.clear()


class Overtaking:
    """Another writer's whole transaction, done while this one sleeps; remembers what plain readers see then."""

    def __init__(self, store: S3LikeStore, other: Collection, seconds: list[int]) -> None:
        self._store = store
        self._other = other
        self._seconds = seconds
        self.seen: list[Mapping[str, Rows]] = []
        self.expected: Mapping[str, Rows] = {}

    def __call__(self, method: str, key: str) -> None:
        self._other.insert(heights(self._seconds, offset=9000), granule="o", precedence=99)
        self.expected = engine_rows(self._store)
        self.seen.append(plain_rows(self._store))
