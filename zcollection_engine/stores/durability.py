"""What of a POSIX folder has been written but may not survive a loss of power yet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: Synchronising in parallel lets the file system put several files into one commit of its journal.
_THREADS = 8


class Unflushed:
    """Files and folders waiting to be made durable. Thread-safe.

    A file survives when its content is on disk, its name is in its folder, and every folder above it that is not
    known to have survived has its own name on disk.

    Parameters
    ----------
    root
        Folders above it are taken as durable, unless they were made here.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._files: set[Path] = set()
        self._folders: set[Path] = set()
        self._made: set[Path] = set()
        self._durable: set[Path] = set()

    def make_folder(self, folder: Path) -> None:
        """Create a folder and those above it; others may do the same, or remove empty ones, at any moment."""
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                if folder.is_symlink() and not folder.exists():
                    raise
                return
            except FileNotFoundError:
                self.make_folder(folder.parent)
            else:
                with self._lock:
                    self._made.add(folder)
                    self._durable.discard(folder)
                return

    def add_file(self, path: Path) -> None:
        """Remember a file whose content and name `flush` shall make durable."""
        with self._lock:
            self._files.add(path)
            self._folders.add(path.parent)

    def add_folder(self, folder: Path) -> None:
        """Remember a folder whose list of names `flush` shall make durable."""
        with self._lock:
            self._folders.add(folder)

    def sync_folder(self, folder: Path) -> None:
        """Make a folder's list of names, and the folder itself, durable now."""
        sync(folder)
        for level in (folder, *folder.parents):
            if self._in_doubt(level):
                sync(level.parent)
                with self._lock:
                    self._made.discard(level)
                    self._durable.add(level)

    def flush(self) -> None:
        """Make durable all that was added before the call. What fails is tried again by the next call."""
        with self._flushing:
            with self._lock:
                files, self._files = self._files, set()
                folders, self._folders = self._folders, set()
            try:
                _sync_all(files)
                for folder in sorted(folders):
                    self._sync_remaining(folder)
            except OSError:
                with self._lock:
                    self._files |= files
                    self._folders |= folders
                raise

    def _sync_remaining(self, folder: Path) -> None:
        """Make a folder durable, or, where it was removed since, the nearest one that is left."""
        while folder != folder.parent:
            try:
                self.sync_folder(folder)
            except FileNotFoundError:
                folder = folder.parent
            else:
                return

    def _in_doubt(self, folder: Path) -> bool:
        with self._lock:
            below_root = self._root in folder.parents
            return folder in self._made or (below_root and folder not in self._durable)


def sync(path: Path) -> None:
    """Make a file's content or a folder's names durable; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_if_present(path: Path) -> None:
    try:
        sync(path)
    except FileNotFoundError:
        return  # deleted since: nothing of it must survive


def _sync_all(files: Iterable[Path]) -> None:
    paths = sorted(files)
    if len(paths) <= 2:
        for path in paths:
            _sync_if_present(path)
        return
    with ThreadPoolExecutor(min(_THREADS, len(paths)), thread_name_prefix="fsync") as pool:
        for _ in pool.map(_sync_if_present, paths):
            pass
