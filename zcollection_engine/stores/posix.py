"""Objects as files of a POSIX file system.

Requires hard links, and ``flock`` across all writers: on one machine always, on a shared file system where it is
mounted so that its locks reach every client.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from zcollection_engine.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores import files, locks
from zcollection_engine.stores.base import ObjectInfo, StoredObject
from zcollection_engine.stores.durability import Unflushed
from zcollection_engine.stores.keys import check_key, check_prefix

PROTOCOL = "file://"

_REPLACE_LOCKS = 64

#: Seconds to try for a writer's lock: long enough to outlast those who only look whether it is held.
_EXCLUSIVE_PATIENCE = 0.25

#: Seconds after which another try for a writer's lock makes sense.
_EXCLUSIVE_RETRY = 1.0

#: Seconds to wait for a replacement lock, which is held for microseconds unless its holder is stopped.
_REPLACE_PATIENCE = 30.0


class PosixStore:
    """A folder as a store.

    An object is written into a hidden file beside its final name, which then appears through ``link`` (create) or
    ``rename`` (replace): no reader sees half an object, and a killed writer leaves nothing but the hidden file
    (`sweep`). Symbolic links to files are read, those to folders below the root are not followed.

    Parameters
    ----------
    root
        The folder, made when the first object is written; a path or a ``file://`` URL, taken literally (no percent
        decoding).
    """

    conditional = True
    conditional_delete = True

    def __init__(self, root: str | Path) -> None:
        self._root = Path(os.path.normpath(Path(str(root).removeprefix(PROTOCOL)).absolute()))
        self._unflushed = Unflushed(self._root)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self._root),)

    def __repr__(self) -> str:
        return f"PosixStore({str(self._root)!r})"

    @property
    def url(self) -> str:
        return f"{PROTOCOL}{self._root}"

    def get(self, key: str) -> StoredObject:
        with self._reporting("read", key), self._path(key).open("rb") as file:
            info = files.info(key, os.fstat(file.fileno()))
            data = file.read()
            changed = files.info(key, os.fstat(file.fileno())) != info or len(data) != info.size
        if changed:
            raise StorageError(f"{self._name(key)} was changed in place while it was read", key=key)
        return StoredObject(data, info)

    def head(self, key: str) -> ObjectInfo:
        with self._reporting("describe", key):
            status = self._path(key).stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"there is no object {self._name(key)}")
        return files.info(key, status)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        folder = self._root / check_prefix(prefix)
        with self._reporting("list", prefix):
            yield from files.walk(folder, prefix, after)

    def create(self, key: str, data: bytes) -> str:
        path = self._path(key)
        with self._reporting("create", key), self._part(path, data, key) as part:
            try:
                path.hardlink_to(part.path)
            except FileExistsError:
                if path.is_dir():
                    raise InvalidInputError(f"{self._name(key)} is a folder; no object can have its name") from None
                # Over NFS a repeated request can report its own first success as a conflict; the link count tells.
                if part.path.stat().st_nlink < 2:
                    raise PreconditionFailedError(f"{self._name(key)} exists already", key=key) from None
            self._wrote(path, key)
        return part.etag

    def replace(self, key: str, data: bytes, etag: str) -> str:
        path = self._path(key)
        with self._reporting("replace", key), self._part(path, data, key) as part:
            with self._changing(key):
                present = self._require(path, key, etag)
                part.stamp_after(present.st_mtime_ns, durable=_is_document(key))
                part.path.replace(path)
            self._wrote(path, key)
        return part.etag

    def delete(self, key: str, etag: str | None = None) -> None:
        path = self._path(key)
        with self._reporting("delete", key), self._changing(key):
            if etag is not None:
                self._require(path, key, etag)
            try:
                path.unlink()
            except files.NOT_THERE:
                return
            self._unflushed.add_folder(self._prune(path.parent))

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock ``name`` against every other process and thread. Not reentrant.

        The kernel frees it when its holder dies.

        Raises
        ------
        BusyError
            It is held; the message says by whom and since when.
        """
        with ExitStack() as stack:
            with self._reporting("lock", name):
                path = self._lock_path(name)
                self._unflushed.make_folder(path.parent)
                if not stack.enter_context(locks.locked(path, patience=_EXCLUSIVE_PATIENCE)):
                    raise BusyError(
                        f"{self.url}: the writer's lock of {name!r} is held by {locks.whom(path)};"
                        " it is freed when that one ends its work or dies",
                        retry_after=_EXCLUSIVE_RETRY,
                        lock=name,
                    )
                stack.enter_context(locks.signed(path))
            yield

    def holder(self, name: str) -> str | None:
        with self._reporting("look at the lock of", name):
            return locks.holder(self._lock_path(name))

    def flush(self) -> None:
        with self._reporting("flush", ""):
            self._unflushed.flush()

    def sweep(self, older_than: timedelta) -> int:
        """Remove the hidden files that killed writers left, those not written to for ``older_than``; count them."""
        limit = time.time_ns() - older_than // timedelta(microseconds=1) * 1000
        removed = 0
        with self._reporting("sweep", ""):
            for path in self._root.rglob(f".*{files.PART}"):
                status = files.status_of(path)
                if status is not None and status.st_mtime_ns < limit:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _path(self, key: str) -> Path:
        check_key(key)
        if files.is_part(key.rpartition("/")[2]) or key.startswith(files.LOCKS):
            raise InvalidInputError(f"the key {key!r} is reserved for the store's own files")
        return self._root / key

    @contextmanager
    def _reporting(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except files.NOT_THERE as error:
            if verb in {"read", "describe"}:
                raise NotFoundError(f"there is no object {self._name(key)}") from None
            raise self._failure(verb, key, error) from error
        except OSError as error:
            raise self._failure(verb, key, error) from error

    def _failure(self, verb: str, key: str, error: OSError) -> StorageError:
        return StorageError(f"cannot {verb} {self._name(key)}: {error.strerror or error}", key=key)

    @contextmanager
    def _part(self, path: Path, data: bytes, key: str) -> Iterator[files.Part]:
        """Write ``data`` into a hidden file beside ``path`` and remove it in the end."""
        hidden, descriptor = self._open_part(path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                status = files.stamp(file.fileno(), time.time_ns(), durable=_is_document(key))
            yield files.Part(hidden, status)
        finally:
            hidden.unlink(missing_ok=True)

    def _open_part(self, folder: Path) -> tuple[Path, int]:
        hidden = folder / f".{os.urandom(8).hex()}{files.PART}"
        while True:
            try:
                return hidden, os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                self._unflushed.make_folder(folder)

    def _wrote(self, path: Path, key: str) -> None:
        if _is_document(key):
            self._unflushed.sync_folder(path.parent)
        else:
            self._unflushed.add_file(path)

    @contextmanager
    def _changing(self, key: str) -> Iterator[None]:
        """Hold back every other replacement and removal of an object."""
        number = zlib.crc32(key.encode(errors="surrogateescape")) % _REPLACE_LOCKS
        path = self._root / files.LOCKS / "replace" / f"{number:02d}.lock"
        self._unflushed.make_folder(path.parent)
        with locks.locked(path, patience=_REPLACE_PATIENCE) as got:
            if not got:
                raise StorageError(
                    f"cannot change {self._name(key)}: another process has held {path} for {_REPLACE_PATIENCE:g} s;"
                    f" it may be stopped: see `fuser -v {path}`",
                    key=key,
                )
            yield

    def _require(self, path: Path, key: str, etag: str) -> os.stat_result:
        """Describe an object that must have an ETag; raises `PreconditionFailedError`."""
        present = files.status_of(path)
        if present is None or files.etag(present) != etag:
            state = "is gone" if present is None else f"has the ETag {files.etag(present)}"
            raise PreconditionFailedError(f"{self._name(key)} {state}, not {etag}", key=key)
        return present

    def _lock_path(self, name: str) -> Path:
        return self._root / files.LOCKS / _lock_name(name)

    def _prune(self, folder: Path) -> Path:
        """Remove folders that became empty, which readers of Zarr would warn of; return the nearest one left."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                break
            folder = folder.parent
        return folder


def _is_document(key: str) -> bool:
    """Tell whether an object must be durable before its writer goes on: the log, and what publishes data."""
    return key.startswith(".zcommits/") or key.endswith(".json") or key.rpartition("/")[2].startswith(".z")


def _lock_name(name: str) -> str:
    escaped = urllib.parse.quote(name, safe="=")
    if len(escaped) > 200:
        escaped = hashlib.sha256(name.encode()).hexdigest()
    return f"{escaped}.lock"
