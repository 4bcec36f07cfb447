"""Files as objects: their versions, those that are still being written, and their listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from zcollection_engine.stores.base import ObjectInfo

#: Folder of the lock files; nothing in it is an object.
LOCKS = ".zcommits/locks/"

#: End of a hidden file's name, which begins with a dot.
PART = ".part"

#: What the system says of a path where there is no file.
NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Longer than the coarsest time stamp of a file system in use (FAT: 2 s).
_COARSE_STEP_NS = 2_000_000_000


@dataclass
class Part:
    """A hidden file that is complete and waits for its name."""

    path: Path
    status: os.stat_result

    @property
    def etag(self) -> str:
        return etag(self.status)

    def stamp_after(self, previous_ns: int, *, durable: bool) -> None:
        """Make the time stamp later than ``previous_ns``."""
        if self.status.st_mtime_ns > previous_ns:
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.status = stamp(descriptor, previous_ns + 1, durable=False)
            if self.status.st_mtime_ns <= previous_ns:
                self.status = stamp(descriptor, previous_ns + _COARSE_STEP_NS, durable=False)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stamp(descriptor: int, nanoseconds: int, *, durable: bool) -> os.stat_result:
    """Set a file's time stamp, in nanoseconds since 1970, and return what the file system made of it."""
    os.utime(descriptor, ns=(nanoseconds, nanoseconds))
    if durable:
        os.fsync(descriptor)
    return os.fstat(descriptor)


def etag(status: os.stat_result) -> str:
    """Return the version of a file: its time stamp and size.

    The kernel stamps files by a clock that stands still for milliseconds, so every object gets the exact time from
    us, and a replacement always a later one than what it replaces: versions of an object never recur. The inode's
    number would add nothing, since it is given away again at once, and it changes with a restored backup or a
    remounted network file system, where the object is still the same. The change time moves with every link.
    """
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def info(key: str, status: os.stat_result) -> ObjectInfo:
    """Describe a file as an object."""
    modified = _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    return ObjectInfo(key=key, size=status.st_size, etag=etag(status), modified=modified)


def status_of(path: Path) -> os.stat_result | None:
    """Describe a regular file through an opened descriptor, which network file systems answer without stale caches."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except NOT_THERE:
        return None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status if stat.S_ISREG(status.st_mode) else None


def is_part(name: str) -> bool:
    """Tell whether a file of that name is a hidden one, which is no object yet."""
    return name.startswith(".") and name.endswith(PART)


def walk(folder: Path, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """List a folder's objects in the order of their keys, reading only what can sort behind ``after``."""
    for key, entry in _entries(folder, prefix, after):
        if key.endswith("/"):
            yield from walk(Path(entry.path), key, after)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # deleted, or a dangling link
        if stat.S_ISREG(status.st_mode):
            yield info(key, status)


def _entries(folder: Path, prefix: str, after: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return a folder's entries in the order of their keys; those of folders end with "/"."""
    found: list[tuple[str, os.DirEntry[str]]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                key = f"{prefix}{entry.name}/" if is_folder else f"{prefix}{entry.name}"
                behind = key > after or (is_folder and after.startswith(key))
                if behind and key != LOCKS and not is_part(entry.name):
                    found.append((key, entry))
    except (FileNotFoundError, NotADirectoryError):
        return []  # never there, or removed while it became empty
    return sorted(found, key=lambda pair: pair[0])
