"""Kernel locks on files, and who holds them.

A lock is a ``flock`` of one opening of its file: it excludes other processes and other threads alike, and the kernel
frees it when its holder dies. The holder may sign the file; what stands in a file that is not locked means nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_UNNAMED = "another process, which has not signed its lock"

#: Seconds between two tries for a lock, doubled from the first to the longest.
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """Who signed a lock file.

    Attributes
    ----------
    process
        Its id, as its own host numbers processes.
    host
        Name of the host.
    thread
        Name of the thread.
    since
        When it got the lock, in UTC.
    """

    process: int
    host: str
    thread: str
    since: datetime

    @classmethod
    def here(cls) -> Holder:
        """Return what this thread signs with."""
        return cls(os.getpid(), socket.gethostname(), threading.current_thread().name, datetime.now(UTC))

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """Read a signature; None for one that is not whole."""
        try:
            found = json.loads(text)
            return cls(int(found["process"]), str(found["host"]), str(found["thread"]), _moment(found["since"]))
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def text(self) -> bytes:
        """The signature."""
        found = {"process": self.process, "host": self.host, "thread": self.thread, "since": self.since.isoformat()}
        return json.dumps(found).encode() + b"\n"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; that of another host never is."""
        if self.host != socket.gethostname() or self.process <= 0:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        since = self.since.isoformat(timespec="seconds").replace("+00:00", "Z")
        mine = self.process == os.getpid() and self.host == socket.gethostname()
        who = f"this process ({self.process}), thread {self.thread!r}," if mine else f"process {self.process}"
        return f"{who} on host {self.host!r} since {since}"


@contextmanager
def locked(path: Path, *, patience: float) -> Iterator[bool]:
    """Hold the lock of a file in an existing folder.

    Parameters
    ----------
    path
        The file; made if absent and never removed, since a lock on a removed file excludes nobody.
    patience
        Seconds to try for.

    Yields
    ------
    bool
        Whether the lock was got.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _got(descriptor, patience)
    finally:
        # Closing alone would leave the lock with a child that was forked meanwhile: it shares the opening.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def signed(path: Path) -> Iterator[None]:
    """Have this thread's signature in a lock file that the caller has locked."""
    # By an opening of its own, since a network file system sends what was written when it is closed.
    with path.open("r+b", buffering=0) as file:
        file.write(Holder.here().text)
        file.truncate()
    try:
        yield
    finally:
        with suppress(OSError):  # a signature that stays means nothing once the lock is free
            os.truncate(path, 0)


def holder(path: Path) -> str | None:
    """Tell in words who holds the lock of a file; None where it is free, or not signed yet.

    A file without signature is not touched, and a lock that is held is not disturbed. Only what a killed holder left
    is tried for an instant, with a shared lock; `locked` outlasts that.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    return _words(text) if text and _is_locked(path) else None


def whom(path: Path) -> str:
    """Tell in words who holds a lock that was just found taken."""
    return _words(path.read_bytes())


def _words(text: bytes) -> str:
    found = Holder.parse(text)
    return _UNNAMED if found is None or found.is_dead else str(found)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        free = _try(descriptor, fcntl.LOCK_SH)
        if free:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return not free
    finally:
        os.close(descriptor)


def _got(descriptor: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC)
