"""What every object store promises, tried on each of them."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers import S3Server
from zcollection_engine.errors import (
    InvalidInputError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.stores.filesystem import FilesystemStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.objects import CloudStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.stores.s3filesystem import S3FilesystemStore
from zcollection_engine.stores.settle import Patience

T = TypeVar("T")

#: Worker processes, and a barrier that lets them go at once.
Workers = tuple[Pool, threading.Barrier]

THREADS = 8
PROCESSES = 4
PROCESS_ROUNDS = 50

ODD_KEYS = (
    "a b/c d.nc",
    "year=2022/month=01/zarr.json",
    "one+two",
    "100%/%41%2F",
    "été/données-日本-💧.nc",
    "quotes'\"`",
    "q?x#y&z",
    "[x]*{y}",
    ".zcommits/00000000000000000001.json",
)

#: Keys whose order differs between a flat text, where " " < "/", and a tree.
ORDERED_KEYS = sorted(["a", "a b/x", "a!", "a-b", "a.b", "b/a/z", "b/a-/z", "b/a.json", "c", "c0/1", "é", "日本", "💧"])

BACKENDS: dict[str, tuple[type[ObjectStore], pytest.MarkDecorator | tuple[()]]] = {
    "memory": (MemoryStore, ()),
    "posix": (PosixStore, ()),
    "fsspec": (FilesystemStore, ()),
    "obstore-moto": (CloudStore, pytest.mark.integration),
    "s3fs-moto": (S3FilesystemStore, pytest.mark.integration),
    "obstore-seaweed": (CloudStore, pytest.mark.integration),
    "s3fs-seaweed": (S3FilesystemStore, pytest.mark.integration),
}


def _open(backend: str, request: pytest.FixtureRequest) -> ObjectStore:
    if backend == "memory":
        return MemoryStore(f"memory://{uuid.uuid4().hex}/folder")
    if backend == "posix":
        return PosixStore(request.getfixturevalue("tmp_path") / "a folder")
    if backend == "fsspec":
        return FilesystemStore(f"memory://{uuid.uuid4().hex}/folder")
    client, _, name = backend.partition("-")
    server: S3Server = request.getfixturevalue(f"{name}_server")
    options = StorageOptions(endpoint_url=server.endpoint_url, s3_client="s3fs" if client == "s3fs" else "obstore")
    return open_store(f"s3://{server.new_bucket()}/a folder", options)


@pytest.fixture(params=[pytest.param(name, marks=marks) for name, (_, marks) in BACKENDS.items()])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    store = _open(request.param, request)
    assert isinstance(store, BACKENDS[request.param][0])
    return store


def _in_threads(call: Callable[[int], T]) -> list[T]:
    """Call with 0 to THREADS - 1 in as many threads, all let go at once."""
    gate = threading.Barrier(THREADS)

    def wait_and_call(index: int) -> T:
        gate.wait()
        return call(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_call, range(THREADS)))


def _won(write: Callable[..., str], *args: str | bytes) -> str | None:
    """Return the new ETag, or None for a lost race."""
    try:
        return write(*args)
    except PreconditionFailedError:
        return None


def _create_as(store: ObjectStore, key: str, writer: int) -> str | None:
    return _won(store.create, key, f"writer {writer}".encode())


def _replace_as(store: ObjectStore, turn: int, etag: str, writer: int) -> str | None:
    return _won(store.replace, "head", f"{turn} {writer}".encode(), etag)


def _contend_for_creation(store: ObjectStore, rounds: int) -> None:
    for turn in range(rounds):
        key = f"race/{turn}"
        etags = _in_threads(partial(_create_as, store, key))
        winners = [i for i, etag in enumerate(etags) if etag is not None]
        assert len(winners) == 1
        found = store.get(key)
        assert found.data == f"writer {winners[0]}".encode()
        assert found.info.etag == etags[winners[0]]


def _contend_for_replacement(store: ObjectStore, rounds: int) -> None:
    etag = store.create("head", b"start")
    seen = {etag}
    for turn in range(rounds):
        etags = _in_threads(partial(_replace_as, store, turn, etag))
        winners = [i for i, new in enumerate(etags) if new is not None]
        assert len(winners) == 1
        etag = str(etags[winners[0]])
        assert store.get("head").data == f"{turn} {winners[0]}".encode()
        assert store.head("head").etag == etag
        seen.add(etag)
    assert len(seen) == rounds + 1


def _contend_with_a_removal(store: ObjectStore, key: str) -> None:
    etag = store.create(key, b"start")

    def change(index: int) -> bool:
        try:
            if index % 2 and store.conditional_delete:
                store.delete(key, etag)
            else:
                store.replace(key, b"%d" % index, etag)
        except PreconditionFailedError:
            return False
        return True

    winners = [index for index, won in enumerate(_in_threads(change)) if won]
    assert len(winners) == 1
    removed = winners[0] % 2 == 1 and store.conditional_delete
    left = [store.get(info.key).data for info in store.list("race/") if info.key == key]
    assert left == ([] if removed else [b"%d" % winners[0]])


def _remove_on_condition(store: ObjectStore) -> None:
    first = store.create("folder/x", b"first")
    second = store.replace("folder/x", b"second", first)
    with pytest.raises(PreconditionFailedError, match="folder/x"):
        store.delete("folder/x", first)
    assert store.get("folder/x").data == b"second"
    store.delete("folder/x", second)
    for etag in (first, second):
        with pytest.raises(PreconditionFailedError, match="folder/x is gone"):
            store.delete("folder/x", etag)
    assert list(store.list()) == []


class TestAnyStore:
    def test_an_object_comes_back_as_it_was_created(self, store: ObjectStore) -> None:
        for size in (0, 1, 3_000_000):
            data = bytes(range(256)) * (size // 256) + bytes(size % 256)
            store.create(f"size/{size}", data)
            assert store.get(f"size/{size}").data == data
            assert store.head(f"size/{size}").size == size

    def test_create_get_head_and_list_agree_on_an_object(self, store: ObjectStore) -> None:
        before = datetime.now(UTC) - timedelta(minutes=1)
        etag = store.create("folder/x", b"12345")
        info = store.head("folder/x")
        assert (info.key, info.size, info.etag) == ("folder/x", 5, etag)
        assert '"' not in etag
        assert before < info.modified < datetime.now(UTC) + timedelta(minutes=1)
        assert info.modified.utcoffset() == timedelta(0)
        listed = list(store.list("folder/"))
        assert [(i.key, i.size, i.etag) for i in listed] == [("folder/x", 5, etag)]
        assert store.get("folder/x").info.etag == etag

    def test_replace_returns_the_etag_that_head_and_list_give(self, store: ObjectStore) -> None:
        etag = store.replace("x", b"new", store.create("x", b"old"))
        assert store.get("x").data == b"new"
        assert store.head("x").etag == etag
        assert [i.etag for i in store.list()] == [etag]

    def test_create_leaves_a_present_object_alone(self, store: ObjectStore) -> None:
        etag = store.create("x", b"first")
        with pytest.raises(PreconditionFailedError, match="x"):
            store.create("x", b"second")
        assert store.get("x").data == b"first"
        assert store.head("x").etag == etag

    def test_create_of_the_same_bytes_is_a_conflict_too(self, store: ObjectStore) -> None:
        store.create("x", b"same")
        with pytest.raises(PreconditionFailedError):
            store.create("x", b"same")

    def test_replace_of_another_version_is_refused(self, store: ObjectStore) -> None:
        first = store.create("x", b"first")
        second = store.replace("x", b"second, longer", first)
        assert second != first
        with pytest.raises(PreconditionFailedError, match="x"):
            store.replace("x", b"third", first)
        assert store.get("x").data == b"second, longer"

    def test_replace_of_a_missing_object_is_refused(self, store: ObjectStore) -> None:
        etag = store.create("x", b"first")
        store.delete("x")
        with pytest.raises(PreconditionFailedError, match="x"):
            store.replace("x", b"second", etag)
        with pytest.raises(NotFoundError):
            store.head("x")

    def test_a_missing_object_is_not_found(self, store: ObjectStore) -> None:
        store.create("folder/x", b"1")
        for key in ("missing", "folder", "folder/missing", "folder/x/below", "none/at/all"):
            with pytest.raises(NotFoundError, match=key):
                store.get(key)
            with pytest.raises(NotFoundError, match=key):
                store.head(key)

    def test_delete_can_be_repeated(self, store: ObjectStore) -> None:
        store.create("folder/x", b"1")
        store.delete("folder/x")
        store.delete("folder/x")
        store.delete("folder/never/there")
        assert list(store.list()) == []
        assert store.create("folder/x", b"2")

    def test_a_conditional_removal_takes_what_it_was_made_for_or_is_refused(self, store: ObjectStore) -> None:
        if store.conditional_delete:
            _remove_on_condition(store)
        else:
            etag = store.create("x", b"1")
            with pytest.raises(InvalidInputError, match=r"cannot remove x on the condition .* tombstone"):
                store.delete("x", etag)
            assert store.head("x").etag == etag

    def test_of_a_removal_and_replacements_of_one_version_one_wins(self, store: ObjectStore) -> None:
        """Where removal has no condition, a replacement by a tombstone stands in for it."""
        for turn in range(_rounds(store)):
            _contend_with_a_removal(store, f"race/{turn}")

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_a_key_is_taken_literally(self, store: ObjectStore, key: str) -> None:
        etag = store.create(key, b"1")
        assert [i.key for i in store.list()] == [key]
        etag = store.replace(key, b"2", etag)
        assert store.get(key).info == store.head(key)
        assert store.get(key).info.etag == etag
        store.delete(key)
        assert list(store.list()) == []

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a\x00b", "a\nb", "a\\b"])
    def test_a_key_that_stores_do_not_agree_on_is_refused(self, store: ObjectStore, key: str) -> None:
        for call in (store.get, store.head, store.delete, lambda k: store.create(k, b"1")):
            with pytest.raises(InvalidInputError, match="key"):
                call(key)

    def test_a_listing_is_in_order_of_the_keys(self, store: ObjectStore) -> None:
        for key in reversed(ORDERED_KEYS):
            store.create(key, b"1")
        assert [i.key for i in store.list()] == ORDERED_KEYS

    def test_a_listing_starts_behind_any_name(self, store: ObjectStore) -> None:
        for key in ORDERED_KEYS:
            store.create(key, b"1")
        for after in (*ORDERED_KEYS, "a ", "a/", "b", "b/a", "b/a/", "b/b", "zz", "\U0010ffff"):
            assert [i.key for i in store.list(after=after)] == [k for k in ORDERED_KEYS if k > after], after

    def test_a_prefix_lists_the_whole_folder_and_nothing_else(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/b/2", "a/b/3", "ab/4", "a-b/5", "z"):
            store.create(key, b"1")
        assert [i.key for i in store.list("a/")] == ["a/1", "a/b/2", "a/b/3"]
        assert [i.key for i in store.list("a/b/")] == ["a/b/2", "a/b/3"]
        assert [i.key for i in store.list("a/", after="a/b/2")] == ["a/b/3"]
        assert [i.key for i in store.list("a/", after="Z")] == ["a/1", "a/b/2", "a/b/3"]
        assert list(store.list("a/", after="b")) == []
        assert list(store.list("none/")) == []
        with pytest.raises(InvalidInputError, match="end with '/'"):
            list(store.list("a"))

    def test_a_log_is_listed_behind_its_last_known_number(self, store: ObjectStore) -> None:
        keys = [f".zcommits/{number:020}.json" for number in range(12)]
        for key in keys:
            store.create(key, b"{}")
        assert [i.key for i in store.list(".zcommits/", after=keys[9])] == keys[10:]

    def test_one_of_many_threads_creates_an_object(self, store: ObjectStore) -> None:
        if store.conditional:
            _contend_for_creation(store, _rounds(store))
        else:
            _contend_for_creation(store, 1)  # exact inside one instance, which locks

    def test_one_of_many_threads_replaces_an_object(self, store: ObjectStore) -> None:
        _contend_for_replacement(store, _rounds(store))

    def test_a_pickled_store_reads_the_same_objects(self, store: ObjectStore) -> None:
        store.create("x", b"1")
        other = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
        assert other.url == store.url
        assert other.get("x").data == b"1"
        assert other.conditional == store.conditional
        assert other.conditional_delete == store.conditional_delete

    def test_flush_and_exclusive_may_always_be_asked(self, store: ObjectStore) -> None:
        with store.exclusive("year=2022/month=01"):
            store.create("x", b"1")
            assert (store.holder("year=2022/month=01") is not None) is isinstance(store, PosixStore)
        store.flush()
        assert [i.key for i in store.list()] == ["x"]
        assert store.holder("year=2022/month=01") is None

    def test_only_where_a_lock_guards_the_whole_change_removal_is_conditional(self, store: ObjectStore) -> None:
        assert store.conditional_delete is isinstance(store, MemoryStore | PosixStore)

    def test_only_the_generic_file_system_has_no_conditional_writes(self, store: ObjectStore) -> None:
        assert store.conditional is not isinstance(store, FilesystemStore)


def _rounds(store: ObjectStore) -> int:
    """Few rounds on servers: SeaweedFS takes a distributed lock for each contender, up to seconds a round."""
    return 2 if isinstance(store, CloudStore | S3FilesystemStore) else 40


CLOUD = [CloudStore, S3FilesystemStore]


@pytest.mark.integration
@pytest.mark.parametrize("kind", CLOUD)
class TestACloudStore:
    def test_a_missing_bucket_is_an_error_of_the_storage(
        self, kind: type[CloudStore | S3FilesystemStore], moto_server: S3Server
    ) -> None:
        store = kind("s3://no-such-bucket/x", StorageOptions(endpoint_url=moto_server.endpoint_url))
        with pytest.raises(StorageError, match=r"(?s)no-such-bucket/x/k.*bucket does not exist"):
            store.get("k")
        with pytest.raises(StorageError, match="bucket does not exist"):
            store.create("k", b"1")
        with pytest.raises(StorageError, match="bucket does not exist"):
            list(store.list())

    def test_a_write_to_a_silent_server_has_an_unknown_outcome(
        self, kind: type[CloudStore | S3FilesystemStore], aws_environment: None
    ) -> None:
        patience = Patience(attempts=2, first_pause=0.01)
        store = kind("s3://bucket", StorageOptions(endpoint_url="http://127.0.0.1:1"), patience=patience)
        with pytest.raises(OutcomeUnknownError, match="no answer to 2 attempts to write s3://bucket/k"):
            store.create("k", b"1")


@pytest.mark.integration
def test_more_than_a_page_is_listed(seaweed_server: S3Server) -> None:
    options = StorageOptions(endpoint_url=seaweed_server.endpoint_url)
    store = S3FilesystemStore(f"s3://{seaweed_server.new_bucket()}", options)
    writer = CloudStore(store.url, options)
    keys = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(lambda key: writer.create(key, b""), keys))
    assert [info.key for info in store.list("many/")] == keys
    assert [info.key for info in store.list("many/", after="many/0002")] == keys[3:]


def _create_all(root: str, index: int, rounds: int, gate: threading.Barrier) -> list[bool]:
    store = PosixStore(root)
    gate.wait()
    return [_won(store.create, f"race/{turn}.json", bytes([index])) is not None for turn in range(rounds)]


def _increment(root: str, rounds: int, gate: threading.Barrier) -> None:
    """Add 1 to a counter ``rounds`` times by compare and swap."""
    store = PosixStore(root)
    gate.wait()
    done = 0
    while done < rounds:
        found = store.get("counter.json")
        text = str(int(found.data) + 1).encode()
        if _won(store.replace, "counter.json", text, found.info.etag) is not None:
            done += 1


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(PROCESSES) as pool:
        yield pool, manager.Barrier(PROCESSES)
        pool.close()
        pool.join()


def test_one_of_several_processes_creates_a_file(workers: Workers, tmp_path: Path) -> None:
    pool, gate = workers
    jobs = [(str(tmp_path), index, PROCESS_ROUNDS, gate) for index in range(PROCESSES)]
    won = pool.starmap(_create_all, jobs, chunksize=1)
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * PROCESS_ROUNDS


def test_no_replacement_of_a_file_by_several_processes_is_lost(workers: Workers, tmp_path: Path) -> None:
    pool, gate = workers
    store = PosixStore(tmp_path)
    store.create("counter.json", b"0")
    pool.starmap(_increment, [(str(tmp_path), PROCESS_ROUNDS, gate)] * PROCESSES, chunksize=1)
    assert store.get("counter.json").data == str(PROCESSES * PROCESS_ROUNDS).encode()


def test_every_backend_is_an_object_store() -> None:
    """mypy holds each class against the protocol here."""
    stores: list[type[ObjectStore]] = [MemoryStore, PosixStore, CloudStore, S3FilesystemStore, FilesystemStore]
    assert {kind for kind, _ in BACKENDS.values()} == set(stores)
    assert ObjectInfo.__slots__ == ("key", "size", "etag", "modified")
