"""Checkpoints: the same state as the log's, in a few objects that are read when they are needed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import FakeClock, entry, heights, small_schema
from tests.ledger_support import PATHS, WHEN, Step, any_step, folded, records_of, table_of, write_log
from zcollection_engine import create_collection, open_collection
from zcollection_engine.commits.checkpoints import Checkpoints, checkpoint_key
from zcollection_engine.commits.log import CHECKPOINTS, CommitLog
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.pieces import LEDGER, packed, unpacked
from zcollection_engine.commits.records import Commit, Creation, PartitionChange, Record
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.commits.tables import LedgerTables
from zcollection_engine.errors import FormatError, NotFoundError, SnapshotExpiredError
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore
from zcollection_engine.transaction import WriterOptions

A = PATHS[0]


@pytest.fixture
def store() -> Iterator[CountingStore]:
    memory = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield CountingStore(memory)
    memory.clear()


def facts(state: CollectionState) -> dict[str, Any]:
    """A state in plain values, without where it was read from."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__ if name not in ("ledger", "checkpoint")}
    return {**fields, "ledger": table_of(state.ledger)}


@settings(max_examples=150)
@given(st.lists(any_step, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_a_checkpoint_and_the_records_behind_it_give_the_state_of_the_whole_log(
    steps: list[Step], moments: list[int]
) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    records = records_of(steps)
    write_log(store, records)
    checkpoints = Checkpoints(store)
    # Each checkpoint stands on the one before it, as they do when one writer lives, or reads it again.
    for number in sorted({m % len(records) for m in moments}):
        earlier = checkpoints.numbers()
        state = checkpoints.load(earlier[-1]) if earlier else CollectionState()
        state.apply_all(list(enumerate(records))[state.number + 1 : number + 1])
        checkpoints.write(state)
        assert facts(state) == facts(folded(records[: number + 1]))
    for number in checkpoints.numbers():
        assert facts(checkpoints.load(number)) == facts(folded(records[: number + 1]))
    loaded = load_state(store)
    assert facts(loaded) == facts(folded(records))
    assert loaded.checkpoint == max(checkpoints.numbers(), default=-1)
    store.clear()


def filled(*commits: Commit) -> CollectionState:
    return folded([Creation("first", WHEN), *commits])


def commit(*granules: Any, rows: int = 1, path: str = A) -> Commit:
    return Commit(uuid.uuid4().hex, WHEN, 0, {path: PartitionChange(rows, 0, (0, rows))}, granules)


def test_keys_of_checkpoints_sort_as_numbers_and_are_found_by_one_list(store: CountingStore) -> None:
    assert checkpoint_key(7) == ".zcommits/checkpoints/00000000000000000007.json.gz"
    state = filled()
    for number in (0, 9, 10, 100):
        Checkpoints(store).write(replace(state, number=number))
    for name in ("x.json.gz", "5.json.gz", f"{11:020d}.json", f"{12:020d}.json.gz.part"):
        store.create(f"{CHECKPOINTS}{name}", b"")
    store.reset()
    assert Checkpoints(store).numbers() == [0, 9, 10, 100]
    assert store.requests == {"list": 1}


def test_a_checkpoint_without_granules_in_it_still_knows_those_that_left(store: CountingStore) -> None:
    one = entry("k", 1, {A: [1]})
    state = filled(commit(one), Commit("t", WHEN, 0, {A: PartitionChange(0, 1, None)}, removed=(one,)))
    checkpoints = Checkpoints(store)
    checkpoints.write(state)
    for _ in range(2):
        state = checkpoints.load(state.number)
        assert len(state.ledger) == 0
        assert state.ledger.was_removed(one.id)
        state.apply(state.number + 1, Commit("t", WHEN, 0, {}))
        checkpoints.write(state)


def test_a_state_stands_on_the_checkpoint_it_wrote(store: CountingStore) -> None:
    one = entry("k", 1, {A: [1]})
    state = filled(commit(one))
    Checkpoints(store).write(state)
    assert (state.checkpoint, state.number) == (1, 1)
    assert not state.ledger.added
    store.reset()
    assert state.ledger.get(one.id) == one
    assert store.requests == {"get": 1}  # the index is known; the table is read


def test_writing_creates_the_checkpoint_last_and_replaces_nothing(store: CountingStore) -> None:
    state = filled(commit(entry("k", 1, {p: [1] for p in PATHS})))
    Checkpoints(store).write(state)
    *pieces, last, look = store.log
    assert (last, look) == (("create", checkpoint_key(1)), ("list", CHECKPOINTS))
    assert {method for method, _ in pieces} == {"create"}
    assert len(pieces) == len(PATHS) + 1
    assert all(key.startswith(LEDGER) for _, key in pieces)


def test_what_a_checkpoint_writes_follows_what_changed(store: CountingStore) -> None:
    partitions = [f"cycle={n}" for n in range(100)]
    many = [entry(f"k{n}", 1, {partitions[n % 100]: [n]}) for n in range(3000)]
    changes = {path: PartitionChange(1, 0, (0, 1)) for path in partitions}
    state = filled(Commit("t", WHEN, 0, changes, tuple(many)))
    checkpoints = Checkpoints(store)
    checkpoints.write(state)
    first = store.bytes_sent
    state.apply(2, commit(entry("new", 1, {"cycle=5": [9000]}), path="cycle=5"))
    store.reset()
    checkpoints.write(state)
    # A piece of one table, one of the index, the checkpoint; then whether a newer one overtook it.
    assert dict(store.requests) == {"create": 3, "list": 1}
    assert store.bytes_sent < first / 20
    store.reset()
    state.apply(3, Commit("t", WHEN, 0, {}))
    checkpoints.write(state)
    assert dict(store.requests) == {"create": 1, "list": 1}


def test_of_two_writers_of_one_checkpoint_the_first_counts_and_the_second_goes_on(store: CountingStore) -> None:
    records: list[Record] = [Creation("first", WHEN), commit(entry("k", 1, {A: [1]}))]
    write_log(store, records)
    first, second = folded(records), folded(records)
    checkpoints = Checkpoints(store)
    checkpoints.write(first)
    written = store.get(checkpoint_key(1)).data
    checkpoints.write(second)
    assert store.get(checkpoint_key(1)).data == written
    assert facts(first) == facts(second) == facts(load_state(store)) == facts(folded(records))
    assert (first.checkpoint, second.checkpoint) == (1, -1)


def test_a_writer_stands_on_a_newer_checkpoint_that_another_made(store: CountingStore) -> None:
    clock = FakeClock()
    schema, daily = small_schema(), DatePartitioning("time", "day")
    one = create_collection(store, schema, daily, writer=WriterOptions("one", checkpoint_records=1000), clock=clock)
    two = open_collection(store, mode="w", writer=WriterOptions("two"), clock=clock)
    one.insert(heights([1]), granule="a")
    two.refresh().checkpoint()
    store.reset()
    one.checkpoint()
    assert one.state.checkpoint == two.state.checkpoint == 2
    assert "create" not in store.requests
    assert [e.identity.key for e in one.granules()] == ["a"]


def test_a_checkpoint_made_at_the_same_moment_by_another_does_no_harm(store: CountingStore) -> None:
    clock = FakeClock()
    options = WriterOptions("one", checkpoint_records=1000)
    one = create_collection(store, small_schema(), DatePartitioning("time", "day"), writer=options, clock=clock)
    one.insert(heights([1]), granule="a")
    two = open_collection(store, mode="w", writer=WriterOptions("two"), clock=clock)
    overtaking = FaultStore(store, [Fault("create", checkpoint_key(2), before=lambda *_: two.checkpoint())])
    three = open_collection(overtaking, mode="w", writer=WriterOptions("three", checkpoint_records=1000), clock=clock)
    three.checkpoint()
    assert overtaking.untriggered == ()
    three.insert(heights([2]), granule="b")
    three.checkpoint()
    three.insert(heights([3]), granule="c")
    three.checkpoint()
    for collection in (three, open_collection(store)):
        assert sorted(e.identity.key for e in collection.granules()) == ["a", "b", "c"]


def test_checkpoints_are_made_every_so_many_records_on_the_way(store: CountingStore) -> None:
    options = WriterOptions("one", checkpoint_records=4)
    collection = create_collection(
        store, small_schema(), DatePartitioning("time", "day"), writer=options, clock=FakeClock()
    )
    made = []
    for number in range(6):
        collection.insert(heights([number]), granule=f"g{number}")
        made.append(Checkpoints(store).numbers())
    assert made == [[], [4], [4], [4, 8], [4, 8], [4, 8, 12]]
    assert sorted(e.identity.key for e in open_collection(store).granules()) == [f"g{n}" for n in range(6)]


def test_a_checkpoint_that_a_newer_one_overtook_is_taken_back(store: CountingStore) -> None:
    records: list[Record] = [Creation("first", WHEN), commit(entry("k", 1, {A: [1]})), Commit("t", WHEN, 0, {})]
    write_log(store, records)
    slow, quick = folded(records[:2]), folded(records)
    overtaking = FaultStore(
        store, [Fault("create", checkpoint_key(1), before=lambda *_: Checkpoints(store).write(quick))]
    )
    Checkpoints(overtaking).write(slow)
    assert overtaking.untriggered == ()
    assert Checkpoints(store).numbers() == [2]
    assert slow.checkpoint == -1
    assert facts(slow) == facts(folded(records[:2]))
    assert facts(load_state(store)) == facts(folded(records))


# Ten thousand partitions, two hundred thousand granules.

PARTITIONS = 10_000
GRANULES = 200_000


@cache
def day(number: int) -> str:
    date = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=number)
    return f"year={date:%Y}/month={date:%m}/day={date:%d}"


@pytest.fixture(scope="module")
def great() -> Iterator[tuple[MemoryStore, Sequence[Any]]]:
    """A collection as large as missions of twenty years get, at its checkpoint."""
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    create_collection(store, small_schema(), DatePartitioning("time", "day"), clock=FakeClock())
    log = CommitLog(store)
    creation = log.read(0)
    granules = tuple(
        GranuleEntry(GranuleIdentity("bucket", f"g{n}", "e", n), "", (n,), {day(n % PARTITIONS): Share(1, ((n, n),))})
        for n in range(GRANULES)
    )
    changes = {day(n): PartitionChange(20, 0, (n, n + 190_000)) for n in range(PARTITIONS)}
    state = CollectionState()
    state.apply(0, creation)
    state.apply(1, Commit("t", WHEN, 0, changes, granules, published=1))
    log.append(1, Commit("t", WHEN, 0, {}))  # what the record says is read from the checkpoint
    Checkpoints(store).write(state)
    yield store, granules
    store.clear()


def test_opening_a_great_collection_costs_a_handful_of_requests_and_not_its_index(
    great: tuple[MemoryStore, Sequence[Any]],
) -> None:
    store = CountingStore(great[0])
    reader = open_collection(store)
    assert [method for method, _ in store.log] == ["list", "get", "get", "head", "get"]
    assert not any(key.startswith(LEDGER) for _, key in store.log)
    assert len(reader.state.ledger) == GRANULES
    assert len(reader.partitions()) == PARTITIONS
    assert sum(p.granules for p in reader.partitions()) == GRANULES
    assert len(store.log) == 5
    assert store.bytes_received < 1_500_000


def test_a_lookup_in_a_great_collection_reads_the_index_once_and_one_table(
    great: tuple[MemoryStore, Sequence[Any]],
) -> None:
    memory, granules = great
    store = CountingStore(memory)
    ledger = open_collection(store).state.ledger
    store.reset()
    assert [e.identity.key for e in ledger.owners(day(77))] == [f"g{n}" for n in range(77, GRANULES, PARTITIONS)]
    assert store.requests == {"get": 1}  # who owns a partition is told by its table alone
    store.reset()
    assert ledger.latest("bucket", "g12345") == granules[12345]
    assert store.requests == {"get": 2}
    assert ledger.get(granules[22345].id) == granules[22345]
    assert ledger.latest("bucket", "unknown") is None
    assert 12345 not in ledger
    assert store.requests == {"get": 2}
    assert ledger.get(granules[1].id) == granules[1]
    assert store.requests == {"get": 3}
    assert isinstance(ledger.base, LedgerTables)


# Damage.


@pytest.fixture
def checkpointed(store: CountingStore) -> CollectionState:
    records: list[Record] = [Creation("first", WHEN), commit(entry("k", 1, {A: [1]}))]
    write_log(store, records)
    state = folded(records)
    Checkpoints(store).write(state)
    return state


def overwrite(store: CountingStore, key: str, data: bytes) -> None:
    store.delete(key)
    store.create(key, data)


MEMBERS = ("number", "collection", "config", "configured", "last_commit", "last_time", "published", "held")


@pytest.mark.parametrize("member", [*MEMBERS, "partitions", "granules", "index", "tables"])
def test_a_checkpoint_that_lacks_a_member_is_damaged(
    store: CountingStore, checkpointed: CollectionState, member: str
) -> None:
    key = checkpoint_key(1)
    body = json.loads(unpacked(store.get(key).data, name=key))
    del body[member]
    overwrite(store, key, packed(body))
    with pytest.raises(FormatError, match=f"{store.url}/{key}"):
        load_state(store)


@pytest.mark.parametrize(
    "change",
    [
        {"partitions": 5},
        {"partitions": [["cycle=1", 1]]},
        {"partitions": ["cycle=1"]},
        {"held": [{}]},
        {"held": ["x"]},
        {"held": [{"token": 1, "alive": 1, "partitions": [], "grant": {"owner": "me"}}]},
        {"collection": {}},
        {"collection": None},
        {"last_time": "yesterday"},
        {"last_time": 5},
        {"tables": [["cycle=1"]]},
        {"tables": {"a": 1}},
        {"tables": [["cycle=1", 1, -1, [["x"]]]]},
        {"index": 5},
    ],
    ids=json.dumps,
)
def test_a_checkpoint_with_a_member_of_another_kind_is_damaged(
    store: CountingStore, checkpointed: CollectionState, change: dict[str, Any]
) -> None:
    key = checkpoint_key(1)
    body = json.loads(unpacked(store.get(key).data, name=key))
    overwrite(store, key, packed({**body, **change}))
    with pytest.raises(FormatError, match=f"{store.url}/{key}"):
        load_state(store)


@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_a_checkpoint_that_was_cut_short_is_damaged(
    store: CountingStore, checkpointed: CollectionState, cut: int
) -> None:
    key = checkpoint_key(1)
    overwrite(store, key, store.get(key).data[:cut])
    with pytest.raises(FormatError, match=f"{store.url}/{key}"):
        load_state(store)
    with pytest.raises(FormatError, match=f"{store.url}/{key}"):
        Checkpoints(store).references(1)


def test_references_of_a_checkpoint_with_other_members_are_damaged(
    store: CountingStore, checkpointed: CollectionState
) -> None:
    key = checkpoint_key(1)
    overwrite(store, key, packed({"format_version": 1}))
    with pytest.raises(FormatError, match=f"{store.url}/{key}"):
        Checkpoints(store).references(1)


def test_a_checkpoint_of_a_newer_format_is_refused(store: CountingStore, checkpointed: CollectionState) -> None:
    key = checkpoint_key(1)
    body = json.loads(unpacked(store.get(key).data, name=key))
    overwrite(store, key, packed({**body, "format_version": 2}))
    with pytest.raises(FormatError, match=r"has format version 2; .*newer"):
        load_state(store)


def test_a_damaged_index_or_table_is_reported_when_it_is_needed(
    store: CountingStore, checkpointed: CollectionState
) -> None:
    for info in list(store.list(LEDGER)):
        overwrite(store, info.key, b"")
    state = load_state(store)
    with pytest.raises(FormatError, match=r"ledger/.*\.json\.gz"):
        state.ledger.owners(A)
    with pytest.raises(FormatError, match=r"ledger/.*\.npy"):
        state.ledger.latest("bucket", "k")


def test_pieces_that_were_collected_ask_for_a_refresh(store: CountingStore, checkpointed: CollectionState) -> None:
    state = load_state(store)
    for info in list(store.list(LEDGER)):
        store.delete(info.key)
    for lookup in (lambda: state.ledger.owners(A), lambda: state.ledger.get(1), lambda: list(state.ledger)):
        with pytest.raises(SnapshotExpiredError, match="refresh"):
            lookup()


def test_a_checkpoint_that_is_not_there_is_not_found(store: CountingStore) -> None:
    for read in (Checkpoints(store).load, Checkpoints(store).references):
        with pytest.raises(NotFoundError):
            read(3)


def test_a_log_without_its_first_record_has_no_checkpoint(store: CountingStore) -> None:
    with pytest.raises(FormatError, match="first record"):
        Checkpoints(store).write(CollectionState())
    assert list(store.list()) == []
