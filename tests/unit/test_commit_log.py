"""The commit log on a store: numbers without gaps, one winner for each, lost answers settled."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.engine_support import FakeClock
from zcollection_engine.commits.grants import append_next
from zcollection_engine.commits.log import CommitLog, LogTrimmedError, NumberTakenError, record_key, record_number
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


@pytest.mark.parametrize(
    ("count", "reads"), [(0, 1), (1, 2), (2, 4), (3, 4), (4, 8), (8, 16), (15, 16), (16, 32), (40, 48)]
)
def test_following_many_records_reads_ahead_in_parallel_and_gives_all_in_order(
    store: MemoryStore, count: int, reads: int
) -> None:
    records = filled(store, count) if count else []
    counting = CountingStore(store)
    assert list(CommitLog(counting).follow(-1)) == list(enumerate(records))
    assert counting.requests == {"get": reads}


@pytest.mark.parametrize("at", [2, 3, 5])
def test_following_finds_what_was_appended_while_it_ran(store: MemoryStore, at: int) -> None:
    records = filled(store, at)

    def append(_method: str, key: str) -> None:
        CommitLog(store).append(at, renewal("late"))

    disturbed = FaultStore(store, [Fault("get", key=record_key(at - 1), after=append)])
    found = list(CommitLog(disturbed).follow(-1))
    # A record that was made while its number was being asked for may be seen or not.
    assert found[:at] == list(enumerate(records))
    assert found[at:] in ([], [(at, renewal("late"))])
    assert list(CommitLog(store).follow(at - 1)) == [(at, renewal("late"))]
    assert not disturbed.untriggered


@pytest.mark.parametrize(
    "name",
    [
        "staged/x/zarr.json",
        "0001.json",
        "00000000000000000009.json.part",
        "checkpoint.json",
        "checkpoints/00000000000000000009.json.gz",
        "٣" * 20 + ".json",
    ],
)
def test_what_is_no_record_has_no_number_and_is_passed_over(store: MemoryStore, name: str) -> None:
    records = filled(store, 2)
    store.create(f".zcommits/{name}", b"{}")
    assert record_number(f".zcommits/{name}") is None
    assert record_number(record_key(9)) == 9
    assert list(CommitLog(store).follow(-1)) == list(enumerate(records))


@pytest.mark.parametrize("missing", [0, 1, 3, 7, 20])
def test_following_ends_at_a_gap_and_never_goes_on_behind_it(store: MemoryStore, missing: int) -> None:
    records = filled(store, 30)
    store.delete(record_key(missing))
    assert list(CommitLog(store).follow(-1)) == list(enumerate(records))[:missing]


def test_a_damaged_record_is_reported_by_its_full_name(store: MemoryStore) -> None:
    filled(store, 1)
    store.create(record_key(1), b"")
    log = CommitLog(store)
    for read in (lambda: log.follow(-1), lambda: log.follow(0), lambda: [log.read(1)]):
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


# Trimming: the oldest records go, in ascending order.


def checkpoint(store: MemoryStore, number: int) -> None:
    """As far as the log is concerned, a checkpoint is an object in its folder."""
    store.create(f".zcommits/checkpoints/{number:020d}.json.gz", b"")


def trim(store: MemoryStore, below: int) -> None:
    for number in range(below):
        store.delete(record_key(number))


def test_an_append_costs_a_write_and_a_look_at_the_record_before(store: MemoryStore) -> None:
    filled(store, 3)
    counting = CountingStore(store)
    CommitLog(counting).append(3, renewal("mine"))
    assert counting.log == (("create", record_key(3)), ("head", record_key(2)))


def test_the_first_record_costs_a_write_and_a_look_for_checkpoints(store: MemoryStore) -> None:
    counting = CountingStore(store)
    CommitLog(counting).append(0, Creation("t", WHEN))
    assert counting.log == (("create", record_key(0)), ("list", ".zcommits/checkpoints/"))


@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_record_at_a_trimmed_number_is_void_and_removed(store: MemoryStore, number: int) -> None:
    filled(store, 10)
    trim(store, 8)
    with pytest.raises(LogTrimmedError, match=f"record {number} came too late"):
        CommitLog(store).append(number, renewal("late"))
    assert [record_number(i.key) for i in store.list(".zcommits/")] == [8, 9]


def test_the_last_record_that_was_trimmed_cannot_be_made_again_either(store: MemoryStore) -> None:
    filled(store, 10)
    trim(store, 8)
    with pytest.raises(LogTrimmedError):
        CommitLog(store).append(7, renewal("late"))
    with pytest.raises(NumberTakenError):
        CommitLog(store).append(8, renewal("late"))


def test_a_record_whose_predecessor_goes_right_after_it_was_made_counts_for_nothing(store: MemoryStore) -> None:
    filled(store, 3)

    def go_on(_method: str, _key: str) -> None:
        log = CommitLog(store)
        for number in range(3, 6):
            log.append(number, renewal(f"other {number}"))
        trim(store, 5)

    # The writer sleeps before its write; meanwhile the log goes on, and its number becomes free again.
    slow = FaultStore(store, [Fault("create", before=go_on)])
    with pytest.raises(LogTrimmedError):
        CommitLog(slow).append(3, renewal("late"))
    assert [record_number(i.key) for i in store.list(".zcommits/")] == [5]


def test_a_winner_that_was_trimmed_before_it_could_be_read_is_no_reason_to_try_for_ever(store: MemoryStore) -> None:
    filled(store, 4)
    slow = FaultStore(store, [Fault("create", after=lambda *_: None), Fault("get", before=lambda *_: trim(store, 4))])
    clock = FakeClock()
    with pytest.raises(LogTrimmedError, match="removed again"):
        CommitLog(slow, clock).append(3, renewal("late"))
    assert clock.slept == []


def test_a_log_that_was_trimmed_cannot_be_begun_again(store: MemoryStore) -> None:
    filled(store, 10)
    checkpoint(store, 8)
    trim(store, 8)
    with pytest.raises(LogTrimmedError):
        CommitLog(store).append(0, Creation("another", WHEN))
    assert [record_number(i.key) for i in store.list(".zcommits/")][:2] == [8, 9]


def test_appending_at_the_end_fails_when_the_log_was_trimmed_beyond_what_is_known(store: MemoryStore) -> None:
    filled(store, 10)
    trim(store, 8)
    with pytest.raises(LogTrimmedError):
        append_next(CommitLog(store), 3, renewal("late"))
    assert append_next(CommitLog(store), 8, renewal("in time")) == 10


def test_the_end_of_a_log_counts_only_while_the_record_it_was_followed_from_is_there(store: MemoryStore) -> None:
    filled(store, 10)
    log = CommitLog(store)
    assert log.is_intact(3)
    trim(store, 8)
    assert list(log.follow(3)) == []
    assert not log.is_intact(3)
    assert log.is_intact(8)
