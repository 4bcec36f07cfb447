"""Objects in this process's memory, with the exact semantics of a good object store. For tests and trials."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError
from zcollection_engine.stores.base import ObjectInfo, StoredObject
from zcollection_engine.stores.keys import Root

PROTOCOL = "memory://"


@dataclass
class _Space:
    """All objects under one name, shared by every store of this process that names it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    objects: dict[str, StoredObject] = field(default_factory=dict)


_SPACES: dict[str, _Space] = {}
_SPACES_LOCK = threading.Lock()
_VERSIONS = itertools.count(1)


class MemoryStore:
    """A store whose objects live as long as the process.

    Parameters
    ----------
    url
        "memory://name" or "memory://name/folder". Every store with the same name, an unpickled one too, sees the
        same objects.
    """

    conditional = True
    conditional_delete = True

    def __init__(self, url: str) -> None:
        if not url.startswith(PROTOCOL):
            raise InvalidInputError(f"{url!r} is not the URL of a store in memory; write {PROTOCOL}name")
        name, _, folder = url.removeprefix(PROTOCOL).partition("/")
        self._root = Root.of(folder)
        self._url = PROTOCOL + name + ("/" + self._root.prefix[:-1] if self._root.prefix else "")
        with _SPACES_LOCK:
            self._space = _SPACES.setdefault(name, _Space())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,)

    def __repr__(self) -> str:
        return f"MemoryStore({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    def get(self, key: str) -> StoredObject:
        found = self._space.objects.get(self._root.absolute(key))
        if found is None:
            raise NotFoundError(f"there is no object {self._url}/{key}")
        return StoredObject(found.data, replace(found.info, key=key))

    def head(self, key: str) -> ObjectInfo:
        return self.get(key).info

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        start = self._root.absolute_prefix(prefix)
        with self._space.lock:
            found = [o.info for key, o in self._space.objects.items() if key.startswith(start)]
        infos = (replace(info, key=self._root.relative(info.key)) for info in found)
        return iter(sorted((i for i in infos if i.key > after), key=lambda i: i.key))

    def create(self, key: str, data: bytes) -> str:
        full = self._root.absolute(key)
        with self._space.lock:
            if full in self._space.objects:
                raise PreconditionFailedError(f"{self._url}/{key} exists already")
            return self._put(full, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        full = self._root.absolute(key)
        with self._space.lock:
            self._require(key, full, etag)
            return self._put(full, data)

    def delete(self, key: str, etag: str | None = None) -> None:
        full = self._root.absolute(key)
        with self._space.lock:
            if etag is not None:
                self._require(key, full, etag)
            self._space.objects.pop(full, None)

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def holder(self, name: str) -> str | None:
        return None

    def sweep(self, older_than: timedelta) -> int:
        """Do nothing: objects appear whole, and nothing else is written."""
        return 0

    def flush(self) -> None:
        """Do nothing: memory outlives no loss of power."""

    def clear(self) -> None:
        """Forget every object of this root. ETags go on: none recurs."""
        with self._space.lock:
            for key in [k for k in self._space.objects if k.startswith(self._root.prefix)]:
                del self._space.objects[key]

    def _require(self, key: str, full: str, etag: str) -> None:
        present = self._space.objects.get(full)
        if present is None or present.info.etag != etag:
            state = "is gone" if present is None else f"has the ETag {present.info.etag}"
            raise PreconditionFailedError(f"{self._url}/{key} {state}, not {etag}", key=key)

    def _put(self, full: str, data: bytes) -> str:
        etag = f"m{next(_VERSIONS)}"
        info = ObjectInfo(key=full, size=len(data), etag=etag, modified=datetime.now(UTC))
        self._space.objects[full] = StoredObject(bytes(data), info)
        return etag
