"""Stores that watch or disturb another one: test tools that ship with the engine.

Both can be pickled, but only within their process: what is unpickled there is the same object, and elsewhere it is
refused, since counts and plans of two processes would not add up.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.stores.base import ObjectInfo, ObjectStore, StoredObject
from zcollection_engine.testing.faults import Fault, Method, fail_before, lose_response, parse_fault

__all__ = ["CountingStore", "Fault", "FaultStore", "Method", "fail_before", "lose_response", "parse_fault"]

_T = TypeVar("_T")


class _Wrapper(ABC):
    """An `ObjectStore` that passes every operation through `_around`."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._token = next(_TOKENS)
        _WRAPPERS[self._token] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _same_object, (self._token,)

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def conditional(self) -> bool:
        return self._inner.conditional

    @property
    def conditional_delete(self) -> bool:
        return self._inner.conditional_delete

    def get(self, key: str) -> StoredObject:
        return self._around("get", key, lambda: self._inner.get(key))

    def head(self, key: str) -> ObjectInfo:
        return self._around("head", key, lambda: self._inner.head(key))

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Pass the listing on; it is complete before its first object is returned."""
        return iter(self._around("list", prefix, lambda: tuple(self._inner.list(prefix, after=after))))

    def create(self, key: str, data: bytes) -> str:
        return self._around("create", key, lambda: self._inner.create(key, data), sent=len(data))

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self._around("replace", key, lambda: self._inner.replace(key, data, etag), sent=len(data))

    def delete(self, key: str, etag: str | None = None) -> None:
        self._around("delete", key, lambda: self._inner.delete(key, etag))

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        return self._around("exclusive", name, lambda: self._inner.exclusive(name))

    def holder(self, name: str) -> str | None:
        """Pass the question on, neither counted nor disturbed: it goes to a kernel, not to a store."""
        return self._inner.holder(name)

    def sweep(self, older_than: timedelta) -> int:
        return self._inner.sweep(older_than)

    def flush(self) -> None:
        self._around("flush", "", self._inner.flush)

    @abstractmethod
    def _around(self, method: Method, key: str, call: Callable[[], _T], *, sent: int = 0) -> _T:
        """Carry out ``call``, an operation that sends ``sent`` bytes."""


_TOKENS = itertools.count()
_WRAPPERS: WeakValueDictionary[int, _Wrapper] = WeakValueDictionary()


def _same_object(token: int) -> _Wrapper:
    found = _WRAPPERS.get(token)
    if found is None:
        raise InvalidInputError("a counting or faulty store lives only in the process that made it")
    return found


class CountingStore(_Wrapper):
    """A store that counts what is asked of another one, failed operations included. Thread-safe.

    A listing counts as one operation, however many pages the server needs for it.

    Parameters
    ----------
    inner
        The store that does the work.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._log: list[tuple[Method, str]] = []
        self._bytes: Counter[str] = Counter()

    @property
    def log(self) -> tuple[tuple[Method, str], ...]:
        """Every operation since the start or the last `reset`: its method and key, in the order of their starts."""
        with self._lock:
            return tuple(self._log)

    @property
    def requests(self) -> Counter[str]:
        """Operations by method."""
        return Counter(method for method, _ in self.log)

    @property
    def bytes_sent(self) -> int:
        """Bytes of all `create` and `replace`."""
        with self._lock:
            return self._bytes["sent"]

    @property
    def bytes_received(self) -> int:
        """Bytes of all `get`."""
        with self._lock:
            return self._bytes["received"]

    def keys(self, method: Method) -> tuple[str, ...]:
        """Return the keys of all operations of one method, in order."""
        return tuple(key for found, key in self.log if found == method)

    def reset(self) -> None:
        """Start counting from zero."""
        with self._lock:
            self._log.clear()
            self._bytes.clear()

    def _around(self, method: Method, key: str, call: Callable[[], _T], *, sent: int = 0) -> _T:
        with self._lock:
            self._log.append((method, key))
            self._bytes["sent"] += sent
        result = call()
        if isinstance(result, StoredObject):
            with self._lock:
                self._bytes["received"] += len(result.data)
        return result


class FaultStore(_Wrapper):
    """A store that disturbs chosen operations of another one. Thread-safe; callbacks run in the caller's thread.

    Parameters
    ----------
    inner
        The store that does the work.
    plan
        The faults; each counts its own matches. `Fault.before` and `Fault.after` may also pause or kill.
    """

    def __init__(self, inner: ObjectStore, plan: Iterable[Fault]) -> None:
        super().__init__(inner)
        self._plan = tuple(plan)
        self._seen = [0] * len(self._plan)

    @property
    def untriggered(self) -> tuple[Fault, ...]:
        """Faults that have hit nothing yet: a test asserts that none is left."""
        with self._lock:
            return tuple(fault for fault, seen in zip(self._plan, self._seen, strict=True) if seen < fault.nth)

    def create(self, key: str, data: bytes) -> str:
        hits = self._hits("create", key)
        return _disturbed(hits, "create", key, lambda: self._inner.create(key, _remaining(data, hits)))

    def replace(self, key: str, data: bytes, etag: str) -> str:
        hits = self._hits("replace", key)
        return _disturbed(hits, "replace", key, lambda: self._inner.replace(key, _remaining(data, hits), etag))

    def _around(self, method: Method, key: str, call: Callable[[], _T], *, sent: int = 0) -> _T:
        return _disturbed(self._hits(method, key), method, key, call)

    def _hits(self, method: Method, key: str) -> tuple[Fault, ...]:
        hits = []
        with self._lock:
            for index, fault in enumerate(self._plan):
                if fault.matches(method, key):
                    self._seen[index] += 1
                    if fault.nth <= self._seen[index] < fault.nth + fault.times:
                        hits.append(fault)
        return tuple(hits)


def _disturbed(hits: Iterable[Fault], method: Method, key: str, call: Callable[[], _T]) -> _T:
    for fault in hits:
        if fault.before is not None:
            fault.before(method, key)
    result = call()
    for fault in hits:
        if fault.after is not None:
            fault.after(method, key)
    return result


def _remaining(data: bytes, hits: Iterable[Fault]) -> bytes:
    return data[: len(data) // 2] if any(fault.halves for fault in hits) else data
