"""From the objects of a log to a state: at the head, or at an older record, also while the log is trimmed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import FakeClock, entry, heights, rows_of, small_schema
from tests.ledger_support import PATHS, WHEN, Step, any_step, folded, records_of, table_of, write_log
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.checkpoints import Checkpoints, checkpoint_key
from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.opening import followed, load_state, load_state_at
from zcollection_engine.commits.records import Commit, Creation, PartitionChange, Record, Renewal
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.errors import FormatError, InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore
from zcollection_engine.transaction import WriterOptions

A = PATHS[0]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def series(count: int) -> list[Record]:
    """A creation, then commits a minute apart; each brings one granule."""
    return [
        Creation("first", WHEN),
        *(
            Commit(f"t{n}", WHEN + n * MINUTE, 0, {A: PartitionChange(n, 0, (0, n))}, (entry(f"g{n}", n, {A: [n]}),))
            for n in range(1, count)
        ),
    ]


def checkpoint(store: ObjectStore, records: list[Record], number: int) -> None:
    numbers = Checkpoints(store).numbers()
    state = Checkpoints(store).load(numbers[-1]) if numbers else CollectionState()
    state.apply_all(list(enumerate(records))[state.number + 1 : number + 1])
    Checkpoints(store).write(state)


def trim(store: ObjectStore, keep: int) -> None:
    """Remove all before checkpoint ``keep``, as garbage collection does: checkpoints first."""
    for number in Checkpoints(store).numbers():
        if number < keep:
            store.delete(checkpoint_key(number))
    for number in range(keep):
        store.delete(record_key(number))


# At the head.


def test_where_there_is_nothing_there_is_no_collection(store: MemoryStore) -> None:
    counting = CountingStore(store)
    with pytest.raises(NotFoundError, match=store.url):
        load_state(counting)
    assert counting.requests == {"list": 2, "get": 1}


@pytest.mark.parametrize("number", [0, 4, 9])
def test_a_trimmed_log_is_opened_from_its_checkpoint(store: MemoryStore, number: int) -> None:
    records = series(10)
    write_log(store, records)
    checkpoint(store, records, number)
    trim(store, number)
    state = load_state(store)
    assert (state.number, state.checkpoint) == (9, number)
    assert table_of(state.ledger) == table_of(folded(records).ledger)


def test_of_several_checkpoints_the_newest_is_read(store: MemoryStore) -> None:
    records = series(10)
    write_log(store, records)
    for number in (2, 5, 8):
        checkpoint(store, records, number)
    counting = CountingStore(store)
    assert load_state(counting).checkpoint == 8
    assert counting.keys("get") == (checkpoint_key(8), record_key(9), record_key(10))
    assert counting.keys("head") == (record_key(8),)


def test_a_record_behind_a_checkpoint_that_is_damaged_is_reported(store: MemoryStore) -> None:
    records = series(4)
    write_log(store, records)
    checkpoint(store, records, 2)
    store.delete(record_key(3))
    store.create(record_key(3), b"{")
    with pytest.raises(FormatError, match=record_key(3)):
        load_state(store)


# The log is trimmed at each moment of the opening.


def trimming(store: MemoryStore, records: list[Record], keep: int) -> Fault:
    def run(_method: str, _key: str) -> None:
        checkpoint(store, records, keep)
        trim(store, keep)

    return Fault("*", before=run)


@pytest.mark.parametrize("earlier", [None, 3])
def test_a_log_trimmed_before_any_request_of_an_opening_is_opened_at_its_head(earlier: int | None) -> None:
    records = series(12)
    for number in range(1, 40):
        store = MemoryStore(f"memory://{uuid.uuid4().hex}")
        write_log(store, records)
        if earlier is not None:
            checkpoint(store, records, earlier)
        fault = trimming(store, records, 10)
        racing = FaultStore(store, [Fault("*", nth=number, before=fault.before)])
        state = load_state(racing)
        assert state.number == 11
        assert table_of(state.ledger) == table_of(folded(records).ledger)
        store.clear()
        if racing.untriggered:
            break
    assert number > 5


def test_a_reader_that_was_left_behind_by_trimming_sees_the_head_after_a_refresh(store: MemoryStore) -> None:
    records = series(12)
    write_log(store, records[:4])
    state = load_state(store)
    log = CommitLog(store)
    for number, record in list(enumerate(records))[4:]:
        log.append(number, record)
    checkpoint(store, records, 10)
    trim(store, 10)
    assert list(log.follow(state.number)) == []
    later = followed(state, store)
    assert (later.number, later.checkpoint) == (11, 10)


def test_following_a_log_that_was_not_trimmed_keeps_the_state(store: MemoryStore) -> None:
    records = series(4)
    write_log(store, records[:3])
    state = load_state(store)
    CommitLog(store).append(3, records[3])
    counting = CountingStore(store)
    assert followed(state, counting) is state
    assert state.number == 3
    assert counting.requests == {"get": 2, "head": 1}


def test_a_reader_refreshed_while_the_log_is_trimmed_sees_the_head(store: MemoryStore) -> None:
    records = series(12)
    for number in range(1, 40):
        target = MemoryStore(f"memory://{uuid.uuid4().hex}")
        write_log(target, records[:4])
        state = load_state(target)
        for n, record in list(enumerate(records))[4:]:
            CommitLog(target).append(n, record)
        fault = trimming(target, records, 10)
        racing = FaultStore(target, [Fault("*", nth=number, before=fault.before)])
        later = followed(state, racing)
        assert later.number == 11
        assert table_of(later.ledger) == table_of(folded(records).ledger)
        target.clear()
        if racing.untriggered:
            break
    assert number > 3


# At an older moment.


@settings(max_examples=60)
@given(st.lists(any_step, max_size=10), st.sets(st.integers(0, 10), max_size=3), st.data())
def test_any_older_record_and_time_give_the_state_of_then(
    steps: list[Step], moments: set[int], data: st.DataObject
) -> None:
    target = MemoryStore(f"memory://{uuid.uuid4().hex}")
    records = records_of(steps)
    write_log(target, records)
    for number in sorted(m for m in moments if m < len(records)):
        checkpoint(target, records, number)
    at = data.draw(st.integers(0, len(records) - 1))
    state = load_state_at(target, at)
    expected = folded(records[: at + 1])
    assert (state.number, state.partitions, state.held) == (at, expected.partitions, expected.held)
    assert table_of(state.ledger) == table_of(expected.ledger)
    when = records[at].time
    by_time = load_state_at(target, when)
    later = [n for n, r in enumerate(records) if isinstance(r, Commit) and r.time > when]
    then = folded(records[: later[0]] if later else records)
    assert (by_time.last_commit, by_time.partitions, by_time.config) == (then.last_commit, then.partitions, then.config)
    assert table_of(by_time.ledger) == table_of(then.ledger)
    target.clear()


@pytest.mark.parametrize(
    ("at", "last"),
    [
        (WHEN, -1),
        (WHEN + MINUTE / 2, -1),
        (WHEN + MINUTE, 1),
        (WHEN + 5 * MINUTE - timedelta(microseconds=1), 4),
        (WHEN + 5 * MINUTE, 5),
        ((WHEN + 5 * MINUTE).astimezone(timezone(timedelta(hours=5))), 5),
        (datetime(2100, 1, 1, tzinfo=UTC), 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("checkpoints", [(), (4,), (0, 3, 5, 9)])
def test_a_time_means_the_last_commit_up_to_it(
    store: MemoryStore, at: datetime, last: int, checkpoints: tuple[int, ...]
) -> None:
    records = series(10)
    write_log(store, records)
    for number in checkpoints:
        checkpoint(store, records, number)
    state = load_state_at(store, at)
    assert state.last_commit == last
    assert state.partition(A).rows == max(last, 0)


def test_an_older_record_is_read_from_the_checkpoint_before_it(store: MemoryStore) -> None:
    records = series(10)
    write_log(store, records)
    for number in (2, 5, 8):
        checkpoint(store, records, number)
    assert [load_state_at(store, n).checkpoint for n in (0, 1, 2, 4, 5, 7, 8, 9)] == [-1, -1, 2, 2, 5, 5, 8, 8]
    assert load_state_at(store, WHEN + 6 * MINUTE).checkpoint == 5


@pytest.mark.parametrize("at", [-1, 10, 99])
def test_a_record_that_does_not_exist_is_refused_with_the_number_of_the_last(store: MemoryStore, at: int) -> None:
    write_log(store, series(10))
    with pytest.raises(InvalidInputError, match=f"no record {at}; the log ends with 9"):
        load_state_at(store, at)


def test_a_time_before_the_creation_is_refused(store: MemoryStore) -> None:
    write_log(store, series(3))
    with pytest.raises(InvalidInputError, match=r"created at 2024-01-01T00:00:00.000000Z, after 2023-12-31T23:59"):
        load_state_at(store, WHEN - MINUTE)


def test_a_time_without_a_zone_is_refused(store: MemoryStore) -> None:
    write_log(store, series(3))
    with pytest.raises(InvalidInputError, match=r"no time zone.*tzinfo=UTC"):
        load_state_at(store, datetime(2024, 1, 1))  # noqa: DTZ001


def test_where_there_is_no_collection_there_is_no_older_one(store: MemoryStore) -> None:
    for at in (0, WHEN):
        with pytest.raises(NotFoundError, match=store.url):
            load_state_at(store, at)


@pytest.mark.parametrize("at", [0, 3, 5, WHEN, WHEN + MINUTE, WHEN + 5 * MINUTE], ids=str)
def test_what_the_log_no_longer_reaches_back_to_has_expired(store: MemoryStore, at: int | datetime) -> None:
    records = series(10)
    write_log(store, records)
    checkpoint(store, records, 6)
    trim(store, 6)
    with pytest.raises(SnapshotExpiredError, match="no longer reaches back"):
        load_state_at(store, at)


@pytest.mark.parametrize("at", [6, 8, WHEN + 6 * MINUTE, WHEN + 8 * MINUTE], ids=str)
def test_what_a_trimmed_log_still_reaches_back_to_is_opened(store: MemoryStore, at: int | datetime) -> None:
    records = series(10)
    write_log(store, records)
    checkpoint(store, records, 6)
    trim(store, 6)
    state = load_state_at(store, at)
    expected = at if isinstance(at, int) else (at - WHEN) // MINUTE
    assert (state.number, state.partition(A).rows) == (expected, expected)


@pytest.mark.parametrize("at", [1, 8, 11, WHEN + MINUTE, WHEN + 8 * MINUTE, WHEN + 11 * MINUTE], ids=str)
@pytest.mark.parametrize("earlier", [None, 5])
def test_trimming_during_an_opening_at_an_older_moment_gives_just_that_moment_or_says_it_expired(
    at: int | datetime, earlier: int | None
) -> None:
    records = series(12)
    wanted = at if isinstance(at, int) else (at - WHEN) // MINUTE
    for number in range(1, 80):
        store = MemoryStore(f"memory://{uuid.uuid4().hex}")
        write_log(store, records)
        if earlier is not None:
            checkpoint(store, records, earlier)
        fault = trimming(store, records, 10)
        racing = FaultStore(store, [Fault("*", nth=number, before=fault.before)])
        try:
            state = load_state_at(racing, at)
            assert (state.last_commit, state.partition(A).rows) == (wanted, wanted)
        except SnapshotExpiredError:
            assert wanted < 10
        store.clear()
        if racing.untriggered:
            break
    assert number > 6


# Through the collection.


def grown(store: MemoryStore, clock: FakeClock) -> Collection:
    collection = create_collection(
        store, small_schema(), DatePartitioning("time", "day"), writer=WriterOptions("one"), clock=clock
    )
    for number in range(4):
        clock.advance(60)
        collection.insert(heights([number]), granule=f"g{number}")
    return collection


def test_a_collection_is_opened_as_it_was(store: MemoryStore) -> None:
    clock = FakeClock()
    collection = grown(store, clock)
    infos = list(collection.history())
    assert len(infos) == 4
    for turn, info in enumerate(infos, start=1):
        for at in (info.number, info.time):
            then = open_collection(store, at=at)
            dataset = then.load(decode=False)
            assert rows_of(dataset) == [(n, n) for n in range(turn)]  # type: ignore[arg-type]
            assert then.commit == info.number
            assert [p.rows for p in then.partitions()] == [turn]
            assert len(list(then.granules())) == turn


def test_an_older_commit_can_only_be_read(store: MemoryStore) -> None:
    grown(store, FakeClock())
    with pytest.raises(InvalidInputError, match="rollback"):
        open_collection(store, mode="w", at=2)


def test_a_writer_that_was_left_behind_by_trimming_goes_on_from_the_head(store: MemoryStore) -> None:
    clock = FakeClock()
    left_behind = grown(store, clock)
    other = open_collection(store, mode="w", writer=WriterOptions("two"), clock=clock)
    for number in range(4, 8):
        other.insert(heights([number]), granule=f"g{number}")
    other.checkpoint()
    trim(store, other.state.number)
    left_behind.insert(heights([8]), granule="g8")
    assert rows_of(left_behind.load(decode=False)) == [(n, n) for n in range(9)]  # type: ignore[arg-type]
    assert len(list(left_behind.granules())) == 9
    records = CommitLog(store)
    assert isinstance(records.read(left_behind.state.number), Commit)


def test_a_writer_that_was_left_behind_by_trimming_sees_the_head_after_a_refresh(store: MemoryStore) -> None:
    clock = FakeClock()
    left_behind = grown(store, clock)
    other = open_collection(store, mode="w", writer=WriterOptions("two"), clock=clock)
    other.insert(heights([4]), granule="g4")
    other.checkpoint()
    trim(store, other.state.number)
    assert left_behind.refresh().commit == other.commit


def test_a_release_of_a_writer_left_behind_is_void(store: MemoryStore) -> None:
    write_log(store, series(10))
    records = series(10)
    checkpoint(store, records, 9)
    trim(store, 9)
    with pytest.raises(Exception, match="trimmed"):
        CommitLog(store).append(3, Renewal("t", WHEN, 1))
    assert load_state(store).number == 9
