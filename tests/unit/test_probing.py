"""A store that does not keep concurrent writers apart is found, by a probe that leaves nothing behind."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.probing import FOLDER, check_store, probe_conditions, require_conditional
from zcollection_engine.stores.base import ObjectInfo, StoredObject
from zcollection_engine.stores.filesystem import FilesystemStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import CountingStore


class Service(CountingStore):
    """A store in memory that passes for a service of S3's protocol."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(f"memory://{uuid.uuid4().hex}/folder"))
        self.racing = threading.Condition()
        self.inside: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return "s3://bucket/folder"

    def put(self, key: str, data: bytes) -> str:
        """Write whatever is there."""
        while True:
            self._inner.delete(key)
            try:
                return super().create(key, data)
            except PreconditionFailedError:
                continue

    def present(self, key: str) -> str | None:
        try:
            return self._inner.head(key).etag
        except NotFoundError:
            return None

    def meet(self, key: str, deed: str) -> None:
        """Wait where writers contend until another one comes here too."""
        if f"/{deed}-" in key:
            with self.racing:
                self.inside[key] += 1
                self.racing.notify_all()
                self.racing.wait_for(lambda: self.inside[key] > 1, timeout=30)


class PassesOverConditions(Service):
    def create(self, key: str, data: bytes) -> str:
        return self.put(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self.put(key, data)


class LooksThenCreates(Service):
    def create(self, key: str, data: bytes) -> str:
        if self.present(key) is not None:
            raise PreconditionFailedError("exists")
        self.meet(key, "created")
        return self.put(key, data)


class LooksThenReplaces(Service):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        if self.present(key) != etag:
            raise PreconditionFailedError("changed")
        self.meet(key, "replaced")
        return self.put(key, data)


class CreatesAgain(Service):
    def create(self, key: str, data: bytes) -> str:
        return self.put(key, data)


class TakesStaleVersions(Service):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        if self.present(key) is None:
            raise PreconditionFailedError("gone")
        return self.put(key, data)


class ReplacesTheMissing(Service):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self.put(key, data) if self.present(key) is None else super().replace(key, data, etag)


class RefusesAllReplacements(Service):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        raise PreconditionFailedError("the quotes are missing")


class RefusesAllWrites(Service):
    def create(self, key: str, data: bytes) -> str:
        raise PreconditionFailedError("no")


class RefusesButWrites(Service):
    def create(self, key: str, data: bytes) -> str:
        try:
            return super().create(key, data)
        except PreconditionFailedError:
            self.put(key, data)
            raise


class TellsAnotherVersion(Service):
    def create(self, key: str, data: bytes) -> str:
        return super().create(key, data) + "x"


class GivesOneVersionToAll(Service):
    def create(self, key: str, data: bytes) -> str:
        super().create(key, data)
        return "1"

    def replace(self, key: str, data: bytes, etag: str) -> str:
        super().replace(key, data, self._inner.head(key).etag)
        return "1"


class ListsLate(Service):
    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        return iter(())


class ReadsLate(Service):
    def get(self, key: str) -> StoredObject:
        found = super().get(key)
        return replace(found, data=b"first")


class ForgetsAtFirst(Service):
    def get(self, key: str) -> StoredObject:
        raise NotFoundError("not yet")


BROKEN = [
    (PassesOverConditions, "8 of 8 concurrent writers created the same object"),
    (PassesOverConditions, "8 of 8 concurrent writers replaced the same object"),
    (PassesOverConditions, "an object that exists was created again"),
    (PassesOverConditions, "an object was replaced by a stale ETag"),
    (PassesOverConditions, "an object that does not exist was replaced"),
    (LooksThenCreates, "of 8 concurrent writers created the same object"),
    (LooksThenReplaces, "of 8 concurrent writers replaced the same object"),
    (CreatesAgain, "an object that exists was created again"),
    (TakesStaleVersions, "an object was replaced by a stale ETag"),
    (ReplacesTheMissing, "an object that does not exist was replaced"),
    (RefusesAllReplacements, "0 of 8 concurrent writers replaced the same object"),
    (RefusesAllReplacements, "a write whose condition holds was refused"),
    (RefusesAllWrites, "0 of 8 concurrent writers created the same object"),
    (RefusesButWrites, "a refused write changed the object"),
    (RefusesButWrites, "one of 8 concurrent writers created an object, but something else is there"),
    (TellsAnotherVersion, "one of 8 concurrent writers created an object, but something else is there"),
    (GivesOneVersionToAll, "two versions of an object with different bytes have the same ETag"),
    (ListsLate, "a listing after a write did not show what was written"),
    (ReadsLate, "a read after a write gave something else than was written"),
    (ForgetsAtFirst, "an object that was written is not found"),
]


@pytest.mark.parametrize(("kind", "finding"), BROKEN)
def test_a_broken_promise_is_found_in_words(kind: type[Service], finding: str) -> None:
    report = probe_conditions(kind())
    assert not report.ok
    assert any(found.endswith(finding) for found in report.findings), report.findings


def test_a_store_that_keeps_its_promises_passes() -> None:
    store = Service()
    report = probe_conditions(store, writers=5, rounds=4)
    assert report.ok
    assert (report.url, report.conditional, report.writers, report.rounds) == ("s3://bucket/folder", True, 5, 4)
    assert [(trial.times, trial.findings) for trial in report.trials] == [
        (4, ()),
        (4, ()),
        (1, ()),
        (1, ()),
        (1, ()),
        (4, ()),
    ]
    assert report.seconds > 0
    creations = [key for key in store.keys("create") if "/created-" in key]
    assert {creations.count(key) for key in creations} == {5}
    assert len(set(creations)) == 4


@pytest.mark.parametrize("kind", [Service, PassesOverConditions, RefusesAllWrites])
def test_the_probe_leaves_nothing_and_touches_nothing_else(kind: type[Service]) -> None:
    store = kind()
    probe_conditions(store)
    assert list(store._inner.list()) == []
    assert all(key.startswith(FOLDER) for method, key in store.log if method != "list")


def test_two_probes_at_the_same_time_do_not_meet() -> None:
    store = Service()
    probe_conditions(store, writers=2, rounds=1)
    keys = set(store.keys("create"))
    probe_conditions(store, writers=2, rounds=1)
    assert len(set(store.keys("create"))) == 2 * len(keys)


def test_objects_that_cannot_be_removed_are_named_and_are_no_fault() -> None:
    class KeepsAll(Service):
        def delete(self, key: str, etag: str | None = None) -> None:
            raise StorageError("access denied")

    store = KeepsAll()
    report = probe_conditions(store, rounds=1)
    assert report.ok
    assert {info.key for info in store.list()} <= set(report.left)


def test_a_store_that_fails_is_not_judged_and_is_cleaned_all_the_same() -> None:
    class Fails(Service):
        def head(self, key: str) -> ObjectInfo:
            raise StorageError("timed out")

    store = Fails()
    with pytest.raises(StorageError, match="timed out"):
        probe_conditions(store)
    assert list(store.list()) == []


def test_a_way_to_a_store_that_has_no_conditions_is_a_finding_by_itself() -> None:
    report = probe_conditions(FilesystemStore(f"memory://{uuid.uuid4().hex}"))
    assert report.findings == ("the way to this store has no conditional writes",)
    assert all(trial.findings == () for trial in report.trials)


@pytest.mark.parametrize(("writers", "rounds"), [(1, 1), (2, 0)])
def test_a_probe_without_contention_is_refused(writers: int, rounds: int) -> None:
    with pytest.raises(InvalidInputError, match="2 writers and 1 round"):
        probe_conditions(Service(), writers=writers, rounds=rounds)


class TestCheckStore:
    def test_writing_without_conditions_needs_the_operators_word(self) -> None:
        store = FilesystemStore(f"memory://{uuid.uuid4().hex}")
        checks: list[Callable[[], object]] = [
            lambda: require_conditional(store, single_writer=False),
            lambda: check_store(store, single_writer=False, probe=False),
            lambda: check_store(store, single_writer=False, probe=True),
        ]
        for check in checks:
            with pytest.raises(InvalidInputError, match=f"refused: {store.url} has no .* set single_writer = true if"):
                check()
        require_conditional(store, single_writer=True)
        assert check_store(store, single_writer=True, probe=True) is None
        assert list(store.list()) == []

    def test_a_new_collection_is_refused_where_the_probe_fails(self) -> None:
        store = PassesOverConditions()
        with pytest.raises(
            InvalidInputError, match=r"refused: s3://bucket/folder does not keep .* \(4 of 4 concurrent"
        ):
            check_store(store, single_writer=False, probe=True)
        assert check_store(store, single_writer=True, probe=True) is None
        assert check_store(store, single_writer=False, probe=False) is None

    def test_the_probe_of_a_new_collection_takes_a_few_dozen_requests(self) -> None:
        store = Service()
        report = check_store(store, single_writer=False, probe=True)
        assert report is not None
        assert report.ok
        assert 20 < store.requests.total() < 60

    def test_opening_asks_the_store_for_nothing(self) -> None:
        store = Service()
        assert check_store(store, single_writer=False, probe=False) is None
        assert store.log == ()

    def test_files_and_memory_are_not_tried(self, tmp_path: object) -> None:
        for inner in (MemoryStore(f"memory://{uuid.uuid4().hex}"), PosixStore(str(tmp_path))):
            store = CountingStore(inner)
            assert check_store(store, single_writer=False, probe=True) is None
            assert store.log == ()
