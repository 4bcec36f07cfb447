"""The local journal: what happened to granule X? An index in SQLite, rebuilt when it is lost.

The commit log of a collection is the truth for what is in; the settled documents (`daemon.settled`) are the truth for
what is quarantined or skipped.
"""

from __future__ import annotations

import fcntl
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from socket import gethostname

from daemon.errors import StateInUseError

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
        Of the identity, decimal; for an object whose ETag no event told, its key.
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
    """The journal of one daemon. Used from one thread."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        path = folder / FILE
        if read_only:
            self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        else:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        self._db.row_factory = sqlite3.Row

    def close(self) -> None:
        self._db.close()

    def record(self, entry: Entry) -> None:
        """Write or overwrite a granule's line."""
        with self._db:
            self._db.execute(_UPSERT, _row(entry))

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

    def latest(self, states: Iterable[State], limit: int) -> list[Entry]:
        """The granules in these states that were settled (or received) last, the newest first."""
        wanted = [str(state) for state in states]
        marks = ", ".join("?" for _ in wanted)
        query = (
            f"SELECT * FROM granules WHERE state IN ({marks})"  # noqa: S608 - only question marks are put in
            " ORDER BY COALESCE(settled, received) DESC, key LIMIT ?"
        )
        return [_entry(row) for row in self._db.execute(query, (*wanted, limit))]

    def find(self, key: str) -> list[Entry]:
        """Every line of an object's key."""
        return [_entry(row) for row in self._db.execute("SELECT * FROM granules WHERE key = ?", (key,))]

    def all(self) -> Iterator[Entry]:
        """Every line, in the order of the keys."""
        return (_entry(row) for row in self._db.execute("SELECT * FROM granules ORDER BY collection, key, settled"))

    def latencies(self, limit: int = 1000) -> list[float]:
        """Seconds from landing to visible of the granules committed last."""
        return [e.latency for e in self.latest([State.COMMITTED], limit) if e.latency is not None]


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
    times = {c: datetime.fromisoformat(row[c]) if row[c] else None for c in ("landed", "received", "settled")}
    plain = {c: row[c] for c in _COLUMNS if c not in times and c != "state"}
    return Entry(state=State(row["state"]), **plain, **times)


@contextmanager
def owned_state_dir(folder: Path) -> Iterator[str]:
    """Hold the state folder for this process; yields the daemon's stable name.

    Raises
    ------
    StateInUseError
        If another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateInUseError(
                f"{folder}: another daemon uses this state folder; give each its own daemon.state_dir"
            ) from error
        name = folder / "instance"
        if not name.exists():
            name.write_text(f"{gethostname()}-{uuid.uuid4().hex[:8]}\n")
        yield name.read_text().strip()
