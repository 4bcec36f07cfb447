"""Rewrites in Zarr v2 reach plain readers as copies, whoever makes them and whoever died or slept meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.engine_support import DAY_16, DAY_17, FakeClock
from tests.verification_support import copy_of, deaths
from tests.zarr2_support import (
    DAY,
    HIDDEN,
    array_columns,
    check_copies,
    check_readers,
    chunk_keys,
    commit_without_publishing,
    filled,
    keys,
    opened,
    private,
    public,
    rows,
    shown,
)
from zcollection_engine import Collection, open_collection
from zcollection_engine.copying import copy_chunks
from zcollection_engine.errors import FormatError, StorageError
from zcollection_engine.layout.chunkstore import is_tombstone
from zcollection_engine.repairing import repair
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore, fail_before, lose_response
from zcollection_engine.verification.verifying import verify

PER_CHUNK_ROW = 6  # time, height, granule, label, and profile in two


def unpublished(store: ObjectStore) -> Collection:
    """A rewrite that was committed and whose writer died before its first copy."""
    writer = filled(store)
    commit_without_publishing(writer)
    writer.insert(rows([5, 6], offset=200), granule="late")
    return writer


def copies(store: CountingStore, path: str = DAY_16) -> list[str]:
    """Keys of the chunks that were written where readers look."""
    written = [key for method, key in store.log if method in ("create", "replace")]
    return [key for key in written if key.startswith(f"{path}/") and not _is_hidden(key)]


def _is_hidden(key: str) -> bool:
    return f"/{HIDDEN}/" in key or key.rpartition("/")[2].startswith(".z")


# Deaths.


WORK: dict[str, Callable[[Collection], object]] = {
    "a first rewrite": lambda c: c.insert(rows([DAY + 1], offset=7), granule="late"),
    "a further rewrite": lambda c: c.insert(rows([1, 5], offset=7), granule="late"),
    "a rewrite to fewer rows": lambda c: c.retract(["first"]),
    "an append to a rewrite": lambda c: c.insert(rows([30, 31]), granule="next"),
    "a drop": lambda c: c.drop_partitions([DAY_16]),
    "attributes": lambda c: c.set_attributes({"title": "new"}),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_whoever_comes_after_a_death_completes_what_was_committed(
    original_v2: MemoryStore, work: Callable[[Collection], object]
) -> None:
    ends = set()
    for left, _ in deaths(original_v2, lambda store: work(opened(store))):
        ends.add(open_collection(left).commit)
        opened(left)
        check_copies(left)
    assert len(ends) == 2, "some deaths are before the commit and some behind"


def test_whoever_comes_after_a_death_during_the_copy_may_die_too(original_v2: MemoryStore) -> None:
    store = copy_of(original_v2)
    dying = opened(store)
    commit_without_publishing(dying)
    dying.insert(rows([5, 6], offset=200), granule="late")
    partly = 0
    for left, dead in deaths(store, opened):
        partly += shown(left, DAY_16)[0] == 1 and dead
        if partly % 9 == 5:
            for again, _ in deaths(left, opened):
                opened(again)
                check_copies(again)
        opened(left)
        check_copies(left)
    assert partly > 15
    store.clear()


# Requests.


def test_a_first_rewrite_copies_every_chunk_once(store: ObjectStore) -> None:
    filled(store)
    counting = CountingStore(store)
    writer = opened(counting)
    counting.reset()
    writer.insert(rows([DAY + 1], offset=7), granule="late")
    assert sorted(copies(counting, DAY_17)) == sorted(public(store, DAY_17))
    assert copies(counting) == []


def test_an_append_to_a_rewritten_partition_copies_the_last_chunks_and_new_ones_only(store: ObjectStore) -> None:
    filled(store)  # eleven rows in chunks of four
    counting = CountingStore(store)
    writer = opened(counting)
    for values, first, last in (([30], 2, 2), ([31], 3, 3), ([32], 3, 3), (range(40, 46), 3, 4)):
        counting.reset()
        writer.insert(rows(values), granule=f"at {first} {list(values)}")
        found = Counter(int(key.rpartition("/")[2].split(".")[0]) for key in copies(counting))
        assert found == dict.fromkeys(range(first, last + 1), PER_CHUNK_ROW)
    check_readers(store)


def test_an_append_to_the_first_generation_copies_nothing(store: ObjectStore) -> None:
    filled(store)
    counting = CountingStore(store)
    writer = opened(counting)
    counting.reset()
    writer.insert(rows([DAY + 30]), granule="next")
    new = ("time/1", "height/1", "granule/1", "label/1", "profile/1.0", "profile/1.1")
    assert sorted(copies(counting, DAY_17)) == sorted(f"{DAY_17}/{name}" for name in new)
    assert not [key for _, key in counting.log if HIDDEN in key]


def test_what_is_published_is_not_copied_again(store: ObjectStore) -> None:
    writer = filled(store)
    counting = CountingStore(store)
    for _ in range(2):
        again = opened(counting)
        again.roll_forward()
    again.set_attributes({"title": "new"})
    assert copies(counting) == []
    assert [key for method, key in counting.log if method == "get" and HIDDEN in key] == []
    assert writer.refresh().schema.attributes["title"] == "new"
    check_readers(store)


def test_a_transaction_elsewhere_costs_the_partition_nothing(store: ObjectStore) -> None:
    filled(store)
    counting = CountingStore(store)
    writer = opened(counting)
    counting.reset()
    writer.insert(rows([DAY + 30]), granule="next")
    assert [key for _, key in counting.log if key.startswith(DAY_16)] == []


# Sleepers.


class Sleeper:
    """A thread that stops at an operation until it is let go."""

    def __init__(self, store: ObjectStore, work: Callable[[ObjectStore], Any], method: str, key: str) -> None:
        self._stopped, self._go = threading.Event(), threading.Event()
        self.errors: list[BaseException] = []
        faulty = FaultStore(store, [Fault(method, key, before=self._wait)])
        self._thread = threading.Thread(target=self._run, args=(work, faulty))
        self._thread.start()
        assert self._stopped.wait(30), "it never came there"

    def _wait(self, method: str, key: str) -> None:
        self._stopped.set()
        assert self._go.wait(60)

    def _run(self, work: Callable[[ObjectStore], Any], store: ObjectStore) -> None:
        try:
            work(store)
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)
        finally:
            self._stopped.set()

    def wake(self) -> None:
        self._go.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def asleep(
    store: ObjectStore, method: str, key: str, work: Callable[[ObjectStore], Any] | None = None
) -> Iterator[Sleeper]:
    """A process that opens the collection, copies, and sleeps at an operation."""
    sleeper = Sleeper(store, work or (lambda s: opened(s, owner="sleeper")), method, key)
    try:
        yield sleeper
    finally:
        sleeper.wake()


#: Where a copier stops: before it looks at what is there, before it reads, before it writes, before it flips.
STOPS = {
    "before the listing": ("list", f"{DAY_16}/"),
    "before reading a chunk": ("get", f"{DAY_16}/{HIDDEN}/2/height/1"),
    "before writing a chunk": ("replace", f"{DAY_16}/profile/2.1"),
    "before the flip": ("replace", f"{DAY_16}/.zmetadata"),
}

LATER: dict[str, Callable[[Collection], object]] = {
    "an append": lambda c: c.insert(rows([60, 61]), granule="more"),
    "a rewrite": lambda c: c.insert(rows([0, 1], offset=300), granule="more"),
    "fewer rows, then more": lambda c: (c.retract(["first", "third"]), c.insert(rows(range(70, 80)), granule="more")),
    "a drop, garbage collected, then rows": lambda c: (
        c.drop_partitions([DAY_16]),
        c.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0)),
        c.insert(rows(range(70, 80)), granule="more"),
    ),
    "three rewrites": lambda c: [c.insert(rows([n], offset=300 + n), granule="more") for n in range(3)],
}


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_copier_that_slept_damages_nothing(stop: tuple[str, str], later: Callable[[Collection], object]) -> None:
    store = MemoryStore("memory://asleep")
    store.clear()
    unpublished(store)
    with asleep(store, *stop) as sleeper:
        writer = opened(store, owner="awake")
        later(writer)
        check_copies(store)
    assert sleeper.errors == []
    check_copies(store)
    # What it left behind the end does no harm to those who come there.
    writer.insert(rows(range(100, 112)), granule="last")
    check_readers(store)
    store.clear()


def test_a_copier_that_slept_on_files_damages_nothing(tmp_path: Path) -> None:
    store = PosixStore(tmp_path / "collection")
    unpublished(store)
    with asleep(store, *STOPS["before writing a chunk"]) as sleeper:
        writer = opened(store, owner="awake")
        LATER["a rewrite"](writer)
        check_readers(store)
    assert sleeper.errors == []
    check_readers(store)


def test_a_copier_that_stopped_before_a_new_chunk_leaves_it_behind_the_end_at_most() -> None:
    store = MemoryStore("memory://behind-the-end")
    store.clear()
    writer = filled(store)
    commit_without_publishing(writer)
    writer.insert(rows(range(5, 30), offset=200), granule="longer")
    with asleep(store, "create", f"{DAY_16}/height/6") as sleeper:
        awake = opened(store, owner="awake")
        awake.retract(["longer", "first", "third"])
        for key in public(store, DAY_16):
            if int(key.rpartition("/")[2].split(".")[0]) > 0:
                store.delete(key)
        check_readers(store)
    assert sleeper.errors == []
    assert f"{DAY_16}/height/6" in keys(store)
    check_readers(store)
    report = awake.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0))
    assert report.objects["chunk"] > 0
    assert f"{DAY_16}/height/6" not in keys(store)
    awake.insert(rows(range(40, 70)), granule="longer again")
    check_readers(store)
    store.clear()


@pytest.mark.parametrize("key", [f"{DAY_16}/height/1", f"{DAY_16}/.zmetadata"])
def test_two_copiers_at_once_do_the_same(key: str) -> None:
    store = MemoryStore("memory://two-copiers")
    store.clear()
    unpublished(store)
    barrier = threading.Barrier(2, timeout=30)

    def work(faulty: ObjectStore) -> None:
        opened(faulty, owner=threading.current_thread().name)

    def meet(method: str, key: str) -> None:
        barrier.wait()

    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(FaultStore(store, [Fault("replace", key, before=meet)]))
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    check_readers(store)
    assert verify(open_collection(store)).findings == ()
    store.clear()


# Conditions and failures.


def test_a_chunk_that_changed_since_it_was_listed_is_looked_at_again(store: ObjectStore) -> None:
    unpublished(store)
    key = f"{DAY_16}/height/1"

    def meddle(method: str, _: str) -> None:
        store.replace(key, b"another one", store.head(key).etag)

    counting = CountingStore(FaultStore(store, [Fault("replace", key, before=meddle)]))
    opened(counting)
    assert counting.keys("replace").count(key) == 2
    assert counting.keys("list").count(f"{DAY_16}/") == 2
    check_readers(store)


def test_a_chunk_that_vanished_since_it_was_listed_is_created(store: ObjectStore) -> None:
    unpublished(store)
    key = f"{DAY_16}/height/1"
    opened(FaultStore(store, [Fault("replace", key, before=lambda *_: store.delete(key))]))
    check_readers(store)


def test_a_chunk_that_came_since_the_listing_is_replaced(store: ObjectStore) -> None:
    writer = filled(store)
    commit_without_publishing(writer)
    writer.insert(rows(range(30, 40)), granule="more")
    key = f"{DAY_16}/height/4"
    assert key not in keys(store)
    opened(FaultStore(store, [Fault("create", key, before=lambda *_: store.create(key, b"a sleeper's"))]))
    check_readers(store)


@pytest.mark.parametrize("method", ["create", "replace"])
def test_a_lost_answer_to_a_copy_is_settled_by_the_next_writer(store: ObjectStore, method: str) -> None:
    writer = filled(store)
    commit_without_publishing(writer)
    writer.insert(rows(range(25, 40)), granule="more")
    key = f"{DAY_16}/height/{2 if method == 'replace' else 3}"
    faulty = FaultStore(store, [lose_response(method, key)])
    with pytest.raises(StorageError):
        opened(faulty)
    assert not faulty.untriggered
    opened(store)
    check_readers(store)


@pytest.mark.parametrize("method", ["list", "get", "replace"])
def test_a_store_that_fails_during_the_copy_shows_readers_no_document_of_it(store: ObjectStore, method: str) -> None:
    unpublished(store)
    before = store.get(f"{DAY_16}/.zmetadata").data
    key = f"{DAY_16}/" if method == "list" else f"{DAY_16}/{HIDDEN}/*" if method == "get" else f"{DAY_16}/height/1"
    with pytest.raises(StorageError):
        opened(FaultStore(store, [fail_before(method, key)]))
    assert store.get(f"{DAY_16}/.zmetadata").data == before
    opened(store)
    check_readers(store)


def test_the_copy_is_flushed_before_the_document_tells_of_it(store: ObjectStore) -> None:
    unpublished(store)
    counting = CountingStore(store)
    opened(counting)
    operations = [(m, k) for m, k in counting.log if m in ("create", "replace", "flush")]
    flip = operations.index(("replace", f"{DAY_16}/.zmetadata"))
    last = max(i for i, (m, k) in enumerate(operations) if m != "flush" and k in public(store, DAY_16))
    assert last < flip
    assert ("flush", "") in operations[last:flip]


def test_a_damaged_document_of_what_readers_see_is_named(store: ObjectStore) -> None:
    unpublished(store)
    key = f"{DAY_16}/.zmetadata"
    store.replace(key, b"{", store.head(key).etag)
    with pytest.raises(FormatError, match=r"day=16/\.zmetadata is damaged: .*repair"):
        opened(store)


@pytest.mark.parametrize("gone", [f"{DAY_16}/{HIDDEN}/2/height/1", f"{DAY_16}/{HIDDEN}/2/label/2"])
def test_a_chunk_that_is_lost_before_it_was_copied_is_an_error_for_its_readers_and_for_nobody_else(
    store: ObjectStore, gone: str
) -> None:
    unpublished(store)
    lost = store.get(gone).data
    store.delete(gone)
    writer = opened(store)
    name = gone.split("/")[-2]
    with pytest.raises((RuntimeError, ValueError)):
        array_columns(store, DAY_16, [name])
    others = [other for other in ("time", "height", "granule", "label", "profile") if other != name]
    assert len(array_columns(store, DAY_16, others)["time"]) == 11 + 1
    assert is_tombstone(store.get(gone.replace(f"{HIDDEN}/2/", "")).data)
    writer.insert(rows([DAY + 50]), granule="elsewhere")
    assert {f.code.value for f in verify(writer).findings} == {"missing_chunk"}
    # Put back from a backup, it is copied by a repair.
    store.create(gone, lost)
    assert {f.code.value for f in verify(writer).findings} == {"bad_copy"}
    assert repair(writer).ok
    check_readers(store)


def test_a_chunk_that_is_gone_since_a_later_commit_is_no_matter(store: ObjectStore) -> None:
    writer = unpublished(store)
    partition = writer.state.partitions[DAY_16]
    before = {key: store.head(key).etag for key in chunk_keys(store, f"{DAY_16}/") if HIDDEN not in key}
    for key in private(store, DAY_16, 2):
        store.delete(key)
    answers = iter([True])
    copy_chunks(store, writer.config.schema, partition, lambda: next(answers, False))
    assert {key: store.head(key).etag for key in before} == before


def test_the_garbage_collector_of_someone_else_meets_a_copy_that_is_not_made_yet() -> None:
    """Publication comes first, so that nothing is taken for garbage that readers are about to be shown."""
    store = MemoryStore("memory://collector")
    store.clear()
    clock = FakeClock()
    unpublished(store)
    opened(store, clock).collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0))
    check_readers(store)
    assert shown(store, DAY_16)[0] == 2
    store.clear()
