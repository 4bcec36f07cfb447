"""Grants: who may write a partition, told by the log alone.

A grant is a record; its number is the token; a later grant of the same partition is the fence; the commit, or a
release, gives it back. No clock of another machine is trusted: a grant may be taken over when its observer has seen no
sign of life for its time to live on its own monotonic clock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from zcollection_engine.clock import Clock
from zcollection_engine.commits.log import CommitLog, NumberTakenError
from zcollection_engine.commits.records import Commit, Grant, Record, Release, Renewal
from zcollection_engine.commits.state import CollectionState, HeldGrant, PartitionState
from zcollection_engine.errors import EngineError, FencedError


@dataclass(frozen=True)
class Granted:
    """A grant that this process holds.

    Attributes
    ----------
    token
        Number of its record.
    bases
        The partitions as the grant found them, by path; all that exist for a grant of everything.
    flips
        By path: since when, by the store's clock, the base's generation is visible; filled on the way.
    """

    token: int
    grant: Grant
    bases: Mapping[str, PartitionState]
    flips: dict[str, datetime] = field(default_factory=dict)

    @property
    def transaction(self) -> str:
        return self.grant.transaction

    def base(self, path: str) -> PartitionState:
        """A partition as the grant found it; one that never existed has no rows."""
        return self.bases.get(path) or PartitionState(path, -1, 0, 0, None)


class GrantCheck:
    """Follows the log behind a grant; calling it raises `FencedError` once the grant is no longer good.

    Thread-safe; costs one GET and one HEAD while nothing happens.
    """

    def __init__(self, log: CommitLog, token: int, partitions: Iterable[str]) -> None:
        self._log = log
        self._token = token
        self._partitions = frozenset(partitions)
        self._seen = token
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            for number, record in self._log.follow(self._seen):
                self._judge(number, record)
                self._seen = number
            if not self._log.is_intact(self._token):
                raise FencedError(f"{self._name()} is so old that the log was trimmed beyond it", token=self._token)

    def _judge(self, number: int, record: Record) -> None:
        """Raise `FencedError` if ``record`` ends the grant."""
        released = isinstance(record, Release | Commit) and record.token == self._token
        taken_over = isinstance(record, Grant) and record.covers(self._partitions)
        if released or taken_over:
            raise FencedError(
                f"{self._name()} ended with record {number} ({record.kind}): another writer took over",
                token=self._token,
                record=number,
            )

    def _name(self) -> str:
        return f"grant {self._token} of {', '.join(sorted(self._partitions))}"


class GrantWatch:
    """Judges the grants of others by this process's own monotonic clock.

    Parameters
    ----------
    owner, session
        This writer and this run of it. A grant of the same owner from another session is from a run that died.
    """

    def __init__(self, clock: Clock, owner: str, session: str) -> None:
        self._clock = clock
        self._owner = owner
        self._session = session
        self._seen: dict[int, tuple[int, float]] = {}

    def remaining(self, held: HeldGrant) -> float:
        """Seconds until the grant may be taken over; 0 when it may be now."""
        grant = held.grant
        if grant.owner == self._owner and grant.session != self._session:
            return 0.0
        alive, since = self._seen.get(held.token, (-1, 0.0))
        now = self._clock.monotonic()
        if alive != held.alive:
            self._seen[held.token] = (held.alive, now)
            since = now
        return max(0.0, since + grant.seconds - now)

    def forget_ended(self, state: CollectionState) -> None:
        """Drop what is known of grants that are no longer held."""
        held = {h.token for h in state.held.values()}
        self._seen = {token: seen for token, seen in self._seen.items() if token in held}


class Heartbeat:
    """Renews a grant in the background while a transaction runs.

    A failed renewal is kept in ``failure``: the grant then simply ages, and whoever takes it over fences the writer.
    """

    def __init__(self, log: CommitLog, clock: Clock, grant: Grant, token: int) -> None:
        self._log = log
        self._clock = clock
        self._grant = grant
        self._token = token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"renewal of grant {token}", daemon=True)
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._grant.seconds / 3):
            renewal = Renewal(self._grant.transaction, self._clock.now(), self._token)
            try:
                append_next(self._log, self._token, renewal)
            except EngineError as error:
                self.failure = error


def append_next(log: CommitLog, after: int, record: Record) -> int:
    """Append a record that conflicts with nothing at the first free number behind ``after``; return the number."""
    number = after
    for number, _ in log.follow(after):  # noqa: B007 - the last number is what is wanted
        pass
    while True:
        number += 1
        try:
            log.append(number, record)
        except NumberTakenError:
            continue
        return number
