"""History and differences: what the log tells of commits, as far as it reaches back."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import DAY_16, DAY_17, FakeClock, heights, offer_of, small_schema
from tests.ledger_support import PATHS, Step, any_step, folded, records_of, write_log
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.checkpoints import Checkpoints, checkpoint_key
from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.records import Commit
from zcollection_engine.errors import InvalidInputError, SnapshotExpiredError
from zcollection_engine.history import diff, history
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore
from zcollection_engine.transaction import WriterOptions

DAY = 86_400


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def collection(store: MemoryStore, clock: FakeClock) -> Collection:
    return create_collection(
        store, small_schema(), DatePartitioning("time", "day"), writer=WriterOptions("alice"), clock=clock
    )


def deliver(collection: Collection, key: str, *seconds: int, precedence: int = 1) -> int:
    offer = offer_of(collection, heights(seconds), key, precedence=precedence)
    number = collection.commit_offers([offer]).commit
    assert number is not None
    return number


def trim(store: MemoryStore, keep: int) -> None:
    for number in Checkpoints(store).numbers():
        if number < keep:
            store.delete(checkpoint_key(number))
    for number in range(keep):
        store.delete(record_key(number))


def test_a_new_collection_has_no_history(collection: Collection) -> None:
    assert list(collection.history()) == []


def test_every_commit_is_told_with_its_operation_and_its_writer(
    collection: Collection, store: MemoryStore, clock: FakeClock
) -> None:
    first = deliver(collection, "a", 1, DAY)
    deliver(collection, "a", 2, precedence=2)
    other = open_collection(store, mode="w", writer=WriterOptions("bob"), clock=clock)
    other.drop_partitions([DAY_16])
    other.set_attributes({"title": "x"})
    other.rollback(first + 2)
    found = list(collection.refresh().history())
    assert [(i.operation, i.owner) for i in found] == [
        ("merge", "alice"),
        ("merge", "alice"),
        ("drop", "bob"),
        ("attributes", "bob"),
        ("rollback", "bob"),
    ]
    assert [(i.granules, i.removed) for i in found] == [
        (("a",), ()),
        (("a",), ("a",)),
        ((), ()),
        ((), ()),
        (("a",), ("a",)),
    ]
    assert [dict(i.rows) for i in found] == [
        {DAY_16: 1, DAY_17: 1},
        {DAY_16: 1, DAY_17: 0},
        {DAY_16: 0},
        {},
        {DAY_16: 1},
    ]
    assert [i.number for i in found] == sorted({i.number for i in found})
    assert all(a.time < b.time for a, b in itertools.pairwise(found))


def test_granules_whose_rows_were_lost_are_told(collection: Collection) -> None:
    collection.insert(heights([0, 5, 10]), granule="low")
    collection.insert(heights([4, 6]), granule="high")
    collection.insert(heights([20]), granule="high")
    (low,) = (e.id for e in collection.granules() if e.identity.key == "low")
    assert [i.lost for i in collection.history()] == [(), (), (low,)]


def test_history_is_read_while_it_is_asked_for(collection: Collection, store: MemoryStore) -> None:
    for turn in range(40):
        deliver(collection, f"g{turn}", turn)
    counting = CountingStore(store)
    first = next(history(counting))
    assert first.granules == ("g0",)
    assert counting.requests["get"] < 10


def test_history_begins_at_the_oldest_checkpoint_of_a_trimmed_log(collection: Collection, store: MemoryStore) -> None:
    numbers = [deliver(collection, f"g{turn}", turn) for turn in range(4)]
    for number in numbers[1:3]:
        state = folded([r for _, r in CommitLog(store).follow(-1)][: number + 1])
        Checkpoints(store).write(state)
    trim(store, numbers[1])
    found = list(history(store))
    assert [i.number for i in found] == numbers[1:]
    assert [i.owner for i in found] == [None, "alice", "alice"]  # the first one's grant is gone


def test_a_history_that_loses_its_beginning_while_it_is_read_says_so(
    collection: Collection, store: MemoryStore
) -> None:
    for turn in range(20):
        deliver(collection, f"g{turn}", turn)
    collection.checkpoint()
    found = history(store)
    next(found)
    trim(store, collection.state.number)
    with pytest.raises(SnapshotExpiredError, match="read it again"):
        list(found)


def test_a_difference_tells_partitions_and_granules(collection: Collection) -> None:
    first = deliver(collection, "a", 1, DAY)
    deliver(collection, "a", 2, precedence=2)
    last = deliver(collection, "b", 5)
    found = collection.diff(first, last)
    assert (found.older, found.newer) == (first, last)
    assert [(e.identity.key, e.precedence) for e in found.granules] == [("a", (2,)), ("b", (1,))]
    assert [(e.identity.key, e.precedence) for e in found.removed] == [("a", (1,))]
    rows = {p: tuple(s.rows if s else None for s in pair) for p, pair in found.partitions.items()}
    assert rows == {DAY_16: (1, 2), DAY_17: (1, None)}


def test_a_difference_does_not_depend_on_the_order_of_its_moments(collection: Collection, clock: FakeClock) -> None:
    first = deliver(collection, "a", 1)
    clock.advance(10)
    moment = clock.now()
    clock.advance(10)
    last = deliver(collection, "b", 2)
    assert collection.diff(last, first) == collection.diff(first, last)
    by_time = collection.diff(moment, last)
    assert (by_time.granules, by_time.removed) == (collection.diff(first, last).granules, ())


def test_a_commit_does_not_differ_from_itself(collection: Collection) -> None:
    number = deliver(collection, "a", 1)
    found = collection.diff(number, number)
    assert (found.partitions, found.granules, found.removed) == ({}, (), ())


def test_what_was_rolled_back_makes_no_difference_of_granules(collection: Collection) -> None:
    first = deliver(collection, "a", 1, DAY)
    collection.drop_partitions([DAY_17])
    deliver(collection, "b", 2)
    last = collection.rollback(first)
    found = collection.diff(first, last)
    assert (found.granules, found.removed) == ((), ())


def test_a_moment_that_is_not_there_has_no_difference(collection: Collection, store: MemoryStore) -> None:
    number = deliver(collection, "a", 1)
    with pytest.raises(InvalidInputError, match="no record 99"):
        collection.diff(number, 99)
    collection.checkpoint()
    trim(store, collection.state.number)
    with pytest.raises(SnapshotExpiredError):
        collection.diff(0, number)


def test_a_log_trimmed_while_a_difference_is_made_says_so_or_gives_all_of_it(
    collection: Collection, store: MemoryStore
) -> None:
    numbers = [deliver(collection, f"g{turn}", turn) for turn in range(6)]
    collection.checkpoint()
    records = {i.key: store.get(i.key).data for i in store.list(".zcommits/")}
    expected = diff(store, numbers[1], numbers[4])
    outcomes = set()
    for nth in range(1, 60):
        twin = MemoryStore(f"memory://{uuid.uuid4().hex}")
        for key, data in records.items():
            twin.create(key, data)
        racing = FaultStore(
            twin, [Fault("*", nth=nth, before=lambda *_, twin=twin: trim(twin, collection.state.number))]
        )
        try:
            assert diff(racing, numbers[1], numbers[4]) == expected
            outcomes.add("whole")
        except SnapshotExpiredError:
            outcomes.add("expired")
        twin.clear()
        if racing.untriggered:
            break
    assert outcomes == {"whole", "expired"}


@settings(max_examples=60)
@given(st.lists(any_step, max_size=12), st.data())
def test_any_difference_is_that_of_the_two_states(steps: list[Step], data: st.DataObject) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    records = records_of(steps)
    write_log(store, records)
    older, newer = sorted(data.draw(st.integers(0, len(records) - 1)) for _ in range(2))
    before, after = folded(records[: older + 1]), folded(records[: newer + 1])
    found = diff(store, older, newer)
    ids = [{e.id for e in state.ledger} for state in (before, after)]
    assert {e.id for e in found.granules} == ids[1] - ids[0]
    assert {e.id for e in found.removed} == ids[0] - ids[1]
    for path in PATHS:
        old, new = before.partition(path), after.partition(path)
        differs = (bool(old.rows), bool(new.rows)) != (False, False) and (
            bool(old.rows) != bool(new.rows) or (old.generation, old.rows) != (new.generation, new.rows)
        )
        assert (path in found.partitions) is differs
    assert [i.number for i in history(store)] == [n for n, r in enumerate(records) if isinstance(r, Commit)]
    store.clear()
