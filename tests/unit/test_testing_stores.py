"""The test tools that ship with the engine do what they say."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine_support import FakeClock
from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.faults import Fault, delay, parse_fault, tear
from zcollection_engine.testing.stores import CountingStore, FaultStore, fail_before, lose_response
from zcollection_engine.testing.stores import _same_object as unpickle


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(f"memory://{uuid.uuid4().hex}")


class TestCountingStore:
    def test_it_counts_operations_and_bytes(self, memory: MemoryStore) -> None:
        store = CountingStore(memory)
        etag = store.create("a/x", b"12345")
        store.replace("a/x", b"123", etag)
        assert store.get("a/x").data == b"123"
        assert store.head("a/x").size == 3
        assert [info.key for info in store.list("a/", after="a/")] == ["a/x"]
        store.delete("a/x")
        with store.exclusive("lock"):
            store.flush()
        assert store.requests == dict.fromkeys(
            ("create", "replace", "get", "head", "list", "delete", "exclusive", "flush"), 1
        )
        assert (store.bytes_sent, store.bytes_received) == (8, 3)
        assert store.log[:3] == (("create", "a/x"), ("replace", "a/x"), ("get", "a/x"))
        assert store.keys("list") == ("a/",)
        assert (store.url, store.conditional) == (memory.url, True)

    def test_it_counts_what_fails(self, memory: MemoryStore) -> None:
        store = CountingStore(memory)
        with pytest.raises(NotFoundError):
            store.get("x")
        assert store.requests == {"get": 1}
        assert store.bytes_received == 0

    def test_it_starts_again_from_zero(self, memory: MemoryStore) -> None:
        store = CountingStore(memory)
        store.create("x", b"1")
        store.reset()
        assert (store.log, store.requests, store.bytes_sent) == ((), {}, 0)

    def test_it_loses_no_count_to_threads(self, memory: MemoryStore) -> None:
        store = CountingStore(memory)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda index: store.create(str(index), b"12"), range(500)))
        assert store.requests == {"create": 500}
        assert store.bytes_sent == 1000

    def test_pickling_within_the_process_keeps_the_counts(self, memory: MemoryStore) -> None:
        store = CountingStore(memory)
        assert pickle.loads(pickle.dumps(store)) is store  # noqa: S301 - our own bytes

    def test_it_is_refused_in_another_process(self) -> None:
        with pytest.raises(InvalidInputError, match="process that made it"):
            unpickle(-1)


class TestFaultStore:
    def test_a_failure_before_leaves_the_operation_undone(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [fail_before("create", "log/*", nth=2)])
        store.create("data/1", b"1")
        store.create("log/1", b"1")
        with pytest.raises(StorageError, match="'log/2'"):
            store.create("log/2", b"1")
        store.create("log/3", b"1")
        assert [info.key for info in memory.list()] == ["data/1", "log/1", "log/3"]
        assert store.untriggered == ()

    def test_a_lost_response_leaves_the_operation_done(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [lose_response("create", "x")])
        with pytest.raises(StorageError, match="injected"):
            store.create("x", b"1")
        assert memory.get("x").data == b"1"

    def test_a_fault_can_hit_several_operations_of_any_kind(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [fail_before("*", "x", nth=2, times=2)])
        store.create("x", b"1")
        for call in (store.get, store.head):
            with pytest.raises(StorageError, match="injected"):
                call("x")
        store.delete("x")

    def test_an_operation_that_fails_by_itself_keeps_its_error(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [lose_response("create", "x", nth=2)])
        store.create("x", b"1")
        with pytest.raises(PreconditionFailedError):
            store.create("x", b"1")

    def test_callbacks_run_before_and_after_with_method_and_key(self, memory: MemoryStore) -> None:
        seen: list[tuple[str, str, int]] = []

        def note(method: str, key: str) -> None:
            seen.append((method, key, len(list(memory.list()))))

        store = FaultStore(memory, [Fault("create", before=note, after=note)])
        store.create("x", b"1")
        store.create("y", b"1")
        assert seen == [("create", "x", 0), ("create", "x", 1)]

    def test_a_callback_can_hold_one_writer_while_others_go_on(self, memory: MemoryStore) -> None:
        held, let_go = threading.Event(), threading.Event()

        def hold(_method: str, _key: str) -> None:
            held.set()
            assert let_go.wait(30)

        store = FaultStore(memory, [Fault("replace", "x", before=hold)])
        etag = store.create("x", b"0")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(store.replace, "x", b"late", etag)
            assert held.wait(30)
            store.replace("x", b"early", etag)
            let_go.set()
            with pytest.raises(PreconditionFailedError):
                late.result(30)
        assert memory.get("x").data == b"early"

    def test_a_fault_that_hit_nothing_is_told(self, memory: MemoryStore) -> None:
        plan = [fail_before("get"), lose_response("create", nth=2)]
        store = FaultStore(memory, plan)
        store.create("x", b"1")
        assert store.untriggered == tuple(plan)

    def test_a_torn_object_is_written_by_half(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [tear("create", "x"), tear("replace", "y", nth=2)])
        with pytest.raises(StorageError, match="injected"):
            store.create("x", b"12345678")
        assert memory.get("x").data == b"1234"
        etag = store.replace("y", b"whole", store.create("y", b"first"))
        with pytest.raises(StorageError, match="injected"):
            store.replace("y", b"halves", etag)
        assert memory.get("y").data == b"hal"

    def test_a_delay_lasts_until_its_event(self, memory: MemoryStore) -> None:
        let_go = threading.Event()
        store = FaultStore(memory, [delay("before", "create", "late", until=let_go)])
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(store.create, "late", b"1")
            store.create("early", b"1")
            assert [info.key for info in memory.list()] == ["early"]
            let_go.set()
            late.result(30)
        assert [info.key for info in memory.list()] == ["early", "late"]

    def test_a_delay_passes_on_the_clock_that_it_is_given(self, memory: MemoryStore) -> None:
        clock = FakeClock()
        store = FaultStore(memory, [delay("after", "get", clock=clock, seconds=90.0)])
        store.create("x", b"1")
        store.get("x")
        assert clock.slept == [90.0]


class TestFaultsAsText:
    @pytest.mark.parametrize(
        ("text", "done"),
        [("fail before create x 1", False), ("fail after create x 1", True), ("lose after * x* 1", True)],
    )
    def test_a_failure_is_read_from_text(self, memory: MemoryStore, text: str, done: bool) -> None:
        store = FaultStore(memory, [parse_fault(text)])
        with pytest.raises(StorageError, match="injected"):
            store.create("x", b"12")
        assert [info.key for info in memory.list()] == (["x"] if done else [])

    def test_tearing_is_read_from_text_and_counts(self, memory: MemoryStore) -> None:
        store = FaultStore(memory, [parse_fault("tear after create log/* 2")])
        store.create("log/1", b"1234")
        store.create("x", b"1234")
        with pytest.raises(StorageError, match="injected"):
            store.create("log/2", b"1234")
        assert [info.size for info in memory.list()] == [4, 2, 4]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("kill after create *", "five words"),
            ("kill after create * 0", "five words"),
            ("kill after create * often", "five words"),
            ("kill after write * 1", "method 'write'"),
            ("burn after create * 1", "'burn' 'after'"),
            ("kill amid create * 1", "'kill' 'amid'"),
            ("lose before create * 1", "'lose' 'before'"),
        ],
    )
    def test_what_is_no_fault_is_refused_with_the_way_to_write_one(self, text: str, expected: str) -> None:
        with pytest.raises(InvalidInputError, match=expected):
            parse_fault(text)

    @pytest.mark.parametrize(("when", "left"), [("before", ["1", "2"]), ("after", ["1", "2", "3"])])
    def test_the_process_is_killed_at_the_operation(self, tmp_path: Path, when: str, left: list[str]) -> None:
        with _victim(tmp_path, f"kill {when} create * 3") as process:
            assert process.wait(30) == -signal.SIGKILL
        assert [info.key for info in PosixStore(tmp_path).list()] == left

    def test_the_process_is_stopped_at_the_operation_and_goes_on(self, tmp_path: Path) -> None:
        with _victim(tmp_path, "stop after create * 2") as process:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert [info.key for info in PosixStore(tmp_path).list()] == ["1", "2"]
            process.send_signal(signal.SIGCONT)
            assert process.wait(30) == 0
        assert [info.key for info in PosixStore(tmp_path).list()] == ["1", "2", "3", "4"]


_VICTIM = """
import sys
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import FaultStore, parse_fault
store = FaultStore(PosixStore(sys.argv[1]), [parse_fault(sys.argv[2])])
for number in "1234":
    store.create(number, b"1")
"""


@contextmanager
def _victim(folder: Path, fault: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _VICTIM, str(folder), fault]) as process:
        try:
            yield process
        finally:
            process.kill()
