"""Objects as files of a POSIX file system.

Requires hard links, and ``flock`` across all writers: on one machine always, on a shared file system where it is
mounted so that its locks reach every client.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.stores.base import ObjectInfo, StoredObject
from zcollection_engine.stores.durability import Unflushed
from zcollection_engine.stores.keys import check_key, check_prefix

PROTOCOL = "file://"

#: Folder of the lock files; nothing in it is an object.
LOCKS = ".zcommits/locks/"

_PART = ".part"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REPLACE_LOCKS = 64
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

#: Longer than the coarsest time stamp of a file system in use (FAT: 2 s).
_COARSE_STEP_NS = 2_000_000_000


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
            info = _info(key, os.fstat(file.fileno()))
            data = file.read()
            changed = _info(key, os.fstat(file.fileno())) != info or len(data) != info.size
        if changed:
            raise StorageError(f"{self._name(key)} was changed in place while it was read", key=key)
        return StoredObject(data, info)

    def head(self, key: str) -> ObjectInfo:
        with self._reporting("describe", key):
            status = self._path(key).stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"there is no object {self._name(key)}")
        return _info(key, status)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        folder = self._root / check_prefix(prefix)
        with self._reporting("list", prefix):
            yield from _walk(folder, prefix, after)

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
                present = _status(path)
                if present is None or _etag(present) != etag:
                    state = "is gone" if present is None else f"has the ETag {_etag(present)}"
                    raise PreconditionFailedError(f"{self._name(key)} {state}, not {etag}", key=key)
                part.stamp_after(present.st_mtime_ns, durable=_is_document(key))
                part.path.replace(path)
            self._wrote(path, key)
        return part.etag

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._reporting("delete", key), self._changing(key):
            try:
                path.unlink()
            except _NOT_THERE:
                return
            self._unflushed.add_folder(self._prune(path.parent))

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock ``name`` against every other process and thread; waits for as long as another holds it.

        The kernel frees it when its holder dies. Not reentrant.
        """
        with self._locked(_lock_name(name)):
            yield

    def flush(self) -> None:
        with self._reporting("flush", ""):
            self._unflushed.flush()

    def sweep(self, older_than: timedelta) -> int:
        """Remove the hidden files that killed writers left, those not written to for ``older_than``; count them."""
        limit = time.time_ns() - older_than // timedelta(microseconds=1) * 1000
        removed = 0
        with self._reporting("sweep", ""):
            for path in self._root.rglob(f".*{_PART}"):
                status = _status(path)
                if status is not None and status.st_mtime_ns < limit:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _path(self, key: str) -> Path:
        check_key(key)
        if _is_part(key.rpartition("/")[2]) or key.startswith(LOCKS):
            raise InvalidInputError(f"the key {key!r} is reserved for the store's own files")
        return self._root / key

    @contextmanager
    def _reporting(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except _NOT_THERE as error:
            if verb in {"read", "describe"}:
                raise NotFoundError(f"there is no object {self._name(key)}") from None
            raise self._failure(verb, key, error) from error
        except OSError as error:
            raise self._failure(verb, key, error) from error

    def _failure(self, verb: str, key: str, error: OSError) -> StorageError:
        return StorageError(f"cannot {verb} {self._name(key)}: {error.strerror or error}", key=key)

    @contextmanager
    def _part(self, path: Path, data: bytes, key: str) -> Iterator[_Part]:
        """Write ``data`` into a hidden file beside ``path`` and remove it in the end."""
        hidden, descriptor = self._open_part(path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                status = _stamp(file.fileno(), time.time_ns(), durable=_is_document(key))
            yield _Part(hidden, status)
        finally:
            hidden.unlink(missing_ok=True)

    def _open_part(self, folder: Path) -> tuple[Path, int]:
        hidden = folder / f".{os.urandom(8).hex()}{_PART}"
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

    def _changing(self, key: str) -> Any:
        """Hold back every other replacement and removal of an object."""
        return self._locked(f"replace/{zlib.crc32(key.encode(errors='surrogateescape')) % _REPLACE_LOCKS:02d}.lock")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self._root / LOCKS / name
        self._unflushed.make_folder(path.parent)
        # A lock belongs to one opening of its file: opened anew, it excludes this process's threads too.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _prune(self, folder: Path) -> Path:
        """Remove folders that became empty, which readers of Zarr would warn of; return the nearest one left."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                break
            folder = folder.parent
        return folder


@dataclass
class _Part:
    """A hidden file that is complete and waits for its name."""

    path: Path
    status: os.stat_result

    @property
    def etag(self) -> str:
        return _etag(self.status)

    def stamp_after(self, previous_ns: int, *, durable: bool) -> None:
        """Make the time stamp later than ``previous_ns``."""
        if self.status.st_mtime_ns > previous_ns:
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.status = _stamp(descriptor, previous_ns + 1, durable=False)
            if self.status.st_mtime_ns <= previous_ns:
                self.status = _stamp(descriptor, previous_ns + _COARSE_STEP_NS, durable=False)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stamp(descriptor: int, nanoseconds: int, *, durable: bool) -> os.stat_result:
    os.utime(descriptor, ns=(nanoseconds, nanoseconds))
    if durable:
        os.fsync(descriptor)
    return os.fstat(descriptor)


def _etag(status: os.stat_result) -> str:
    """Return the version of a file: its time stamp and size.

    The kernel stamps files by a clock that stands still for milliseconds, so every object gets the exact time from
    us, and a replacement always a later one than what it replaces: versions of an object never recur. The inode's
    number would add nothing, since it is given away again at once, and it changes with a restored backup or a
    remounted network file system, where the object is still the same. The change time moves with every link.
    """
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    return ObjectInfo(key=key, size=status.st_size, etag=_etag(status), modified=modified)


def _status(path: Path) -> os.stat_result | None:
    """Describe a regular file through an opened descriptor, which network file systems answer without stale caches."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except _NOT_THERE:
        return None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status if stat.S_ISREG(status.st_mode) else None


def _is_document(key: str) -> bool:
    """Tell whether an object must be durable before its writer goes on: the log, and what publishes data."""
    return key.startswith(".zcommits/") or key.endswith(".json") or key.rpartition("/")[2].startswith(".z")


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PART)


def _lock_name(name: str) -> str:
    escaped = urllib.parse.quote(name, safe="=")
    if len(escaped) > 200:
        escaped = hashlib.sha256(name.encode()).hexdigest()
    return f"{escaped}.lock"


def _walk(folder: Path, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """List a folder's objects in the order of their keys, reading only what can sort behind ``after``."""
    for key, entry in _entries(folder, prefix, after):
        if key.endswith("/"):
            yield from _walk(Path(entry.path), key, after)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # deleted, or a dangling link
        if stat.S_ISREG(status.st_mode):
            yield _info(key, status)


def _entries(folder: Path, prefix: str, after: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return a folder's entries in the order of their keys; those of folders end with "/"."""
    found: list[tuple[str, os.DirEntry[str]]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                key = f"{prefix}{entry.name}/" if is_folder else f"{prefix}{entry.name}"
                behind = key > after or (is_folder and after.startswith(key))
                if behind and key != LOCKS and not _is_part(entry.name):
                    found.append((key, entry))
    except (FileNotFoundError, NotADirectoryError):
        return []  # never there, or removed while it became empty
    return sorted(found, key=lambda pair: pair[0])
