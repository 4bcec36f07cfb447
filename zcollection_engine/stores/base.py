"""The one protocol through which the engine touches storage.

Four promises carry the commit protocol: an object appears whole, a read after a write sees it, an object can be
created only if absent, and replaced only if unchanged. A store that cannot keep one of them must not be used by
several writers; `ObjectStore.conditional` tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from zcollection_engine.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells of an object without its bytes.

    Attributes
    ----------
    key
        Name relative to the store's root, "/" between the parts.
    size
        Bytes.
    etag
        Opaque version of the object's content, unquoted; equal for equal versions in ``head``, ``get``, ``list``
        and in what ``create`` and ``replace`` return.
    modified
        Time of the last write by the store's clock, in UTC.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes and what the same response told of it."""

    data: bytes
    info: ObjectInfo


class ObjectStore(Protocol):
    """A flat space of objects below one root URL. Instances are thread-safe and picklable.

    All methods raise `StorageError` when the environment fails, and `InvalidInputError` for a key that
    `zcollection_engine.stores.keys.check_key` refuses. A conditional write whose answer was lost is sent again and
    settled by the store: `PreconditionFailedError` always means another write than this call's own, and
    `OutcomeUnknownError` that nothing is known.
    """

    @property
    def url(self) -> str:
        """Root of the store, without a trailing slash."""

    @property
    def conditional(self) -> bool:
        """Whether `create` and `replace` are exact under concurrency; if not, only one writer may use the store."""

    @property
    def conditional_delete(self) -> bool:
        """Whether `delete` takes an ETag; where it does not, replace the object by a tombstone."""

    def get(self, key: str) -> StoredObject:
        """Return an object; raises `NotFoundError`."""

    def head(self, key: str) -> ObjectInfo:
        """Describe an object; raises `NotFoundError`."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Describe all objects whose key starts with ``prefix`` and sorts behind ``after``, in order of their keys.

        The order is that of the keys' code points, which UTF-8 keeps.

        ``prefix`` is a folder ("a/b/") or empty. Objects being written are never listed.
        """

    def create(self, key: str, data: bytes) -> str:
        """Write an object that must not exist yet and return its ETag; raises `PreconditionFailedError`."""

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write an object whose present ETag must be ``etag``; return the new one.

        Raises `PreconditionFailedError` when the object is another one or gone.
        """

    def delete(self, key: str, etag: str | None = None) -> None:
        """Remove an object.

        Without an ETag, one that is not there is no error. With one, raises `PreconditionFailedError` when the
        object is another one or gone, and `InvalidInputError` where `conditional_delete` is false: some servers pass
        over the condition of a removal and remove whatever is there.
        """

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Hold the writer's lock ``name`` where the store has a kernel to keep it (POSIX); elsewhere nothing.

        Raises `BusyError`, which says by whom it is held, as soon as that is certain: it waits for nobody's work.
        """

    def holder(self, name: str) -> str | None:
        """Tell in words who holds the writer's lock ``name`` now.

        None where it is free or just being taken, and where the store has no kernel. It takes nothing from `exclusive`.
        """

    def sweep(self, older_than: timedelta) -> int:
        """Remove what killed writers left and no listing shows, not written to for ``older_than``; count it."""

    def flush(self) -> None:
        """Return when everything this instance has written survives a loss of power."""


def refuse_etag(url: str, key: str, etag: str | None) -> None:
    """Raise `InvalidInputError` for a conditional removal from a store that has none."""
    if etag is not None:
        raise InvalidInputError(
            f"{url} cannot remove {key} on the condition that it is unchanged; replace it by a tombstone first"
        )
