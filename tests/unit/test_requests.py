"""The cost of an append in requests: it does not grow with the partition."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import DAY_16, START, FakeClock, heights, small_schema
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Commit, PartitionChange, Renewal
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore
from zcollection_engine.transaction import Offer, WriterOptions

CHUNK = 4
EXTRA = tuple(Variable(f"v{n:02d}", "<i4", ("time",), (CHUNK,), 2**31 - 1) for n in range(19))

#: The 21 variables of a granule, and the origin of each row.
ARRAYS = 22

#: The last chunk of each array holds two rows.
FILLED = 2


@pytest.fixture
def store() -> Iterator[CountingStore]:
    memory = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield CountingStore(memory)
    memory.clear()


def schema() -> Schema:
    found = small_schema(chunk_rows=CHUNK, extra=EXTRA)
    assert len(found.row_variables) == ARRAYS
    return found


def granule(first: int, rows: int) -> xr.Dataset:
    values = np.arange(first, first + rows, dtype=np.int32)
    return heights(values).assign({v.path: ("time", values, {"_FillValue": 2**31 - 1}) for v in EXTRA})


def with_chunks(store: CountingStore, chunks: int, *, eager_arrays: bool) -> Collection:
    """A collection of one partition with so many chunks an array, opened by a process that appended once."""
    create_collection(store, schema(), DatePartitioning("time", "day"), clock=FakeClock()).insert(
        granule(0, 2 * CHUNK + FILLED)
    )
    rows = CHUNK * (chunks - 1) + FILLED
    for variable in schema().row_variables:
        folder = f"{DAY_16}/{variable.path}/c"
        full, tail = (store.get(f"{folder}/{n}").data for n in (0, 2))
        for number in range(3, chunks - 1):
            store.create(f"{folder}/{number}", full)
        if chunks > 3:
            store.delete(f"{folder}/2")
            store.create(f"{folder}/2", full)
            store.create(f"{folder}/{chunks - 1}", tail)
    log = CommitLog(store)
    (*_, (last, _)) = log.follow(-1)
    change = PartitionChange(rows, 0, (START, START + 10**9 * (2 * CHUNK + FILLED - 1)))
    log.append(last + 1, Commit("more chunks", datetime(2024, 1, 1, tzinfo=UTC), 0, {DAY_16: change}, ()))
    options = WriterOptions(owner="counting", eager_arrays=eager_arrays)
    collection = open_collection(store, mode="w", writer=options, clock=FakeClock())
    collection.insert(granule(100, CHUNK))  # again two rows in the last chunk
    assert sum(1 for info in store.list(f"{DAY_16}/height/c/")) == chunks + 1
    return collection


def cost(store: CountingStore, collection: Collection, first: int, rows: int) -> dict[str, int]:
    before = collection.partitions()[0].rows
    store.reset()
    collection.insert(granule(first, rows))
    counted = dict(store.requests)
    (partition,) = collection.partitions()
    assert (partition.rows, partition.generation) == (before + rows, 0)
    return counted


@pytest.mark.parametrize("chunks", [3, 1200])
def test_an_append_costs_the_same_whether_3_or_1200_chunks_are_there(store: CountingStore, chunks: int) -> None:
    collection = with_chunks(store, chunks, eager_arrays=False)
    within = cost(store, collection, 200, CHUNK - FILLED)
    assert within == {
        "get": ARRAYS + 3,  # the last chunks; the end of the log before the grant, behind the ETags, before the commit
        "head": 3,  # what stands before the grant and before the commit; the grant itself, behind the ETags
        "replace": ARRAYS + 2,  # the last chunks; the documents of the partition and of the root
        "create": 2,  # grant and commit
        "exclusive": 1,  # no request on an object store
        "flush": 1,  # no request on an object store
    }
    assert sum(within.values()) <= 60
    fresh = cost(store, collection, 300, FILLED)
    assert fresh == {"get": 3, "head": 3, "replace": 2, "create": ARRAYS + 2, "exclusive": 1, "flush": 1}
    across = cost(store, collection, 400, CHUNK)
    assert across == {
        "get": ARRAYS + 3,
        "head": 3,
        "replace": ARRAYS + 2,
        "create": ARRAYS + 2,
        "exclusive": 1,
        "flush": 1,
    }


@pytest.mark.parametrize("chunks", [3, 1200])
def test_documents_of_single_arrays_cost_one_more_request_each_when_published_at_once(
    store: CountingStore, chunks: int
) -> None:
    collection = with_chunks(store, chunks, eager_arrays=True)
    assert cost(store, collection, 200, CHUNK - FILLED) == {
        "get": ARRAYS + 3,
        "head": 3,
        "replace": 2 * ARRAYS + 2,
        "create": 2,
        "exclusive": 1,
        "flush": 1,
    }


@pytest.mark.parametrize("chunks", [3, 1200])
def test_an_append_moves_no_more_bytes_than_its_chunks_and_documents(store: CountingStore, chunks: int) -> None:
    collection = with_chunks(store, chunks, eager_arrays=False)
    cost(store, collection, 200, CHUNK - FILLED)
    chunk_keys = [key for method, key in store.log if method == "replace" and key.startswith(f"{DAY_16}/v")]
    assert len(chunk_keys) == len(EXTRA)
    assert store.bytes_received < ARRAYS * 200
    assert store.bytes_sent < 40_000
    found = collection.load(decode=False)
    assert found["v00"].values[-2:].tolist() == [200, 201]


def test_opening_for_reading_costs_one_list_and_about_one_request_a_record(store: CountingStore) -> None:
    collection = with_chunks(store, 3, eager_arrays=False)
    store.reset()
    open_collection(store, clock=FakeClock())
    assert collection.state.number + 1 == 6
    # Records are read ahead, 1, 1, 2 and 4 at a time; then the first one is looked at, and the configuration read.
    assert store.requests == {"list": 1, "get": (1 + 1 + 2 + 4) + 1, "head": 1}


@pytest.mark.parametrize(("behind", "reads"), [(0, 1), (1, 2), (2, 4), (6, 8)])
def test_opening_for_reading_costs_the_checkpoint_and_the_records_behind_it(
    store: CountingStore, behind: int, reads: int
) -> None:
    collection = with_chunks(store, 3, eager_arrays=False)
    collection.checkpoint()
    log = CommitLog(store)
    for number in range(collection.state.number + 1, collection.state.number + 1 + behind):
        log.append(number, Renewal("t", datetime(2024, 1, 1, tzinfo=UTC), 1))
    store.reset()
    reader = open_collection(store, clock=FakeClock())
    # The list finds the checkpoint; the record it stands on is looked at behind the end.
    assert store.requests == {"list": 1, "get": 1 + reads + 1, "head": 1}
    assert reader.state.checkpoint == collection.state.number
    assert reader.state.number == collection.state.number + behind


def test_opening_for_writing_also_looks_at_what_the_last_commit_published(store: CountingStore) -> None:
    collection = with_chunks(store, 3, eager_arrays=True)
    collection.insert(granule(200, 1))
    collection.checkpoint()
    store.reset()
    open_collection(store, mode="w", writer=WriterOptions(owner="counting"), clock=FakeClock())
    documents = ARRAYS + 3  # the last commit's partition, its arrays; the root, the configuration
    assert store.requests == {
        "list": 1,
        "head": 1,
        "get": 1 + 1 + 1 + 1 + documents,  # checkpoint, end of the log, configuration, end of the log again
        "create": documents + 2,  # finds what is there, with the groups above the partition
    }


def test_a_refresh_of_a_reader_costs_two_requests_while_nothing_happens(store: CountingStore) -> None:
    with_chunks(store, 3, eager_arrays=False)
    reader = open_collection(store, clock=FakeClock())
    store.reset()
    reader.refresh()
    assert store.requests == {"get": 1, "head": 1}


def test_a_granule_that_is_known_costs_one_request(store: CountingStore) -> None:
    collection = with_chunks(store, 3, eager_arrays=False)
    (entry, *_) = collection.granules()
    store.reset()
    assert collection.commit_offers([Offer(entry, None)]).commit is None
    assert store.requests == {"get": 1}


def test_a_known_granule_of_a_checkpoint_costs_its_table_once_and_then_one_request(store: CountingStore) -> None:
    collection = with_chunks(store, 3, eager_arrays=False)
    (entry, *_) = collection.granules()
    collection.checkpoint()
    reopened = open_collection(store, mode="w", writer=WriterOptions(owner="counting"), clock=FakeClock())
    store.reset()
    assert reopened.commit_offers([Offer(entry, None)]).commit is None
    assert store.requests == {"get": 1 + 1 + 1}  # the end of the log, the index, the table of one partition
    store.reset()
    assert reopened.commit_offers([Offer(entry, None)]).commit is None
    assert store.requests == {"get": 1}
