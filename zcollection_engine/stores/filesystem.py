"""Objects of any other fsspec file system, as well as it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import fsspec

from zcollection_engine.errors import (
    EngineError,
    InvalidInputError,
    NotFoundError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores.base import ObjectInfo, StoredObject, refuse_etag
from zcollection_engine.stores.keys import check_key, check_prefix, is_key

#: Where fsspec's file systems keep a version of an object's content, best first.
_VERSIONS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "checksum", "sha", "sha256")

#: Where they keep the time of its last change.
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "modificationTime", "created")

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class FilesystemStore:
    """A folder of an fsspec file system, for one writer.

    fsspec knows no conditional writes. `create` looks whether the object exists and then writes it, `replace`
    compares its version and then writes it; both are best effort, and writers at the same time can overwrite each
    other. Whether an object appears whole is up to the file system.

    Parameters
    ----------
    url
        Any URL that fsspec opens ("sftp://host/folder"); taken literally, without percent decoding.

    Raises
    ------
    InvalidInputError
        fsspec does not know the protocol, or the package for it is missing.
    StorageError
        The file system wants a connection at once, and there is none.
    """

    conditional = False
    conditional_delete = False

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._lock = threading.Lock()
        protocol = url.partition("://")[0].partition("::")[0]
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self._url)
        except (ImportError, ValueError) as error:
            raise InvalidInputError(f"cannot open {url!r}: {_remedy(protocol, error)}") from error
        except (OSError, EOFError) as error:
            raise StorageError(f"cannot reach {url!r}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._url,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    def get(self, key: str) -> StoredObject:
        info = self.head(key)
        with self._reporting("read", key):
            return StoredObject(self._fs.cat_file(self._path(key)), info)

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with self._reporting("describe", key):
            self._fs.invalidate_cache()
            found = self._fs.info(path)
        if found["type"] != "file":
            raise NotFoundError(f"there is no object {self._url}/{key}")
        return _info(key, found)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Describe objects in order. All are held in memory."""
        folder = f"{self._root.rstrip('/')}/{check_prefix(prefix)}"
        with self._reporting("list", prefix):
            self._fs.invalidate_cache()
            entries = self._fs.find(folder.rstrip("/"), detail=True)
        named = ((path[len(folder) - len(prefix) :], entry) for path, entry in entries.items())
        wanted = [(key, entry) for key, entry in named if key > after and is_key(key)]
        return (_info(key, entry) for key, entry in sorted(wanted, key=lambda pair: pair[0]))

    def create(self, key: str, data: bytes) -> str:
        with self._lock:
            with self._reporting("create", key):
                exists = self._fs.exists(self._path(key))
            if exists:
                raise PreconditionFailedError(f"{self._url}/{key} exists already", key=key)
            return self._put("create", key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        with self._lock:
            try:
                present = self.head(key).etag
            except NotFoundError:
                raise PreconditionFailedError(f"{self._url}/{key} is gone", key=key) from None
            if present != etag:
                raise PreconditionFailedError(f"{self._url}/{key} has the ETag {present}, not {etag}", key=key)
            return self._put("replace", key, data)

    def delete(self, key: str, etag: str | None = None) -> None:
        refuse_etag(self._url, key, etag)
        path = self._path(key)
        try:
            with self._lock, self._reporting("delete", key):
                self._fs.rm_file(path)
        except NotFoundError:
            return

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def holder(self, name: str) -> str | None:
        return None

    def sweep(self, older_than: timedelta) -> int:
        """Do nothing: what a file system leaves of a write that failed is its own affair."""
        return 0

    def flush(self) -> None:
        """Do nothing: fsspec cannot tell what is durable."""

    def _put(self, verb: str, key: str, data: bytes) -> str:
        path = self._path(key)
        with self._reporting(verb, key):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)
        return self.head(key).etag

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{check_key(key)}"

    @contextmanager
    def _reporting(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except EngineError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"there is no object {self._url}/{key}") from error
        except Exception as error:
            raise StorageError(f"cannot {verb} {self._url}/{key}: {error}", key=key) from error


def _info(key: str, entry: Mapping[str, Any]) -> ObjectInfo:
    size = int(entry["size"] or 0)
    modified = next((m for m in (_moment(entry.get(name)) for name in _TIMES) if m is not None), None)
    version = next((str(entry[name]).strip('"') for name in _VERSIONS if entry.get(name)), None)
    if version is None:
        version = f"{(modified or _UNKNOWN_TIME).timestamp():.6f}-{size}"
    return ObjectInfo(key=key, size=size, etag=version, modified=modified or _UNKNOWN_TIME)


def _moment(value: object) -> datetime | None:
    """Read a time as file systems write it: datetime, seconds or milliseconds since 1970, ISO text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    return None


def _remedy(protocol: str, error: Exception) -> str:
    known = fsspec.available_protocols()
    if protocol not in known:
        return f"fsspec knows no protocol {protocol!r}; install the package that registers it, or check the spelling"
    return f"{error}; install the package for {protocol!r} into this environment"
