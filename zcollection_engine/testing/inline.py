"""Let the engine's threads be tasks of a `Schedule`, so that it runs in steps.

In `tasks_for_threads`, pools of threads do their work in the caller's own thread, in an order that the schedule draws;
threads and events become tasks that wait in virtual time; locks give way instead of blocking; zarr's coroutines run in
the caller's thread, and those that outlive a failure go on as a task of their own, as they do on zarr's event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar
from unittest import mock

import zarr.core.common
import zarr.core.sync

from zcollection_engine.clock import SystemClock
from zcollection_engine.testing.schedule import Schedule, Task, VirtualClock, current_task
from zcollection_engine.testing.waiting import TaskEvent, TaskLock, TaskThread

_T = TypeVar("_T")
_ENGINE = "zcollection_engine."
_TOOLS = "zcollection_engine.testing."


@contextlib.contextmanager
def tasks_for_threads() -> Iterator[None]:
    """Patch the engine's and zarr's modules that are loaded; outside of a task everything is as it was, but in line."""
    with contextlib.ExitStack() as stack:
        for holder, name, new in [*_in_engine(), *_in_zarr(), *_in_time(), (asyncio, "to_thread", _call)]:
            stack.enter_context(mock.patch.object(holder, name, new))
        stack.callback(_close_loops)
        yield


@contextlib.contextmanager
def repeatable(schedule: Schedule) -> Iterator[None]:
    """Let the global random numbers follow from a schedule's seed."""
    state = random.getstate()
    random.seed(schedule.seed)
    try:
        yield
    finally:
        random.setstate(state)


def _in_engine() -> Iterator[tuple[Any, str, Any]]:
    new = {
        "ThreadPoolExecutor": (concurrent.futures.ThreadPoolExecutor, TaskPool),
        "threading": (threading, _Threading()),
        "uuid": (uuid, _Uuid()),
        "Lock": (threading.Lock, TaskLock),
        "RLock": (threading.RLock, TaskLock),
    }
    for module in _modules(_ENGINE):
        if module.__name__.startswith(_TOOLS):
            continue
        for name, (old, replacement) in new.items():
            if getattr(module, name, None) is old:
                yield module, name, replacement


def _in_zarr() -> Iterator[tuple[Any, str, Any]]:
    for module in _modules("zarr."):
        if getattr(module, "sync", None) is zarr.core.sync.sync:
            yield module, "sync", _run_here
        if getattr(module, "concurrent_map", None) is zarr.core.common.concurrent_map:
            yield module, "concurrent_map", _one_by_one


def _in_time() -> Iterator[tuple[Any, str, Any]]:
    """A clock that the engine makes itself tells virtual time, too."""

    def virtual(name: str) -> Callable[..., Any]:
        real = getattr(SystemClock, name)

        def call(self: SystemClock, *args: Any) -> Any:
            task = current_task()
            return real(self, *args) if task is None else getattr(VirtualClock(task.schedule), name)(*args)

        return call

    return ((SystemClock, name, virtual(name)) for name in ("now", "monotonic", "sleep"))


def _modules(prefix: str) -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if name.startswith(prefix)]


async def _call(function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T:
    return function(*args, **kwargs)


async def _one_by_one(
    items: Iterable[Any], function: Callable[..., Awaitable[_T]], limit: int | None = None
) -> list[_T]:
    """Do for chunks, in a drawn order, what zarr does for several at a time.

    When one fails, zarr lets the others go on after it has raised the error; so they become a task of their own.
    """
    given = list(items)
    task = current_task()
    order = list(range(len(given)))
    if task is not None and len(order) > 1:
        task.schedule.random.shuffle(order)
    results: dict[int, _T] = {}
    for place, index in enumerate(order):
        try:
            results[index] = await function(*given[index])
        except Exception:
            if task is not None:
                _leave_behind(task, function, [given[i] for i in order[place + 1 :]])
            raise
    return [results[index] for index in range(len(given))]


def _leave_behind(task: Task, function: Callable[..., Awaitable[Any]], left: Sequence[Any]) -> None:
    async def settle(item: Any) -> None:
        with contextlib.suppress(Exception):  # nobody is left to be told
            await function(*item)

    def finish() -> None:
        for item in left:
            _run_here(settle(item))

    if left:
        task.schedule.spawn(task.process, f"{task.name}+", finish)


_loops: list[asyncio.AbstractEventLoop] = []


def _run_here(
    coroutine: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop | None = None, timeout: float | None = None
) -> _T:
    """Run a coroutine to its end in this thread: what zarr's ``sync`` does on its own loop.

    A loop turns only while the coroutine waits for something, which it rarely does here.
    """
    own = _loops.pop() if _loops else asyncio.new_event_loop()
    try:
        while True:
            asyncio._set_running_loop(own)  # noqa: SLF001 - what every event loop calls before it runs a coroutine
            try:
                awaited = coroutine.send(None)
            except StopIteration as end:
                result: _T = end.value
                return result
            finally:
                asyncio._set_running_loop(None)  # noqa: SLF001 - the same
            if awaited is not None:
                own.run_until_complete(_end_of(awaited))
    finally:
        coroutine.close()
        _loops.append(own)


async def _end_of(future: asyncio.Future[Any]) -> None:
    """Return when a future is done; whoever awaits it takes the result."""
    future._asyncio_future_blocking = False  # noqa: SLF001 - part of the protocol between futures and their drivers
    await asyncio.wait([future])


def _close_loops() -> None:
    while _loops:
        _loops.pop().close()


class _Future(Generic[_T]):
    def __init__(self, pool: TaskPool, call: Callable[[], _T]) -> None:
        self._pool = pool
        self._call = call
        self._result: list[_T] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except Exception as error:  # noqa: BLE001 - kept for whoever asks for the result
            self._error = error

    def result(self, timeout: float | None = None) -> _T:
        self._pool.work()
        if self._error is not None:
            raise self._error
        return self._result[0]


class TaskPool:
    """A pool of threads without threads: the work is done when a result is wanted, all of it, in a drawn order."""

    def __init__(self, max_workers: int | None = None, **_: Any) -> None:
        self._pending: list[_Future[Any]] = []

    def __enter__(self) -> TaskPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.work()

    def submit(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _Future[_T]:
        future = _Future(self, lambda: function(*args, **kwargs))
        self._pending.append(future)
        return future

    def map(self, function: Callable[..., _T], *iterables: Iterable[Any]) -> Iterator[_T]:
        futures = [self.submit(function, *args) for args in zip(*iterables, strict=False)]
        return (future.result() for future in futures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.work()

    def work(self) -> None:
        """Do what is pending."""
        pending, self._pending = self._pending, []
        task = current_task()
        if task is not None:
            task.schedule.random.shuffle(pending)
        for future in pending:
            future.run()


class _Threading:
    """The module ``threading`` with tasks for threads."""

    Thread = TaskThread
    Event = TaskEvent
    Lock = TaskLock
    RLock = TaskLock

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _Uuid:
    """The module ``uuid`` with identifiers that follow from a schedule's seed."""

    def uuid4(self) -> uuid.UUID:
        task = current_task()
        return uuid.uuid4() if task is None else uuid.UUID(int=task.schedule.identifiers.getrandbits(128), version=4)

    def __getattr__(self, name: str) -> Any:
        return getattr(uuid, name)
