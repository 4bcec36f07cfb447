"""The status of the daemon: granules by state, the last failures, lag, and what the collections hold.

Reads the journal and the collections, changes neither; works while the daemon runs and while it does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding

from daemon.journal import FILE, Entry, Journal, State
from daemon.redaction import redact_text
from daemon.rendering import iso, make_table, printable, seconds, short, styled
from daemon.settings import Settings
from daemon.settled import document_key
from zcollection_engine.errors import EngineError, NotFoundError
from zcollection_engine.opening import open_collection
from zcollection_engine.stores.options import StorageOptions

FORMAT_VERSION = 1

#: The latency is that of so many granules committed last.
RECENT = 1000

#: Order of the states for people: from what is done to what is waiting.
_STATES = (State.COMMITTED, State.SKIPPED, State.QUARANTINED, State.RETRYING, State.RECEIVED)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from landing (else from the receipt) to visible, of recent commits.

    Attributes
    ----------
    granules
        How many were counted.
    p50, p95, max
        Percentiles by the nearest rank, so each is one that a granule had.
    """

    granules: int
    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency | None:
        """Summarise latencies; None if there are none."""
        if not values:
            return None
        ordered = sorted(values)
        ranks = [math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.95)]
        return cls(len(ordered), ordered[ranks[0]], ordered[ranks[1]], ordered[-1])


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a collection holds, or why that is not known.

    Attributes
    ----------
    state
        "open"; "absent": not created yet; "failed": it could not be read, ``message`` says why.
    rows, partitions, granules
        Numbers of them; None unless the collection is open.
    commit, committed
        Number and time of the last commit; None if there is none.
    """

    state: Literal["open", "absent", "failed"]
    message: str = ""
    rows: int | None = None
    partitions: int | None = None
    granules: int | None = None
    commit: int | None = None
    committed: datetime | None = None


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """One collection of the settings or of the journal.

    Attributes
    ----------
    name, url
        The URL is None for one that the journal knows and the settings do not.
    granules
        Numbers by state and reason.
    latency
        None before the first commit by a daemon with this journal.
    oldest
        The granule that has been waiting longest to be settled.
    holdings
        None where there is no URL.
    """

    name: str
    url: str | None
    granules: Mapping[tuple[State, str], int]
    latency: Latency | None
    oldest: Entry | None
    holdings: Holdings | None

    def by_state(self) -> dict[State, int]:
        """Numbers of granules, every state."""
        counts = Counter(dict.fromkeys(State, 0))
        for (state, _), number in self.granules.items():
            counts[state] += number
        return dict(counts)


@dataclass(frozen=True, slots=True)
class Status:
    """The whole report.

    Attributes
    ----------
    time
        When it was made.
    journal, has_journal
        Where the journal is, and whether it is there.
    state_url
        Where the documents of quarantined granules are.
    collections
        In the order of the settings, then those that only the journal knows.
    errors
        Quarantined and retrying granules, the newest first.
    """

    time: datetime
    journal: Path
    has_journal: bool
    state_url: str
    collections: tuple[CollectionStatus, ...]
    errors: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """The report for machines; times are ISO 8601 UTC, durations seconds."""
        return {
            "format_version": FORMAT_VERSION,
            "time": iso(self.time),
            "journal": {"path": str(self.journal), "found": self.has_journal},
            "collections": [_collection_json(c, self.time) for c in self.collections],
            "errors": [_error_json(entry, self.state_url) for entry in self.errors],
        }


def collect(settings: Settings, storage: StorageOptions, *, errors: int = 10, now: datetime | None = None) -> Status:
    """Make the report.

    Parameters
    ----------
    settings
        The daemon's.
    storage
        How to reach the collections.
    errors
        How many failures at most.
    now
        The time of the report; the present by default.

    Raises
    ------
    StateUnusableError
        If there is a journal that cannot be read.
    """
    path = settings.daemon.state_dir / FILE
    urls: dict[str, str | None] = {collection.name: collection.url for collection in settings.collections}
    counts: dict[str, dict[tuple[State, str], int]] = {}
    latencies: dict[str, Latency | None] = {}
    oldest: dict[str, Entry | None] = {}
    failures: list[Entry] = []
    has_journal = path.exists()
    if has_journal:
        with closing(Journal(settings.daemon.state_dir, read_only=True)) as journal:
            counts = journal.counts()
            urls |= {name: None for name in counts if name not in urls}
            latencies = {name: Latency.of(journal.latencies(RECENT, collection=name)) for name in urls}
            oldest = {name: journal.oldest_waiting(name) for name in urls}
            failures = journal.latest((State.QUARANTINED, State.RETRYING), errors)
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        holdings = dict(zip(urls, pool.map(lambda url: _holdings(url, storage), urls.values()), strict=True))
    collections = tuple(
        CollectionStatus(name, url, counts.get(name, {}), latencies.get(name), oldest.get(name), holdings[name])
        for name, url in urls.items()
    )
    state_url = settings.daemon.durable_state_url
    return Status(now or datetime.now(UTC), path, has_journal, state_url, collections, tuple(failures))


def _holdings(url: str | None, storage: StorageOptions) -> Holdings | None:
    if url is None:
        return None
    try:
        collection = open_collection(url, storage=storage)
    except NotFoundError:
        return Holdings("absent")
    except EngineError as error:
        return Holdings("failed", redact_text(str(error)))
    partitions = collection.partitions()
    state = collection.state
    return Holdings(
        "open",
        rows=sum(partition.rows for partition in partitions),
        partitions=len(partitions),
        granules=len(state.ledger),
        commit=state.last_commit if state.last_time is not None else None,
        committed=state.last_time,
    )


def _waiting_since(entry: Entry) -> datetime | None:
    return entry.landed or entry.received


def _collection_json(collection: CollectionStatus, now: datetime) -> dict[str, Any]:
    holdings = collection.holdings
    return {
        "name": collection.name,
        "url": collection.url,
        "granules": {
            "total": sum(collection.granules.values()),
            "states": {state.value: number for state, number in collection.by_state().items()},
            "reasons": [
                {"state": state.value, "reason": reason, "granules": number}
                for (state, reason), number in collection.granules.items()
                if reason
            ],
        },
        "lag": {
            "latency_seconds": asdict(collection.latency) if collection.latency else None,
            "oldest_waiting": _oldest_json(collection.oldest, now) if collection.oldest else None,
        },
        "holdings": {**asdict(holdings), "committed": iso(holdings.committed)} if holdings else None,
    }


def _oldest_json(entry: Entry, now: datetime) -> dict[str, Any]:
    since = _waiting_since(entry)
    age = (now - since).total_seconds() if since else None
    return {"bucket": entry.bucket, "key": entry.key, "state": entry.state, "since": iso(since), "age_seconds": age}


def _error_json(entry: Entry, state_url: str) -> dict[str, Any]:
    return {
        "collection": entry.collection,
        "bucket": entry.bucket,
        "key": entry.key,
        "id": entry.id,
        "state": entry.state,
        "reason": entry.reason,
        "message": redact_text(entry.message),
        "time": iso(entry.settled or entry.received),
        "attempts": entry.attempts,
        "document": _document(entry, state_url),
    }


def _document(entry: Entry, state_url: str) -> str | None:
    """URL of what is known about a quarantined granule."""
    return f"{redact_text(state_url)}/{document_key(entry)}" if entry.state is State.QUARANTINED else None


def render(status: Status, console: Console) -> None:
    """Print the report for people."""
    console.print(f"zcollectiond at {short(status.time)}", style="bold")
    if status.has_journal:
        console.print(f"Journal: {printable(str(status.journal))}", soft_wrap=True)
    else:
        console.print(
            f"No journal at {printable(str(status.journal))}: no daemon has run with these settings yet.",
            soft_wrap=True,
        )
    console.print()
    _render_granules(status, console)
    _render_holdings(status, console)
    _render_lag(status, console)
    _render_errors(status, console)


def _render_granules(status: Status, console: Console) -> None:
    names = [state.value.capitalize() for state in _STATES]
    table = make_table("Granules", "Collection", *names, right=tuple(names))
    for collection in status.collections:
        counts = collection.by_state()
        table.add_row(styled(collection.name), *(f"{counts[state]:,}" for state in _STATES))
    console.print(table)
    reasons = make_table("Granules by reason", "Collection", "State", "Reason", "Granules", right=("Granules",))
    for collection in status.collections:
        for (state, reason), number in collection.granules.items():
            if reason:
                reasons.add_row(styled(collection.name), state.value, styled(reason), f"{number:,}")
    if reasons.row_count:
        console.print()
        console.print(reasons)
    console.print()


def _render_holdings(status: Status, console: Console) -> None:
    columns = ("Rows", "Partitions", "Granules", "Last commit")
    table = make_table("Collections", "Collection", *columns, "Committed", right=columns)
    for collection in status.collections:
        holdings = collection.holdings
        if holdings is not None and holdings.state == "open":
            numbers = (f"{number:,}" for number in (holdings.rows, holdings.partitions, holdings.granules))
            commit = "-" if holdings.commit is None else str(holdings.commit)
            table.add_row(styled(collection.name), *numbers, commit, short(holdings.committed))
    if table.row_count:
        console.print(table)
    for collection in status.collections:
        note = _note(collection)
        if note:
            console.print(styled(note, "yellow"), soft_wrap=True)
    console.print()


def _note(collection: CollectionStatus) -> str:
    """What there is to say of a collection that is not open; empty for one that is."""
    if collection.holdings is None:
        return f"{collection.name}: in the journal, not in the settings"
    match collection.holdings.state:
        case "absent":
            return f"{collection.name}: not created yet at {collection.url}; its first good granule does that"
        case "failed":
            return f"{collection.name}: cannot be read: {collection.holdings.message}"
    return ""


def _render_lag(status: Status, console: Console) -> None:
    columns = ("p50", "p95", "max", "Oldest waiting")
    table = make_table("Lag, from landing to visible", "Collection", *columns, right=columns)
    for collection in status.collections:
        latency = collection.latency
        cells = [seconds(v) for v in (latency.p50, latency.p95, latency.max)] if latency else ["-"] * 3
        since = _waiting_since(collection.oldest) if collection.oldest else None
        table.add_row(styled(collection.name), *cells, seconds((status.time - since).total_seconds()) if since else "-")
    console.print(table)


def _render_errors(status: Status, console: Console) -> None:
    if not status.errors:
        return
    console.print()
    console.print("Last errors", style="bold")
    for entry in status.errors:
        attempts = f"{entry.attempts} attempt{'' if entry.attempts == 1 else 's'}"
        when = short(entry.settled or entry.received)
        head = f"{when}  {entry.collection}  {entry.state.value}  {entry.reason}, {attempts}"
        console.print(styled(head, "red" if entry.state is State.QUARANTINED else "yellow"))
        lines = [f"{entry.bucket}/{entry.key}" if entry.bucket else entry.key, redact_text(entry.message)]
        document = _document(entry, status.state_url)
        for line in (*lines, *([f"details: {document}"] if document else [])):
            console.print(Padding(styled(line), (0, 0, 0, 2), expand=False))
