"""The local journal: what happened to granule X? An index in SQLite, rebuilt when it is lost.

The commit log of a collection is the truth for what is in; the settled documents (`daemon.settled`) are the truth for
what is quarantined or skipped.
"""

from __future__ import annotations

import fcntl
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from socket import gethostname
from typing import Any

from daemon.errors import StateInUseError, StateUnusableError

FILE = "journal.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS granules (
    id TEXT NOT NULL,
    collection TEXT NOT NULL,
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    etag TEXT,
    size INTEGER,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    landed TEXT,
    received TEXT,
    settled TEXT,
    PRIMARY KEY (collection, id)
);
CREATE INDEX IF NOT EXISTS granules_state ON granules (collection, state);
CREATE INDEX IF NOT EXISTS granules_settled ON granules (settled);
"""


class State(StrEnum):
    """Where a granule is on its way."""

    RECEIVED = "received"
    RETRYING = "retrying"
    COMMITTED = "committed"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"

    @property
    def is_settled(self) -> bool:
        return self in (State.COMMITTED, State.SKIPPED, State.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Entry:
    """A granule in the journal.

    Attributes
    ----------
    id
        Of the identity, decimal; that of an empty ETag and size 0 while no event and no reading has told them.
    landed, received, settled
        When the object landed by its store, when the daemon heard of it, when it was settled (visible to readers,
        quarantined or skipped); UTC.
    """

    id: str
    collection: str
    bucket: str
    key: str
    state: State
    etag: str | None = None
    size: int | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0
    landed: datetime | None = None
    received: datetime | None = None
    settled: datetime | None = None

    @property
    def latency(self) -> float | None:
        """Seconds from landing (else from the receipt) to settling."""
        start = self.landed or self.received
        return None if start is None or self.settled is None else (self.settled - start).total_seconds()


class Journal:
    """The journal of one daemon. Used from one thread.

    Parameters
    ----------
    folder
        The daemon's state folder.
    read_only
        See the journal as it is now, until `close`, whether its daemon runs or not; nothing in the folder is changed.

    Raises
    ------
    StateUnusableError
        If the file cannot be used, or, read-only, if there is none.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        path = folder / FILE
        self._db = _open_snapshot(path) if read_only else _open(path)
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        self._db.close()

    def record(self, entry: Entry) -> None:
        """Write or overwrite a granule's line."""
        with self._db:
            self._db.execute(_UPSERT, _row(entry))

    def forget(self, entry: Entry) -> None:
        """Remove a granule's line: it goes on under another identity."""
        with self._db:
            self._db.execute("DELETE FROM granules WHERE collection = ? AND id = ?", (entry.collection, entry.id))

    def rebuild(self, entries: Iterable[Entry]) -> None:
        """Add lines that are missing; lines that exist stay as they are, unless they are not settled yet."""
        with self._db:
            self._db.executemany(_REBUILD, (_row(entry) for entry in entries))

    def attempts(self, collection: str, identity: str) -> int:
        """Attempts at a granule so far, also by earlier runs."""
        row = self._db.execute(
            "SELECT attempts FROM granules WHERE collection = ? AND id = ?", (collection, identity)
        ).fetchone()
        return int(row["attempts"]) if row else 0

    def counts(self) -> dict[str, dict[tuple[State, str], int]]:
        """Granules by collection, then by state and reason."""
        found: dict[str, dict[tuple[State, str], int]] = {}
        query = "SELECT collection, state, reason, COUNT(*) AS n FROM granules GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        for row in self._db.execute(query):
            found.setdefault(row["collection"], {})[State(row["state"]), row["reason"]] = row["n"]
        return found

    def latest(self, states: Iterable[State], limit: int, *, collection: str | None = None) -> list[Entry]:
        """The granules in these states that were settled (or received) last, the newest first.

        Of one collection, or of all.
        """
        return self._in_states(states, "COALESCE(settled, received) DESC, key", limit, collection)

    def oldest_waiting(self, collection: str) -> Entry | None:
        """The granule that landed (else was received) first of those that are not settled; None if all are."""
        waiting = [state for state in State if not state.is_settled]
        found = self._in_states(waiting, "COALESCE(landed, received) NULLS LAST, key", 1, collection)
        return found[0] if found else None

    def find(self, key: str) -> list[Entry]:
        """Every line of an object's key."""
        return [_entry(row) for row in self._db.execute("SELECT * FROM granules WHERE key = ?", (key,))]

    def all(self) -> Iterator[Entry]:
        """Every line, in the order of the keys."""
        return (_entry(row) for row in self._db.execute("SELECT * FROM granules ORDER BY collection, key, settled"))

    def latencies(self, limit: int = 1000, *, collection: str | None = None) -> list[float]:
        """Seconds from landing to visible of the granules committed last, of one collection or of all."""
        last = self.latest([State.COMMITTED], limit, collection=collection)
        return [entry.latency for entry in last if entry.latency is not None]

    def _in_states(self, states: Iterable[State], order: str, limit: int, collection: str | None) -> list[Entry]:
        wanted = [str(state) for state in states]
        marks = ", ".join("?" for _ in wanted)
        query = (
            f"SELECT * FROM granules WHERE state IN ({marks})"  # noqa: S608 - only question marks and constants are put in
            f" AND (? IS NULL OR collection = ?) ORDER BY {order} LIMIT ?"
        )
        return [_entry(row) for row in self._db.execute(query, (*wanted, collection, collection, limit))]


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError as error:
        db.close()
        raise StateUnusableError(
            f"{path} cannot be used as the journal: {error}; stop what else has it open, or remove it: it is"
            " rebuilt from the collections and from daemon.state_url"
        ) from error
    return db


def _open_snapshot(path: Path) -> sqlite3.Connection:
    # Without a write-ahead log nobody has the journal open. To read it, SQLite would make one that belongs to whoever
    # looks, and the daemon might not be able to write that; "immutable" reads the file alone.
    has_log = path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if has_log else '&immutable=1'}"
    db = None
    try:
        db = sqlite3.connect(uri, uri=True)
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM granules LIMIT 1").fetchall()
    except sqlite3.DatabaseError as error:
        if db is not None:
            db.close()
        raise StateUnusableError(f"{path} cannot be read as a journal: {error}") from error
    return db


_COLUMNS = [
    "id",
    "collection",
    "bucket",
    "key",
    "etag",
    "size",
    "state",
    "reason",
    "message",
    "attempts",
    "landed",
    "received",
    "settled",
]
_MARKS = ", ".join("?" for _ in _COLUMNS)
_INSERT = f"INSERT INTO granules ({', '.join(_COLUMNS)}) VALUES ({_MARKS})"  # noqa: S608 - constants
_ASSIGN = ", ".join(f"{c} = excluded.{c}" for c in _COLUMNS[2:])
_UPSERT = f"{_INSERT} ON CONFLICT (collection, id) DO UPDATE SET {_ASSIGN}"
_REBUILD = f"{_UPSERT} WHERE granules.state IN ('received', 'retrying')"


def _row(entry: Entry) -> tuple[object, ...]:
    values = (getattr(entry, column) for column in _COLUMNS)
    return tuple(v.astimezone(UTC).isoformat() if isinstance(v, datetime) else v for v in values)


def _entry(row: sqlite3.Row) -> Entry:
    values: dict[str, Any] = {column: row[column] for column in _COLUMNS}
    values["state"] = State(row["state"])
    for column in ("landed", "received", "settled"):
        values[column] = datetime.fromisoformat(row[column]) if row[column] else None
    return Entry(**values)


@contextmanager
def owned_state_dir(folder: Path) -> Iterator[str]:
    """Hold the state folder for this process; yields the daemon's stable name.

    Raises
    ------
    StateInUseError
        If another process has it.
    StateUnusableError
        If it cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name = _instance(folder / "instance")
        except BlockingIOError as error:
            raise StateInUseError(
                f"{folder}: another daemon uses this state folder; give each its own daemon.state_dir"
            ) from error
        except OSError as error:
            raise StateUnusableError(
                f"{folder} cannot be used as the state folder: {error}; make it writable, or set daemon.state_dir"
            ) from error
        yield name


def _instance(path: Path) -> str:
    name = path.read_text("utf-8").strip() if path.exists() else ""
    if not name:
        name = f"{gethostname()}-{uuid.uuid4().hex[:8]}"
        path.write_text(f"{name}\n", "utf-8")
    return name
