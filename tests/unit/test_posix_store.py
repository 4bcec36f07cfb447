"""What the store of files adds to the contract: versions, durability, locks, and what killed writers leave."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zcollection_engine.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores import files, locks, posix
from zcollection_engine.stores.base import ObjectInfo
from zcollection_engine.stores.posix import PosixStore


@pytest.fixture
def store(tmp_path: Path) -> PosixStore:
    return PosixStore(tmp_path / "root")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which they were made durable."""
    paths: list[str] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        fsync(descriptor)
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", recording)
    return paths


class TestVersions:
    def test_no_version_recurs_when_replacements_come_faster_than_the_kernels_clock(self, store: PosixStore) -> None:
        etags = [store.create("x", b"same")]
        for _ in range(300):
            etags.append(store.replace("x", b"same", etags[-1]))
        assert len(set(etags)) == len(etags)

    def test_no_version_recurs_when_the_clock_stands_still(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
        etags = [store.create("x", b"same")]
        for _ in range(5):
            etags.append(store.replace("x", b"same", etags[-1]))
        assert len(set(etags)) == len(etags)
        assert store.head("x").etag == etags[-1]

    def test_no_version_recurs_when_the_clock_goes_back(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = store.create("x", b"same")
        monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)
        assert store.replace("x", b"same", first) != first

    def test_no_version_recurs_on_a_file_system_with_coarse_times(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        utime = os.utime

        def coarse(path: int, *, ns: tuple[int, int]) -> None:
            utime(path, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

        monkeypatch.setattr(os, "utime", coarse)
        etags = [store.create("x", b"same")]
        for _ in range(5):
            etags.append(store.replace("x", b"same", etags[-1]))
        assert len(set(etags)) == len(etags)
        assert store.head("x").etag == etags[-1]

    def test_a_copied_folder_holds_the_same_versions(self, store: PosixStore, tmp_path: Path) -> None:
        etag = store.create("a/x", b"1")
        subprocess.run(["cp", "-a", str(tmp_path / "root"), str(tmp_path / "copy")], check=True)
        assert PosixStore(tmp_path / "copy").head("a/x").etag == etag


class TestWholeObjects:
    def test_a_half_written_object_is_never_listed(self, store: PosixStore, tmp_path: Path) -> None:
        store.create("a/x", b"1")
        (tmp_path / "root/a/.0123456789abcdef.part").write_bytes(b"half")
        (tmp_path / "root/a/y.part").write_bytes(b"an object of that name")
        assert [info.key for info in store.list()] == ["a/x", "a/y.part"]

    def test_what_killed_writers_left_is_swept_by_age(self, store: PosixStore, tmp_path: Path) -> None:
        store.create("a/x", b"1")
        old, young = (tmp_path / f"root/a/.{name}.part" for name in ("old", "young"))
        for path in (old, young):
            path.write_bytes(b"half")
        os.utime(old, (1e9, 1e9))
        assert store.sweep(timedelta(hours=24)) == 1
        assert not old.exists()
        assert young.exists()
        assert store.get("a/x").data == b"1"

    def test_a_failed_write_leaves_nothing(
        self, store: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"cannot create file://.*/root/x\.json: No space left"):
            store.create("x.json", b"1")
        assert list((tmp_path / "root").iterdir()) == []

    def test_an_object_that_changes_in_place_while_read_is_refused(
        self, store: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.create("growing.nc", b"1")
        fstat = os.fstat

        def growing(descriptor: int) -> os.stat_result:
            status = fstat(descriptor)
            with (tmp_path / "root/growing.nc").open("ab") as file:
                file.write(b"more")
            return status

        monkeypatch.setattr(os, "fstat", growing)
        with pytest.raises(StorageError, match=r"growing\.nc was changed in place"):
            store.get("growing.nc")

    def test_objects_of_a_killed_process_are_whole(self, tmp_path: Path) -> None:
        script = (
            "import sys\n"
            "from zcollection_engine.stores.posix import PosixStore\n"
            "store = PosixStore(sys.argv[1])\n"
            "etag = store.create('replaced', bytes(300_000))\n"
            "print(flush=True)\n"
            "for turn in range(10**6):\n"
            "    store.create(f'created/{turn}', bytes(300_000))\n"
            "    etag = store.replace('replaced', bytes(300_000), etag)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            store = PosixStore(tmp_path)
            _until(lambda: len(list(store.list("created/"))) >= 20)
            process.send_signal(signal.SIGKILL)
        found = list(store.list())
        assert len(found) >= 21
        assert {info.size for info in found} == {300_000}

    def test_a_link_that_reports_its_own_success_as_a_conflict_counts_as_success(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = Path.hardlink_to

        def repeated(path: Path, target: Path) -> None:
            link(path, target)
            link(path, target)

        monkeypatch.setattr(Path, "hardlink_to", repeated)
        etag = store.create("x", b"1")
        assert store.head("x").etag == etag


class TestDurability:
    def test_a_document_is_durable_when_create_returns(
        self, store: PosixStore, tmp_path: Path, synced: list[str]
    ) -> None:
        store.create(".zcommits/1.json", b"{}")
        folder = str(tmp_path / "root/.zcommits")
        assert synced[0].startswith(f"{folder}/.")
        assert synced[1:] == [folder, str(tmp_path / "root"), str(tmp_path)]

    def test_a_second_document_syncs_itself_and_its_folder_only(
        self, store: PosixStore, tmp_path: Path, synced: list[str]
    ) -> None:
        store.create("a/b/zarr.json", b"{}")
        synced.clear()
        store.replace("a/b/zarr.json", b"{ }", store.head("a/b/zarr.json").etag)
        assert len(synced) == 2
        assert synced[1] == str(tmp_path / "root/a/b")

    @pytest.mark.parametrize("key", ["x.json", ".zcommits/1", "a/.zmetadata", "a/.zarray"])
    def test_documents_are_known_by_name(self, store: PosixStore, synced: list[str], key: str) -> None:
        store.create(key, b"{}")
        assert synced

    def test_chunks_wait_for_flush(self, store: PosixStore, tmp_path: Path, synced: list[str]) -> None:
        for key in ("a/c/0", "a/c/1", "a/c/2"):
            store.create(key, b"1")
        assert synced == []
        store.flush()
        root = tmp_path / "root"
        assert {str(root / key) for key in ("a/c/0", "a/c/1", "a/c/2")} <= set(synced)
        assert synced[3:] == [str(root / "a/c"), str(root / "a"), str(root), str(tmp_path)]
        synced.clear()
        store.flush()
        assert synced == []

    def test_a_flush_that_failed_is_made_up_for(
        self, store: PosixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str]
    ) -> None:
        def broken(_descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        store.create("c/0", b"1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(StorageError, match=r"cannot flush .*Input/output error"):
                store.flush()
        store.flush()
        assert str(tmp_path / "root/c/0") in synced

    def test_deleted_objects_and_folders_are_no_obstacle_to_flush(
        self, store: PosixStore, tmp_path: Path, synced: list[str]
    ) -> None:
        store.create("a/b/c/0", b"1")
        store.delete("a/b/c/0")
        store.flush()
        assert str(tmp_path / "root") in synced
        assert not (tmp_path / "root/a").exists()


class TestFolders:
    def test_delete_removes_folders_that_became_empty(self, store: PosixStore, tmp_path: Path) -> None:
        store.create("a/b/x", b"1")
        store.create("a/y", b"1")
        store.delete("a/b/x")
        assert not (tmp_path / "root/a/b").exists()
        store.delete("a/y")
        assert (tmp_path / "root").exists()
        assert list(store.list()) == []

    def test_objects_can_come_while_folders_go(self, store: PosixStore) -> None:
        def come_and_go(index: int) -> None:
            for _ in range(100):
                store.create(f"a/b/c/{index}", b"1")
                store.delete(f"a/b/c/{index}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(come_and_go, range(4)))
        assert list(store.list()) == []

    def test_links_to_files_are_objects_and_links_to_folders_are_not_followed(
        self, store: PosixStore, tmp_path: Path
    ) -> None:
        store.create("a/x", b"1")
        root = tmp_path / "root"
        (root / "loop").symlink_to(root)
        (root / "link").symlink_to(root / "a/x")
        (root / "dangling").symlink_to(root / "none")
        assert [info.key for info in store.list()] == ["a/x", "link"]
        assert store.get("link").data == b"1"
        with pytest.raises(NotFoundError):
            store.get("dangling")

    def test_a_folder_and_an_object_cannot_share_a_name(self, store: PosixStore) -> None:
        store.create("a/x", b"1")
        with pytest.raises(InvalidInputError, match="is a folder"):
            store.create("a", b"1")
        with pytest.raises(StorageError, match="cannot create"):
            store.create("a/x/y", b"1")

    @pytest.mark.parametrize("key", ["a/.x.part", ".zcommits/locks/x.lock"])
    def test_names_of_the_stores_own_files_are_refused(self, store: PosixStore, key: str) -> None:
        with pytest.raises(InvalidInputError, match="reserved"):
            store.create(key, b"1")

    def test_a_listing_describes_only_what_sorts_behind_a_name(
        self, store: PosixStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(50):
            store.create(f"log/{number:02}", b"1")
            store.create(f"old/{number:02}/x", b"1")
        described: list[str] = []
        info = files.info

        def noted(key: str, status: os.stat_result) -> ObjectInfo:
            described.append(key)
            return info(key, status)

        monkeypatch.setattr(files, "info", noted)
        assert [i.key for i in store.list("log/", after="log/47")] == ["log/48", "log/49"]
        assert described == ["log/48", "log/49"]

    def test_a_folder_of_any_spelling_is_one_store(self, tmp_path: Path) -> None:
        assert PosixStore(f"file://{tmp_path}/x/").url == PosixStore(tmp_path / "y" / ".." / "x").url


class TestExclusive:
    def test_one_thread_at_a_time_holds_a_lock(self, store: PosixStore) -> None:
        inside = 0
        most = 0

        def enter(_: int) -> None:
            nonlocal inside, most
            for _ in range(50):
                with _when_free(store, "year=2022/month=01"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(enter, range(4)))
        assert most == 1

    def test_locks_of_different_names_do_not_wait_for_each_other(self, store: PosixStore) -> None:
        names = ("a/b", "a%2Fb", "a_b", "x" * 300, "x" * 301, "replace")
        with ThreadPoolExecutor(len(names)) as pool:
            gate = threading.Barrier(len(names))

            def hold(name: str) -> None:
                with store.exclusive(name):
                    gate.wait(30)

            list(pool.map(hold, names))
        assert list(store.list()) == []

    def test_writes_go_on_while_a_lock_is_held(self, store: PosixStore) -> None:
        with store.exclusive("x"):
            store.replace("x", b"2", store.create("x", b"1"))
            store.delete("x")

    def test_an_error_inside_frees_the_lock(self, store: PosixStore) -> None:
        with pytest.raises(PreconditionFailedError), store.exclusive("x"):
            raise PreconditionFailedError("inside")
        with store.exclusive("x"):
            pass

    def test_the_lock_of_another_process_is_refused_by_name_and_freed_by_its_death(
        self, store: PosixStore, tmp_path: Path
    ) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        with _holder(tmp_path / "root", "a/x") as process:
            host = re.escape(repr(socket.gethostname()))
            words = rf"process {process.pid} on host {host} since (\S+Z)"
            with (
                pytest.raises(BusyError, match=rf"lock of 'a/x' is held by {words}; it is freed") as caught,
                store.exclusive("a/x"),
            ):
                pytest.fail("two hold the lock")
            assert 0 < caught.value.retry_after <= 10
            said = re.fullmatch(words, store.holder("a/x") or "")
            assert said is not None
            assert before <= datetime.fromisoformat(said[1]) <= datetime.now(UTC)
            assert store.holder("a") is None
            process.kill()
            process.wait()
            assert store.holder("a/x") is None
            with store.exclusive("a/x"):
                assert f"({os.getpid()})" in (store.holder("a/x") or "")

    def test_a_stopped_holder_holds_on(self, store: PosixStore, tmp_path: Path) -> None:
        with _holder(tmp_path / "root", "x") as process:
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(BusyError, match=f"process {process.pid} "), store.exclusive("x"):
                pytest.fail("two hold the lock")

    def test_another_thread_of_this_process_is_named(self, store: PosixStore) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="merging") as pool, store.exclusive("x"):
            said = pool.submit(store.holder, "x").result()
            with pytest.raises(BusyError, match=re.escape(f"held by {said};")):
                pool.submit(lambda: store.exclusive("x").__enter__()).result()
        assert said is not None
        assert said.startswith(f"this process ({os.getpid()}), thread 'MainThread', on host")

    def test_a_lock_that_nobody_took_or_that_was_given_back_has_no_holder(
        self, store: PosixStore, tmp_path: Path
    ) -> None:
        assert store.holder("x") is None
        assert not (tmp_path / "root").exists()
        with store.exclusive("x"):
            assert store.holder("x") is not None
        assert store.holder("x") is None

    def test_a_lock_is_given_back_although_a_forked_child_lives_on(self, store: PosixStore, tmp_path: Path) -> None:
        script = (
            "import os, sys\n"
            "from zcollection_engine.stores.posix import PosixStore\n"
            "with PosixStore(sys.argv[1]).exclusive('x'):\n"
            "    child = os.fork()\n"
            "    if child == 0:\n"
            "        sys.stdin.read()\n"
            "        os._exit(0)\n"
            "print('given back', flush=True)\n"
            "os.waitpid(child, 0)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "root")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"given back\n"
            with store.exclusive("x"):
                assert process.poll() is None

    def test_nobody_who_looks_makes_a_writer_fail(self, store: PosixStore, tmp_path: Path) -> None:
        """What a killed holder left makes those who look take the lock for an instant."""
        with _holder(tmp_path / "root", "x") as process:
            signature = _lock_file(tmp_path).read_bytes()
            process.kill()
            process.wait()
        ended = threading.Event()

        def look() -> int:
            looks = 0
            while not ended.is_set():
                store.holder("x")
                looks += 1
            return looks

        with ThreadPoolExecutor(3) as pool:
            lookers = [pool.submit(look) for _ in range(3)]
            try:
                for _ in range(100):
                    _lock_file(tmp_path).write_bytes(signature)
                    with store.exclusive("x"):
                        pass
            finally:
                ended.set()
            assert all(looker.result() > 0 for looker in lookers)

    @pytest.mark.parametrize("left", [b"{", b"[]", b"{}", b'{"process": 1, "host": "h", "thread": "t", "since": "?"}'])
    def test_a_torn_signature_names_nobody(self, store: PosixStore, tmp_path: Path, left: bytes) -> None:
        with store.exclusive("x"):
            _lock_file(tmp_path).write_bytes(left)
            assert store.holder("x") == "another process, which has not signed its lock"

    def test_the_dead_are_not_blamed_for_the_lock_of_one_who_has_not_signed_yet(
        self, store: PosixStore, tmp_path: Path
    ) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait()
        dead = replace(locks.Holder.here(), process=ended.pid)
        with store.exclusive("x"):
            _lock_file(tmp_path).write_bytes(dead.text)
            assert store.holder("x") == "another process, which has not signed its lock"
            _lock_file(tmp_path).write_bytes(replace(dead, host="elsewhere").text)
            assert (store.holder("x") or "").startswith(f"process {ended.pid} on host 'elsewhere'")

    def test_a_signature_reads_back(self) -> None:
        here = locks.Holder.here()
        assert locks.Holder.parse(here.text) == here
        assert not here.is_dead

    def test_a_lock_that_cannot_be_made_is_an_error_of_the_storage(self, store: PosixStore, tmp_path: Path) -> None:
        _lock_file(tmp_path).mkdir(parents=True)
        with pytest.raises(StorageError, match="cannot lock "), store.exclusive("x"):
            pytest.fail("a folder was locked")


class TestReplace:
    """Between its look at the present object and its own taking the name, nothing else may change the object."""

    @pytest.fixture
    def held(self, store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Future[str], threading.Event]]:
        """A replacement of "x" that has looked, and the event that lets it go on."""
        looked, go_on = threading.Event(), threading.Event()
        status = files.status_of

        def slow(path: Path) -> os.stat_result | None:
            found = status(path)
            if not looked.is_set():
                looked.set()
                assert go_on.wait(30)
            return found

        etag = store.create("x", b"old")
        monkeypatch.setattr(files, "status_of", slow)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(store.replace, "x", b"first", etag)
            assert looked.wait(30)
            yield first, go_on
            go_on.set()

    def test_a_second_replacement_waits_and_is_refused(
        self, store: PosixStore, held: tuple[Future[str], threading.Event]
    ) -> None:
        first, go_on = held
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(store.replace, "x", b"second", store.head("x").etag)
            with pytest.raises(TimeoutError):
                second.result(0.3)
            go_on.set()
            with pytest.raises(PreconditionFailedError):
                second.result(30)
        assert store.get("x").data == b"first"
        assert store.head("x").etag == first.result(30)

    def test_a_removal_of_the_former_version_waits_and_is_refused(
        self, store: PosixStore, held: tuple[Future[str], threading.Event]
    ) -> None:
        first, go_on = held
        with ThreadPoolExecutor(1) as pool:
            removal = pool.submit(store.delete, "x", store.head("x").etag)
            with pytest.raises(TimeoutError):
                removal.result(0.3)
            go_on.set()
            with pytest.raises(PreconditionFailedError):
                removal.result(30)
        assert store.head("x").etag == first.result(30)

    def test_a_change_that_does_not_end_is_an_error_that_names_its_lock(
        self, store: PosixStore, held: tuple[Future[str], threading.Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(posix, "_REPLACE_PATIENCE", 0.2)
        for change in (lambda: store.replace("x", b"second", store.head("x").etag), lambda: store.delete("x")):
            with pytest.raises(StorageError, match=r"another process has held .*/replace/\d\d\.lock for 0\.2 s"):
                change()

    def test_a_removal_waits_and_is_not_undone(
        self, store: PosixStore, held: tuple[Future[str], threading.Event]
    ) -> None:
        first, go_on = held
        with ThreadPoolExecutor(1) as pool:
            removal = pool.submit(store.delete, "x")
            with pytest.raises(TimeoutError):
                removal.result(0.3)
            go_on.set()
            removal.result(30)
        assert first.result(30)
        with pytest.raises(NotFoundError):
            store.head("x")


@contextmanager
def _when_free(store: PosixStore, name: str) -> Iterator[None]:
    """Hold a lock as soon as nobody else does."""
    with ExitStack() as stack:
        _until(lambda: _entered(stack, store, name))
        yield


def _entered(stack: ExitStack, store: PosixStore, name: str) -> bool:
    try:
        stack.enter_context(store.exclusive(name))
    except BusyError:
        return False
    return True


def _lock_file(tmp_path: Path) -> Path:
    return tmp_path / "root/.zcommits/locks/x.lock"


@contextmanager
def _holder(root: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds a lock until it is killed."""
    script = (
        "import sys, signal\n"
        "from zcollection_engine.stores.posix import PosixStore\n"
        "with PosixStore(sys.argv[1]).exclusive(sys.argv[2]):\n"
        "    print(flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(root), name], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
