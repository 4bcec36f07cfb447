"""Stores for the tasks of a `Schedule`."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from zcollection_engine.errors import EngineError, NotFoundError, StorageError
from zcollection_engine.stores.base import ObjectInfo, ObjectStore, StoredObject
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.processes import Process, Step
from zcollection_engine.testing.schedule import Schedule, VirtualClock, current_task
from zcollection_engine.testing.stores import Method, _Wrapper

_T = TypeVar("_T")

#: Called with method and key after every operation that was carried out, before any other task can run.
Watch = Callable[[str, str], None]

_CHANGES = ("create", "replace", "delete")
_PAGE = 7


class VirtualMemoryStore(MemoryStore):
    """Objects in memory whose times are those of a schedule. ETags never recur.

    The objects of an earlier store with the same URL are forgotten.
    """

    def __init__(self, url: str, schedule: Schedule) -> None:
        super().__init__(url)
        self.clear()
        self._clock = VirtualClock(schedule)
        self._versions = itertools.count(1)

    def get(self, key: str) -> StoredObject:
        found = self._space.objects.get(f"{self._root.prefix}{key}")
        if found is None:
            raise NotFoundError(f"there is no object {self._url}/{key}")
        info = found.info
        return StoredObject(found.data, ObjectInfo(key, info.size, info.etag, info.modified))

    def put(self, key: str, data: bytes) -> str:
        """Write an object under no condition; returns its ETag."""
        with self._space.lock:
            return self._put(self._root.absolute(key), data)

    def _put(self, full: str, data: bytes) -> str:
        etag = self._etag(data)
        info = ObjectInfo(full, len(data), etag, self._clock.now())
        self._space.objects[full] = StoredObject(bytes(data), info)
        return etag

    def _etag(self, data: bytes) -> str:
        return f"v{next(self._versions)}"


class ScheduledStore(_Wrapper):
    """The store as one process sees it: every operation is a switch point, before and after.

    A listing is read in pages, with a switch point at each, as object stores do it. For threads that are no tasks the
    store is the plain one.

    Parameters
    ----------
    inner
        The store that all processes share.
    schedule, process
        Whose operations these are.
    watch
        Sees every operation that was carried out.
    """

    def __init__(self, inner: ObjectStore, schedule: Schedule, process: Process, watch: Watch) -> None:
        super().__init__(inner)
        self._schedule = schedule
        self._process = process
        self._watch = watch

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        last: str | None = after
        while last is not None:
            page, last = self._page(prefix, last)
            yield from page

    def _page(self, prefix: str, after: str) -> tuple[tuple[ObjectInfo, ...], str | None]:
        def fetch() -> tuple[ObjectInfo, ...]:
            return tuple(itertools.islice(self._inner.list(prefix, after=after), _PAGE))

        page = self._around("list", prefix, fetch)
        return page, page[-1].key if len(page) == _PAGE else None

    def _around(self, method: Method, key: str, call: Callable[[], _T], *, sent: int = 0) -> _T:
        task = current_task()
        if task is None:
            return call()
        self._arrive(task.name, method, key)
        try:
            result = call()
        except EngineError as error:
            self._note(task.name, method, key, error.code)
            self._schedule.switch()
            raise
        self._note(task.name, method, key, "ok")
        self._depart(task.name, method, key)
        return result

    def _arrive(self, task: str, method: Method, key: str) -> None:
        schedule, risks = self._schedule, self._schedule.disturbances
        schedule.switch()
        if not self._process.steady:
            if schedule.happens(risks.slow):
                schedule.sleep(schedule.pause_length())
            if schedule.happens(risks.failed):
                self._note(task, method, key, "injected failure")
                raise StorageError(f"injected fault: {method} {key!r} failed", key=key)
        schedule.elapse()

    def _depart(self, task: str, method: Method, key: str) -> None:
        schedule = self._schedule
        if method in _CHANGES:
            self._look(method, key)
        schedule.switch()
        if not self._process.steady and schedule.happens(schedule.disturbances.lost):
            self._note(task, method, key, "injected loss of the answer")
            raise StorageError(f"injected fault: the answer to {method} {key!r} is lost", key=key)

    def _look(self, method: Method, key: str) -> None:
        try:
            self._watch(method, key)
        except Exception:  # noqa: BLE001 - the engine must not take it for an error of the storage
            self._schedule.fail(f"the watch failed at {method} {key}:\n{traceback.format_exc()}")

    def _note(self, task: str, method: Method, key: str, outcome: str) -> None:
        schedule = self._schedule
        schedule.trace.append(Step(schedule.steps, schedule.now, task, method, key, outcome))
