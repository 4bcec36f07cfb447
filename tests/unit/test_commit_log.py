"""The commit log on a store: numbers without gaps, one winner for each, lost answers settled."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.engine_support import FakeClock
from zcollection_engine.commits.grants import append_next
from zcollection_engine.commits.log import CommitLog, NumberTakenError, record_key
from zcollection_engine.commits.records import Creation, Record, Renewal, encode
from zcollection_engine.errors import FormatError, NotFoundError, OutcomeUnknownError, StorageError
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore, fail_before, lose_response

WHEN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def renewal(text: str = "t", token: int = 1) -> Renewal:
    return Renewal(text, WHEN, token)


def filled(store: MemoryStore, count: int) -> list[Record]:
    log = CommitLog(store)
    records: list[Record] = [Creation("t", WHEN), *(renewal(f"t{n}", n) for n in range(1, count))]
    for number, record in enumerate(records):
        log.append(number, record)
    return records


def test_records_are_read_back_by_number(store: MemoryStore) -> None:
    records = filled(store, 3)
    log = CommitLog(store)
    assert [log.read(n) for n in range(3)] == records
    with pytest.raises(NotFoundError):
        log.read(3)


def test_keys_of_records_have_twenty_digits_so_that_they_sort_as_numbers() -> None:
    assert record_key(7) == ".zcommits/00000000000000000007.json"
    assert sorted([record_key(10), record_key(9)]) == [record_key(9), record_key(10)]


def test_following_costs_one_read_for_each_record_and_one_for_the_end(store: MemoryStore) -> None:
    records = filled(store, 5)
    counting = CountingStore(store)
    assert list(CommitLog(counting).follow(1)) == list(enumerate(records))[2:]
    assert counting.requests == {"get": 4}


def test_following_an_empty_log_finds_nothing(store: MemoryStore) -> None:
    assert list(CommitLog(store).follow(-1)) == []


@pytest.mark.parametrize("count", [0, 1, 40])
def test_loading_gives_all_records_in_order_with_one_list(store: MemoryStore, count: int) -> None:
    records = filled(store, count) if count else []
    counting = CountingStore(store)
    assert list(CommitLog(counting).load()) == list(enumerate(records))
    assert counting.requests["list"] == 1


def test_loading_finds_what_was_appended_while_it_ran(store: MemoryStore) -> None:
    records = filled(store, 2)

    def append(_method: str, _key: str) -> None:
        CommitLog(store).append(2, renewal("late"))

    disturbed = FaultStore(store, [Fault("list", after=append)])
    assert list(CommitLog(disturbed).load()) == list(enumerate([*records, renewal("late")]))
    assert not disturbed.untriggered


def test_loading_passes_over_what_is_no_record(store: MemoryStore) -> None:
    records = filled(store, 2)
    for name in (
        "staged/x/zarr.json",
        "0001.json",
        "00000000000000000009.json.part",
        "checkpoint.json",
        "٣" * 20 + ".json",
    ):
        store.create(f".zcommits/{name}", b"{}")
    assert list(CommitLog(store).load()) == list(enumerate(records))


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_gap_in_the_log_is_reported_with_the_record_that_is_missing(store: MemoryStore, missing: int) -> None:
    filled(store, 5)
    store.delete(record_key(missing))
    with pytest.raises(FormatError, match=f"{missing:020d}"):
        list(CommitLog(store).load())


def test_a_damaged_record_is_reported_by_its_full_name(store: MemoryStore) -> None:
    filled(store, 1)
    store.create(record_key(1), b"")
    for read in (CommitLog(store).load, lambda: CommitLog(store).follow(0)):
        with pytest.raises(FormatError, match=f"{store.url}/{record_key(1)}"):
            list(read())


def test_of_two_writers_of_a_number_one_wins_and_the_other_learns_who(store: MemoryStore) -> None:
    log = CommitLog(store)
    log.append(0, renewal("mine"))
    with pytest.raises(NumberTakenError) as caught:
        log.append(0, renewal("theirs"))
    assert caught.value.winner == renewal("mine")
    assert log.read(0) == renewal("mine")


@pytest.mark.parametrize("faults", [1, 3])
def test_a_lost_answer_is_resolved_as_our_own_record(store: MemoryStore, faults: int) -> None:
    disturbed = FaultStore(store, [lose_response("create"), fail_before("create", nth=2, times=faults - 1)])
    clock = FakeClock()
    CommitLog(disturbed, clock).append(0, renewal("mine"))
    assert CommitLog(store).read(0) == renewal("mine")
    assert len(clock.slept) == faults


def test_a_request_that_never_arrived_is_sent_again(store: MemoryStore) -> None:
    CommitLog(FaultStore(store, [fail_before("create", times=3)]), FakeClock()).append(0, renewal("mine"))
    assert CommitLog(store).read(0) == renewal("mine")


def test_a_number_lost_while_the_answer_was_lost_belongs_to_the_other(store: MemoryStore) -> None:
    def other_wins(_method: str, _key: str) -> None:
        store.create(record_key(0), encode(renewal("theirs")))
        raise StorageError("no answer")

    log = CommitLog(FaultStore(store, [Fault("create", before=other_wins)]), FakeClock())
    with pytest.raises(NumberTakenError) as caught:
        log.append(0, renewal("mine"))
    assert caught.value.winner == renewal("theirs")


def test_a_failure_while_looking_who_won_is_asked_again(store: MemoryStore) -> None:
    disturbed = FaultStore(store, [lose_response("create"), fail_before("get", times=3)])
    CommitLog(disturbed, FakeClock()).append(0, renewal("mine"))
    assert CommitLog(store).read(0) == renewal("mine")
    assert not disturbed.untriggered


def test_silence_ends_as_an_unknown_outcome_after_growing_pauses(store: MemoryStore) -> None:
    clock = FakeClock()
    counting = CountingStore(store)
    disturbed = FaultStore(counting, [lose_response("create", times=99), fail_before("get", times=99)])
    with pytest.raises(OutcomeUnknownError, match=record_key(0)):
        CommitLog(disturbed, clock).append(0, renewal("mine"))
    assert counting.requests["create"] == 8
    assert len(clock.slept) == 7
    assert all(pause <= 0.1 * 2**attempt for attempt, pause in enumerate(clock.slept, start=1))


def test_a_record_that_conflicts_with_nothing_takes_the_next_free_number(store: MemoryStore) -> None:
    filled(store, 4)
    assert append_next(CommitLog(store), 0, renewal("mine")) == 4
    assert append_next(CommitLog(store), 4, renewal("again")) == 5


def test_the_race_for_the_next_free_number_is_run_until_it_is_won(store: MemoryStore) -> None:
    filled(store, 2)

    def other_wins(_method: str, key: str) -> None:
        store.create(key, encode(renewal(key)))

    disturbed = FaultStore(store, [Fault("create", times=3, before=other_wins)])
    assert append_next(CommitLog(disturbed), 1, renewal("mine")) == 5
    assert CommitLog(store).read(5) == renewal("mine")
