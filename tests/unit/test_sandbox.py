"""Calls that crash, eat memory, loop, raise or return: the sandbox survives each and tells which."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.testing.sandbox import Limits, Sandbox, SandboxError

_MEMORY = Limits(memory_nbytes=64 << 20)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(preload=["wave", __name__]) as made:
        yield made


def double(value: int) -> int:
    return 2 * value


def identity() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def refuse() -> NoReturn:
    raise InvalidGranuleError("g.nc: damaged", reason="unreadable", granule="g.nc")


class UnpicklableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_unpicklable() -> NoReturn:
    raise UnpicklableError(1, 2)


def unpicklable() -> Any:
    return lambda: None


def dereference_null() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def say_and_abort() -> None:
    os.write(2, b"free(): invalid pointer\n")
    os.abort()


def allocate(nbytes: int) -> int:
    return len(bytearray(nbytes))


def hoard() -> None:
    hoarded = []
    while True:
        hoarded.append(bytearray(1 << 10))


def loop() -> None:
    while True:
        pass


def wait(*, and_close_all: bool = False) -> None:
    if and_close_all:
        os.closerange(0, 64)
    while True:
        signal.pause()


def wait_closed() -> None:
    wait(and_close_all=True)


def grow() -> int:
    return len(bytearray(b"\1") * (32 << 20))


def core_limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_CORE)


def imported() -> bool:
    return "wave" in sys.modules


def still_works(sandbox: Sandbox) -> bool:
    return bool(sandbox.run(double, 21).value == 42)


def test_a_function_that_returns_gives_its_value(sandbox: Sandbox) -> None:
    outcome = sandbox.run(double, 4)
    assert (outcome.kind, outcome.value, outcome.status, str(outcome)) == ("returned", 8, 0, "returned")


def test_a_large_value_comes_back_whole(sandbox: Sandbox) -> None:
    assert sandbox.run(bytes, 5 << 20).value == bytes(5 << 20)


def test_each_call_is_a_child_of_the_one_sandbox(sandbox: Sandbox) -> None:
    (first, parent), (second, again) = (sandbox.run(identity).value for _ in range(2))
    assert parent == again == sandbox.pid
    assert len({os.getpid(), first, second, parent}) == 4


def test_what_is_preloaded_is_there_without_an_import(sandbox: Sandbox) -> None:
    assert sandbox.run(imported).value is True


def test_a_function_that_raises_gives_its_error_with_its_context(sandbox: Sandbox) -> None:
    outcome = sandbox.run(refuse)
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, InvalidGranuleError)
    assert (outcome.error.code, outcome.error.context["granule"]) == ("unreadable", "g.nc")
    assert "in refuse" in outcome.output
    assert str(outcome) == "raised InvalidGranuleError: g.nc: damaged"


def test_an_error_that_cannot_be_pickled_gives_its_text(sandbox: Sandbox) -> None:
    outcome = sandbox.run(raise_unpicklable)
    assert (outcome.kind, str(outcome.error)) == ("raised", "UnpicklableError: 1 and 2")


def test_a_value_that_cannot_be_pickled_is_an_error(sandbox: Sandbox) -> None:
    outcome = sandbox.run(unpicklable)
    assert outcome.kind == "raised"
    assert "cannot be pickled" in str(outcome.error)


def test_a_segmentation_fault_is_told_with_the_place(sandbox: Sandbox) -> None:
    outcome = sandbox.run(dereference_null)
    assert (outcome.kind, outcome.status) == ("crashed", -signal.SIGSEGV)
    assert "in dereference_null" in outcome.output
    assert str(outcome).startswith("crashed by signal 11")
    assert still_works(sandbox)


def test_an_abort_is_told_with_the_last_words_and_not_with_those_of_earlier_calls(sandbox: Sandbox) -> None:
    outcome = sandbox.run(say_and_abort)
    assert (outcome.kind, outcome.status) == ("crashed", -signal.SIGABRT)
    assert outcome.output.startswith("free(): invalid pointer")
    assert sandbox.run(double, 1).output == ""


def test_an_end_without_an_answer_is_a_crash(sandbox: Sandbox) -> None:
    outcome = sandbox.run(leave)
    assert (outcome.kind, outcome.status) == ("crashed", 3)
    assert "exit code 3" in str(outcome)
    assert still_works(sandbox)


@pytest.mark.parametrize("name", ["at once", "by and by"])
def test_too_much_memory_is_refused(sandbox: Sandbox, name: str) -> None:
    if name == "at once":
        outcome = sandbox.run(allocate, 96 << 20, limits=_MEMORY)
    else:
        outcome = sandbox.run(hoard, limits=_MEMORY)
    assert (outcome.kind, str(outcome)) == ("out_of_memory", "out of memory")
    assert outcome.peak_nbytes <= 1.5 * _MEMORY.memory_nbytes
    assert still_works(sandbox)


def test_memory_within_the_limit_is_given_and_measured(sandbox: Sandbox) -> None:
    assert sandbox.run(allocate, 60 << 20, limits=_MEMORY).value == 60 << 20
    peaks = [sandbox.run(function, *args).peak_nbytes for function, args in ((double, (1,)), (grow, ()))]
    assert peaks[0] < 24 << 20
    assert 30 << 20 <= peaks[1] < 64 << 20


def test_a_loop_ends_with_its_processor_time(sandbox: Sandbox) -> None:
    outcome = sandbox.run(loop, limits=Limits(cpu_seconds=1.0))
    assert (outcome.kind, outcome.status) == ("timed_out", -signal.SIGXCPU)
    assert "processor" in str(outcome)
    assert "in loop" in outcome.output
    assert still_works(sandbox)


@pytest.mark.parametrize("function", [wait, wait_closed])
def test_a_wait_ends_at_the_wall_clocks_limit(sandbox: Sandbox, function: Any) -> None:
    begun = time.monotonic()
    outcome = sandbox.run(function, limits=Limits(wall_seconds=0.3))
    assert time.monotonic() - begun >= 0.3
    assert (outcome.kind, outcome.status) == ("timed_out", -signal.SIGKILL)
    assert "wall-clock" in str(outcome)
    assert still_works(sandbox)


def test_no_child_leaves_a_core_dump(sandbox: Sandbox) -> None:
    assert sandbox.run(core_limit).value == (1, 1)


def test_a_module_that_cannot_be_imported_is_told_at_entry(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SandboxError, match="ended with 1"), Sandbox(preload=["no_such_module"]):
        pytest.fail("it was entered")
    assert "no_such_module" in capfd.readouterr().err


def test_a_sandbox_that_was_killed_says_so() -> None:
    with Sandbox() as made:
        os.kill(made.pid, signal.SIGKILL)
        with pytest.raises(SandboxError, match="ended with -9"):
            made.run(double, 1)


def test_leaving_it_ends_its_process() -> None:
    with Sandbox() as made:
        pid = made.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
