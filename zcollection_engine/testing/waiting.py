"""Locks, events and threads for tasks of a `Schedule`: they give way and wait in virtual time instead of blocking."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from zcollection_engine.testing.schedule import Task, current_task


class TaskLock:
    """A lock, reentrant or not needed to be, that gives way while another task has it."""

    def __init__(self) -> None:
        self._owner: Task | None = None
        self._depth = 0
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        task = current_task()
        while task is not None and self._depth and self._owner is not task:
            if not blocking:
                return False
            self._waiting.append(task)
            task.schedule.wait(task)
        self._owner = task
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            _wake(self._waiting)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class TaskEvent:
    """A `threading.Event` in virtual time."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        _wake(self._waiting)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        task = current_task()
        if task is None:
            return self._set
        until = math.inf if timeout is None else task.schedule.now + timeout
        while not self._set and task.schedule.now < until:
            self._waiting.append(task)
            task.schedule.wait(task, until)
        return self._set


class TaskThread:
    """A `threading.Thread` that is a task of the process that starts it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name = name or "thread"
        self.daemon = daemon
        self._target = target
        self._args, self._kwargs = args, kwargs or {}
        self._task: Task | None = None

    def start(self) -> None:
        parent = current_task()
        if parent is None:
            raise RuntimeError(f"the thread {self.name!r} can only be started by a task of a schedule")

        def run() -> None:
            if self._target is not None:
                self._target(*self._args, **self._kwargs)

        self._task = parent.schedule.spawn(parent.process, f"{parent.name}*", run)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done

    def join(self, timeout: float | None = None) -> None:
        task = current_task()
        if task is None or self._task is None:
            return
        until = math.inf if timeout is None else task.schedule.now + timeout
        while not self._task.done and task.schedule.now < until:
            self._task.waiting.append(task)
            task.schedule.wait(task, until)


def _wake(waiting: list[Task]) -> None:
    for task in waiting:
        task.schedule.wake(task)
    waiting.clear()
