"""Chunks through conditional writes: a stray writer meets a closed door, a reader no hole."""

from __future__ import annotations

import pickle
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Zstd

from tests.engine_support import small_schema
from zcollection_engine.errors import (
    FencedError,
    NotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    SnapshotExpiredError,
    StorageError,
)
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, attempt_frame, open_variable
from zcollection_engine.layout.documents import Version, render
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore

KEY = "day=1/height/c/0"


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


class Check:
    """A grant that can be lost; remembers how far the requests had come whenever it was asked."""

    def __init__(self, requests: CountingStore | None = None) -> None:
        self.lost = False
        self.calls: list[int] = []
        self._requests = requests

    def __call__(self) -> None:
        self.calls.append(len(self._requests.log) if self._requests else 0)
        if self.lost:
            raise FencedError("taken over")


def writer_on(store: Any, check: Check | None = None) -> ChunkWriter:
    return ChunkWriter(store, uuid.uuid4(), check or Check())


# The writer.


def test_an_absent_chunk_is_created_and_then_replaced_by_the_same_writer(store: MemoryStore) -> None:
    counting = CountingStore(store)
    writer = writer_on(counting)
    writer.write(KEY, b"one")
    writer.write(KEY, b"two")
    assert store.get(KEY).data.startswith(b"two")
    assert counting.log == (("create", KEY), ("replace", KEY))


def test_an_observed_chunk_is_replaced(store: MemoryStore) -> None:
    etag = store.create(KEY, b"old")
    counting = CountingStore(store)
    check = Check(counting)
    writer = writer_on(counting, check)
    writer.observe({KEY: etag})
    writer.write(KEY, b"new")
    assert store.get(KEY).data.startswith(b"new")
    assert counting.log == (("replace", KEY),)
    assert check.calls == [0]


def test_a_chunk_that_changed_since_it_was_observed_is_left_alone(store: MemoryStore) -> None:
    etag = store.create(KEY, b"old")
    writer = writer_on(store)
    writer.observe({KEY: etag})
    store.replace(KEY, b"successor", etag)
    with pytest.raises(PreconditionFailedError):
        writer.write(KEY, b"stray")
    assert store.get(KEY).data == b"successor"


def test_a_chunk_that_changed_behind_its_own_writer_is_left_alone(store: MemoryStore) -> None:
    writer = writer_on(store)
    writer.write(KEY, b"mine")
    store.replace(KEY, b"successor", store.head(KEY).etag)
    with pytest.raises(PreconditionFailedError):
        writer.write(KEY, b"stray")
    assert store.get(KEY).data == b"successor"


def test_a_leftover_of_a_dead_attempt_is_replaced_after_a_check_made_behind_its_etag(store: MemoryStore) -> None:
    store.create(KEY, b"leftover")
    counting = CountingStore(store)
    check = Check(counting)
    writer_on(counting, check).write(KEY, b"new")
    assert store.get(KEY).data.startswith(b"new")
    assert [method for method, _ in counting.log] == ["create", "get", "replace"]
    assert check.calls == [2]  # after the GET, before the replacement


def test_a_fenced_writer_that_meets_its_successors_chunk_stops(store: MemoryStore) -> None:
    store.create(KEY, b"successor")
    check = Check()
    check.lost = True
    with pytest.raises(FencedError):
        writer_on(store, check).write(KEY, b"stray")
    assert store.get(KEY).data == b"successor"


def test_a_writer_that_is_overtaken_between_check_and_replacement_damages_nothing(store: MemoryStore) -> None:
    etag = store.create(KEY, b"leftover")

    def successor(_method: str, _key: str) -> None:
        store.replace(KEY, b"successor", etag)

    overtaken = FaultStore(store, [Fault("replace", before=successor)])
    with pytest.raises(PreconditionFailedError):
        writer_on(overtaken).write(KEY, b"stray")
    assert store.get(KEY).data == b"successor"


def test_a_fenced_writer_is_told_when_it_observes(store: MemoryStore) -> None:
    check = Check()
    check.lost = True
    with pytest.raises(FencedError):
        writer_on(store, check).observe({})


@pytest.mark.parametrize("method", ["create", "replace"])
def test_a_request_repeated_on_the_way_fails_on_its_own_success_and_counts_as_done(
    store: MemoryStore, method: str
) -> None:
    def arrived_before(_method: str, key: str) -> None:
        if method == "create":
            writer_on_twin.write(key, b"data")
        else:
            store.replace(key, b"data" + attempt_frame(attempt), store.head(key).etag)

    attempt = uuid.uuid4()
    writer_on_twin = ChunkWriter(store, attempt, Check())
    doubled = FaultStore(store, [Fault(method, before=arrived_before)])  # type: ignore[arg-type]
    writer = ChunkWriter(doubled, attempt, Check())
    if method == "replace":
        writer.write(KEY, b"first")
    writer.write(KEY, b"data")
    assert not doubled.untriggered
    writer.write(KEY, b"next")
    assert store.get(KEY).data == b"next" + attempt_frame(attempt)


@pytest.mark.parametrize("state", ["observed", "leftover"])
def test_a_chunk_that_vanishes_while_it_is_replaced_is_reported_as_a_conflict(store: MemoryStore, state: str) -> None:
    etag = store.create(KEY, b"old")
    vanishing = FaultStore(store, [Fault("replace", before=lambda _method, key: store.delete(key))])
    writer = writer_on(vanishing)
    if state == "observed":
        writer.observe({KEY: etag})
    with pytest.raises(PreconditionFailedError):
        writer.write(KEY, b"new")


def test_a_storage_failure_reaches_the_caller(store: MemoryStore) -> None:
    def fail(_method: str, _key: str) -> None:
        raise StorageError("no answer")

    with pytest.raises(StorageError):
        writer_on(FaultStore(store, [Fault("create", before=fail)])).write(KEY, b"x")


# The frame.


def test_the_frame_is_a_skippable_frame_of_zstd_that_holds_the_attempt() -> None:
    attempt = uuid.uuid4()
    frame = attempt_frame(attempt)
    magic, length = struct.unpack("<II", frame[:8])
    assert (len(frame), length, frame[8:]) == (24, 16, attempt.bytes)
    assert 0x184D2A50 <= magic <= 0x184D2A5F


def test_zstd_passes_over_the_frame() -> None:
    data = np.arange(1000).tobytes()
    packed = bytes(Zstd(level=3).encode(data))
    assert bytes(Zstd().decode(packed + attempt_frame(uuid.uuid4()))) == data


def rows_on(store: Any, rows: int, *, writer: ChunkWriter | None = None, generation: int = 0) -> ChunkStore:
    return ChunkStore(store, "day=1", render(small_schema(), Version(1, generation, rows)), writer)


def plain_group(store: MemoryStore, rows: int) -> zarr.Group:
    """The partition as plain zarr sees it: documents and chunks in a dictionary."""
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    objects = {path: make(body) for path, body in render(small_schema(), Version(1, 0, rows)).items()}
    objects |= {i.key.removeprefix("day=1/"): make(store.get(i.key).data) for i in store.list("day=1/")}
    return zarr.open_group(zarr.storage.MemoryStore(objects), mode="r")


def test_the_same_rows_written_twice_give_other_bytes_and_the_same_values(store: MemoryStore) -> None:
    values = np.arange(12, dtype=np.int32)
    found = []
    for _ in range(2):
        target = rows_on(store, 12, writer=writer_on(store))
        open_variable(target, "height")[:] = values
        found.append(store.get(KEY).data)
        np.testing.assert_array_equal(plain_group(store, 12)["height"][:], values)
        np.testing.assert_array_equal(open_variable(rows_on(store, 12), "height")[:], values)
    assert found[0] != found[1]
    assert found[0][:-24] == found[1][:-24]


def test_a_chunk_is_never_framed_twice_when_it_is_partly_rewritten(store: MemoryStore) -> None:
    open_variable(rows_on(store, 5, writer=writer_on(store)), "height")[:] = np.arange(5)
    for end in (6, 7, 8):
        target = rows_on(store, end, writer=writer_on(store))
        target.prefetch(["height/c/0"])
        open_variable(target, "height")[end - 1 : end] = end - 1
    data = store.get(KEY).data
    assert data.count(struct.pack("<II", 0x184D2A5E, 16)) == 1
    np.testing.assert_array_equal(open_variable(rows_on(store, 8), "height")[:], np.arange(8))


# The store.


def test_every_chunk_inside_the_shape_is_written_those_of_fill_values_too(store: MemoryStore) -> None:
    target = rows_on(store, 20, writer=writer_on(store))
    open_variable(target, "height")[:] = np.full(20, 2**31 - 1)
    assert [i.key for i in store.list("day=1/")] == [f"day=1/height/c/{n}" for n in range(3)]


def test_etags_are_taken_then_the_grant_is_checked_then_the_first_chunk_is_written(store: MemoryStore) -> None:
    for name in ("height", "time"):
        open_variable(rows_on(store, 13, writer=writer_on(store)), name)[:] = np.arange(13)
    counting = CountingStore(store)
    check = Check(counting)
    target = rows_on(counting, 15, writer=writer_on(counting, check))
    target.prefetch(["height/c/1", "time/c/1"])
    assert sorted(counting.log) == [("get", "day=1/height/c/1"), ("get", "day=1/time/c/1")]
    for name in ("height", "time"):
        open_variable(target, name)[13:15] = [13, 14]
    assert check.calls == [2]
    assert sorted(counting.log[2:]) == [("replace", "day=1/height/c/1"), ("replace", "day=1/time/c/1")]
    for name in ("height", "time"):
        np.testing.assert_array_equal(open_variable(rows_on(store, 15), name)[:], np.arange(15))


def test_a_prefetch_by_a_fenced_writer_stops_it(store: MemoryStore) -> None:
    open_variable(rows_on(store, 5, writer=writer_on(store)), "height")[:] = np.arange(5)
    before = store.get(KEY)
    check = Check()
    check.lost = True
    with pytest.raises(FencedError):
        rows_on(store, 6, writer=writer_on(store, check)).prefetch(["height/c/0"])
    assert store.get(KEY) == before


def test_a_chunk_replaced_after_it_was_prefetched_is_not_overwritten(store: MemoryStore) -> None:
    open_variable(rows_on(store, 5, writer=writer_on(store)), "height")[:] = np.arange(5)
    target = rows_on(store, 6, writer=writer_on(store))
    target.prefetch(["height/c/0"])
    successor = rows_on(store, 7, writer=writer_on(store))
    successor.prefetch(["height/c/0"])
    open_variable(successor, "height")[5:7] = [50, 60]
    with pytest.raises(PreconditionFailedError):
        open_variable(target, "height")[5:6] = 99
    assert open_variable(rows_on(store, 7), "height")[:].tolist() == [0, 1, 2, 3, 4, 50, 60]


def test_a_missing_chunk_is_an_expired_snapshot_and_no_fill_value(store: MemoryStore) -> None:
    open_variable(rows_on(store, 20, writer=writer_on(store)), "height")[:] = np.arange(20)
    store.delete("day=1/height/c/1")
    array = open_variable(rows_on(store, 20), "height")
    assert array[:8].tolist() == list(range(8))
    with pytest.raises(SnapshotExpiredError, match=r"day=1.*height/c/1"):
        array[:]


def test_a_read_only_store_writes_nothing(store: MemoryStore) -> None:
    reader = rows_on(store, 5)
    with pytest.raises((ReadOnlyError, ValueError)):
        open_variable(reader, "height")[:] = 1
    with pytest.raises(ReadOnlyError):
        reader.prefetch([])
    with pytest.raises(ReadOnlyError):
        reader.with_read_only(False)
    assert list(store.list()) == []


def test_a_store_that_writes_gives_a_reader_of_the_same_chunks(store: MemoryStore) -> None:
    target = rows_on(store, 5, writer=writer_on(store))
    open_variable(target, "height")[:] = np.arange(5)
    reader = target.with_read_only(True)
    assert reader.read_only
    assert reader == target
    assert hash(reader) == hash(target)
    assert open_variable(reader, "height")[:].tolist() == [0, 1, 2, 3, 4]


def test_a_reading_store_travels_to_other_processes_and_a_writing_one_does_not(store: MemoryStore) -> None:
    target = rows_on(store, 5, writer=writer_on(store))
    open_variable(target, "height")[:] = np.arange(5)
    again = pickle.loads(pickle.dumps(rows_on(store, 5)))  # noqa: S301 - our own bytes
    assert open_variable(again, "height")[:].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ReadOnlyError):
        pickle.dumps(target)


def test_documents_are_listed_and_chunks_are_not(store: MemoryStore) -> None:
    target = rows_on(store, 5, writer=writer_on(store))
    open_variable(target, "height")[:] = np.arange(5)
    group = zarr.open_group(target.with_read_only(True), mode="r")
    assert sorted(group.array_keys()) == ["granule", "height", "time"]


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_byte_range_of_a_chunk_is_a_part_of_it(store: MemoryStore, generation: int) -> None:
    target = rows_on(store, 5, writer=writer_on(store), generation=generation)
    open_variable(target, "height")[:] = np.arange(5)
    (info,) = store.list("day=1/")
    key = info.key.removeprefix("day=1/")
    whole = store.get(info.key).data
    prototype = zarr.core.buffer.default_buffer_prototype()
    ranges = [
        (zarr.abc.store.RangeByteRequest(2, 6), whole[2:6]),
        (zarr.abc.store.OffsetByteRequest(4), whole[4:]),
        (zarr.abc.store.SuffixByteRequest(3), whole[-3:]),
        (None, whole),
    ]

    async def read() -> list[bytes]:
        found = await target.get_partial_values(prototype, [(key, wanted) for wanted, _ in ranges])
        return [buffer.to_bytes() for buffer in found if buffer is not None]

    assert zarr.core.sync.sync(read()) == [expected for _, expected in ranges]


def test_a_tail_chunk_that_is_missing_stops_the_append(store: MemoryStore) -> None:
    with pytest.raises((NotFoundError, SnapshotExpiredError)):
        rows_on(store, 6, writer=writer_on(store)).prefetch(["height/c/0"])
