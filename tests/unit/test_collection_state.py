"""The fold of the log: partitions, ledger and grants; and who may take a grant over."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.engine_support import FakeClock, entry
from zcollection_engine.commits.grants import GrantCheck, GrantWatch
from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.records import (
    EVERYTHING,
    Commit,
    Creation,
    Grant,
    PartitionChange,
    Record,
    Release,
    Renewal,
)
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.errors import FencedError, FormatError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore

WHEN = datetime(2024, 1, 1, tzinfo=UTC)
A, B = "cycle=1", "cycle=2"
CREATION = Creation("t", WHEN)


def grant(*partitions: str, owner: str = "me", session: str = "s1", seconds: float = 60.0) -> Grant:
    return Grant(uuid.uuid4().hex, WHEN, owner, session, seconds, partitions)


def commit(
    token: int,
    *granules: GranuleEntry,
    partitions: dict[str, PartitionChange] | None = None,
    removed: tuple[GranuleEntry, ...] = (),
    published: int = 0,
    time: datetime = WHEN,
) -> Commit:
    return Commit(uuid.uuid4().hex, time, token, partitions or {}, granules, removed, (), published)


def change(rows: int, generation: int = 0, flipped: datetime | None = None) -> PartitionChange:
    return PartitionChange(rows, generation, (0, rows) if rows else None, flipped)


def folded(*records: Record) -> CollectionState:
    state = CollectionState()
    state.apply_all(enumerate([CREATION, *records]))
    return state


def test_before_any_record_there_is_no_collection() -> None:
    state = CollectionState()
    assert state.creation is None
    assert state.partition(A) == PartitionState(A, -1, 0, 0, None)


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_record_out_of_order_is_refused(number: int) -> None:
    state = folded()
    with pytest.raises(FormatError, match=f"record {number} .* record 0"):
        state.apply(number, CREATION)
    assert state.number == 0


def test_a_commit_changes_just_the_partitions_it_names() -> None:
    state = folded(commit(0, partitions={A: change(3), B: change(4)}), commit(0, partitions={B: change(9, 1)}))
    assert (state.partition(A).rows, state.partition(A).commit) == (3, 1)
    assert (state.partition(B).rows, state.partition(B).generation, state.partition(B).commit) == (9, 1, 2)
    assert state.last_commit == 2


def test_a_granule_that_changes_no_rows_is_a_member_all_the_same() -> None:
    known = entry("k", 1, {A: [1]})
    state = folded(commit(0, known))
    assert state.ledger.owners(A) == [known]
    assert state.partition(A).commit == -1


def test_owners_come_in_ascending_rank() -> None:
    entries = [entry("b", 2, {A: [1]}), entry("a", 2, {A: [2]}), entry("z", 1, {A: [3]}), entry("c", 3, {B: [4]})]
    state = folded(commit(0, *entries))
    assert [e.identity.key for e in state.ledger.owners(A)] == ["z", "a", "b"]
    assert state.ledger.owners("cycle=3") == []


def test_a_replaced_granule_leaves_every_partition_it_was_in() -> None:
    old, new = entry("k", 1, {A: [1], B: [2]}), entry("k", 2, {A: [1]})
    state = folded(commit(0, old), commit(0, new, removed=(old,)))
    assert list(state.ledger) == [new]
    assert (state.ledger.owners(A), state.ledger.owners(B)) == ([new], [])
    assert state.ledger.latest("bucket", "k") == new
    assert (state.ledger.was_removed(old.id), state.ledger.was_removed(new.id)) == (True, False)


def test_a_version_that_returns_after_it_was_replaced_is_in_again() -> None:
    first, second = entry("k", 1, {A: [1]}), entry("k", 2, {A: [1]})
    state = folded(commit(0, first), commit(0, second, removed=(first,)), commit(0, first, removed=(second,)))
    assert list(state.ledger) == [first]
    assert state.ledger.owners(A) == [first]


def test_flips_are_kept_for_the_generations_that_may_still_be_read() -> None:
    moments = [WHEN + timedelta(minutes=n) for n in range(8)]
    state = folded(*(commit(0, partitions={A: change(1, n, moments[n])}) for n in range(8)))
    kept = state.partition(A).flips
    # The commit to generation n + 1 tells since when generation n was visible.
    assert kept == {g: moments[g + 1] for g in (4, 5, 6)}


def test_the_first_known_time_of_a_flip_counts() -> None:
    later = WHEN + timedelta(hours=1)
    state = folded(
        commit(0, partitions={A: change(1)}),
        commit(0, partitions={A: change(2, 0, WHEN)}),
        commit(0, partitions={A: change(3, 0, later)}),
    )
    assert state.partition(A).flips == {0: WHEN}


def test_commits_behind_the_published_number_are_not_known_to_be_published() -> None:
    state = folded(commit(0, partitions={A: change(1)}), commit(0, partitions={B: change(1)}, published=1))
    assert [p.path for p in state.unpublished()] == [B]
    state.apply(3, commit(0, published=0))
    assert [p.path for p in state.unpublished()] == [B]


def test_a_grant_is_held_until_its_commit() -> None:
    state = folded(grant(A, B))
    assert {path: held.token for path, held in state.held.items()} == {A: 1, B: 1}
    state.apply(2, commit(1))
    assert state.held == {}


def test_a_release_gives_every_partition_of_its_grant_back_and_no_other() -> None:
    state = folded(grant(A, B), grant("cycle=3"), Release("t", WHEN, 1))
    assert set(state.held) == {"cycle=3"}


def test_a_later_grant_takes_over_just_the_partitions_it_names() -> None:
    state = folded(grant(A, B), grant(B, owner="other"))
    assert (state.held[A].token, state.held[B].token) == (1, 2)
    state.apply(3, Release("t", WHEN, 1))
    assert set(state.held) == {B}


def test_a_grant_of_everything_takes_over_all_partitions_those_to_come_included() -> None:
    state = folded(grant(A, B), grant(EVERYTHING, owner="other"))
    assert {path: held.token for path, held in state.held.items()} == {EVERYTHING: 2}
    assert [h.token for h in state.holders(["cycle=3"])] == [2]
    assert state.holds(2, [EVERYTHING])
    assert not state.holds(1, [A, B])


def test_a_later_grant_of_a_partition_takes_everything_over() -> None:
    state = folded(grant(EVERYTHING), grant(B, owner="other"))
    assert {path: held.token for path, held in state.held.items()} == {B: 2}
    assert not state.holds(1, [EVERYTHING])


def test_a_grant_of_everything_meets_each_holder_once() -> None:
    state = folded(grant(A, B), grant("cycle=3"))
    assert [h.token for h in state.holders([EVERYTHING])] == [1, 2]
    assert [h.token for h in state.holders([A, B])] == [1]
    assert state.holders(["cycle=4"]) == []


@pytest.mark.parametrize(
    ("mine", "paths", "expected"),
    [
        ((A,), {A}, True),
        ((A,), {B}, False),
        ((EVERYTHING,), {A}, True),
        ((A,), {EVERYTHING}, True),
        ((A, B), {B}, True),
    ],
)
def test_a_grant_covers_what_it_has_in_common(mine: tuple[str, ...], paths: set[str], expected: bool) -> None:
    assert grant(*mine).covers(paths) is expected


def test_a_new_configuration_makes_every_partition_newer() -> None:
    state = folded(commit(0, partitions={A: change(3), B: change(4)}, published=1))
    assert (state.config, state.configured) == ("t", 0)
    state.apply(2, Commit("u", WHEN, 0, {}, config="u", operation="attributes"))
    assert (state.config, state.configured) == ("u", 2)
    assert {p.path: (p.rows, p.commit) for p in state.unpublished()} == {A: (3, 2), B: (4, 2)}


def test_a_dropped_partition_loses_its_granules_shares_and_counts_its_generations_on() -> None:
    one, both = entry("k", 1, {A: [1]}), entry("l", 1, {A: [1], B: [2]})
    state = folded(
        commit(0, one, both, partitions={A: change(2), B: change(1)}),
        Commit("d", WHEN, 0, {A: change(0, 1)}, operation="drop", dropped=(A,)),
    )
    assert (state.partition(A).rows, state.partition(A).generation, state.partition(A).dropped) == (0, 1, 2)
    assert state.partition(B).dropped == -1
    assert (state.ledger.owners(A), state.ledger.owners(B)) == ([], [both])
    assert (state.ledger.count(A), state.ledger.count(B)) == (0, 1)
    assert one.id in state.ledger
    assert len(state.ledger) == 2


def test_a_renewal_is_a_sign_of_life_of_its_own_grant_only() -> None:
    state = folded(grant(A, B), grant("cycle=3"), Renewal("t", WHEN, 1))
    assert {path: held.alive for path, held in state.held.items()} == {A: 3, B: 3, "cycle=3": 2}


def test_a_renewal_by_a_fenced_grant_revives_nothing() -> None:
    state = folded(grant(A), grant(A, owner="other"), Renewal("t", WHEN, 1))
    assert (state.held[A].token, state.held[A].alive) == (2, 2)


# Taking over.


def test_a_grant_may_be_taken_over_when_its_observer_saw_no_sign_of_life_for_its_time() -> None:
    clock = FakeClock()
    watch = GrantWatch(clock, "me", "s1")
    state = folded(grant(A, owner="other"))
    clock.advance(3600)
    assert watch.remaining(state.held[A]) == 60.0
    clock.advance(59)
    assert watch.remaining(state.held[A]) == pytest.approx(1.0)
    clock.advance(2)
    assert watch.remaining(state.held[A]) == 0.0


def test_a_sign_of_life_starts_the_time_anew() -> None:
    clock = FakeClock()
    watch = GrantWatch(clock, "me", "s1")
    state = folded(grant(A, owner="other"))
    watch.remaining(state.held[A])
    clock.advance(59)
    state.apply(2, Renewal("t", WHEN, 1))
    assert watch.remaining(state.held[A]) == 60.0


def test_a_grant_of_an_earlier_run_of_the_same_owner_is_taken_over_at_once() -> None:
    watch = GrantWatch(FakeClock(), "me", "s2")
    state = folded(grant(A, owner="me", session="s1"), grant(B, owner="me", session="s2"))
    assert watch.remaining(state.held[A]) == 0.0
    assert watch.remaining(state.held[B]) == 60.0


def test_what_is_known_of_ended_grants_is_forgotten() -> None:
    clock = FakeClock()
    watch = GrantWatch(clock, "me", "s1")
    state = folded(grant(A, owner="other"), grant(B, owner="other"))
    for held in state.held.values():
        watch.remaining(held)
    state.apply(3, Release("t", WHEN, 1))
    watch.forget_ended(state)
    assert set(watch._seen) == {2}


# Being taken over.


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def logged(store: MemoryStore, *records: Record) -> CommitLog:
    log = CommitLog(store)
    for number, record in enumerate([CREATION, *records]):
        log.append(number, record)
    return log


@pytest.mark.parametrize(
    "ending",
    [
        grant(A, owner="other"),
        grant(B, A, owner="other"),
        grant(EVERYTHING, owner="other"),
        commit(1, partitions={A: change(1)}),
        commit(1),
        Release("t", WHEN, 1),
    ],
    ids=lambda record: f"{record.kind} {getattr(record, 'partitions', '')}",
)
def test_a_writer_is_fenced_by_what_ends_its_grant_and_stays_fenced(store: MemoryStore, ending: Record) -> None:
    log = logged(store, grant(A))
    check = GrantCheck(log, 1, [A])
    check()
    log.append(2, Renewal("t", WHEN, 1))
    check()
    log.append(3, ending)
    log.append(4, Renewal("t", WHEN, 1))
    for _ in range(2):
        with pytest.raises(FencedError, match=r"grant 1 of cycle=1 ended with record 3"):
            check()


def test_a_writer_is_fenced_when_its_grant_was_trimmed(store: MemoryStore) -> None:
    log = logged(store, grant(A), *(Renewal("t", WHEN, 7) for _ in range(4)))
    check = GrantCheck(log, 1, [A])
    check()
    for number in range(2):
        store.delete(record_key(number))
    for _ in range(2):
        with pytest.raises(FencedError, match=r"grant 1 of cycle=1 is so old that the log was trimmed"):
            check()


def test_a_writer_is_fenced_when_the_record_that_ended_its_grant_was_trimmed_too(store: MemoryStore) -> None:
    log = logged(store, grant(A), grant(A, owner="other"), *(Renewal("t", WHEN, 2) for _ in range(4)))
    check = GrantCheck(log, 1, [A])
    for number in range(4):
        store.delete(record_key(number))
    with pytest.raises(FencedError, match="trimmed"):
        check()


@pytest.mark.parametrize(
    "other",
    [
        grant(B, owner="other"),
        commit(7, partitions={B: change(1)}),
        commit(7, entry("k", 1, {B: [1]})),
        Renewal("t", WHEN, 7),
        Release("t", WHEN, 7),
    ],
    ids=lambda record: f"{record.kind}",
)
def test_a_writer_is_not_fenced_by_what_happens_elsewhere(store: MemoryStore, other: Record) -> None:
    log = logged(store, grant(A), other)
    GrantCheck(log, 1, [A])()
    assert not (isinstance(other, Grant) and other.covers({A}))


def test_a_check_costs_two_requests_while_nothing_happens(store: MemoryStore) -> None:
    logged(store, grant(A), grant(B, owner="other"))
    counting = CountingStore(store)
    check = GrantCheck(CommitLog(counting), 1, [A])
    check()
    counting.reset()
    check()
    assert counting.log == (("get", record_key(3)), ("head", record_key(1)))
