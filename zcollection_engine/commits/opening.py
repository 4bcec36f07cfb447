"""From the objects of a log to the state of a collection: as of its head, or of an older record."""

from __future__ import annotations

from datetime import datetime

from zcollection_engine.clock import Clock
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Commit, time_text
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.errors import FormatError, InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.stores.base import ObjectStore

#: A commit by its number, or the last one up to a time (with a time zone).
Moment = int | datetime


def load_state(store: ObjectStore, clock: Clock | None = None) -> CollectionState:
    """Fold the log to its head: the newest checkpoint, then the records behind it.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If a newer version wrote it, or it is damaged.
    """
    log, checkpoints = CommitLog(store, clock), Checkpoints(store)
    while True:
        newest = max(checkpoints.numbers(), default=-1)
        try:
            state = checkpoints.load(newest) if newest >= 0 else CollectionState()
        except NotFoundError:
            continue  # a newer one took its place meanwhile
        state.apply_all(log.follow(state.number))
        if state.number < 0:
            if checkpoints.numbers():
                continue  # the first one was made meanwhile, and the log trimmed
            raise NotFoundError(f"{store.url}: there is no collection here")
        if log.is_intact(max(newest, 0)):
            return state


def followed(state: CollectionState, store: ObjectStore, clock: Clock | None = None) -> CollectionState:
    """Bring a state up to the head of the log and return it; another one if the log was trimmed beyond it."""
    log = CommitLog(store, clock)
    records = list(log.follow(state.number))
    if state.ledger.base.is_expired or not log.is_intact(state.number):
        return load_state(store, clock)
    state.apply_all(records)
    return state


def load_state_at(store: ObjectStore, at: Moment, clock: Clock | None = None) -> CollectionState:
    """Fold the log to an older record.

    Parameters
    ----------
    at
        Number of a record, or a time: then the last commit up to it counts.

    Raises
    ------
    NotFoundError
        If there is no collection.
    InvalidInputError
        If the record does not exist yet, the time is before the creation, or has no time zone.
    SnapshotExpiredError
        If the log does not reach back so far any more.
    FormatError
        If a newer version wrote it, or it is damaged.
    """
    if isinstance(at, datetime) and at.tzinfo is None:
        raise InvalidInputError(f"the time {at} has no time zone; add one, for example datetime(..., tzinfo=UTC)")
    head = load_state(store, clock)
    if isinstance(at, int) and not 0 <= at <= head.number:
        raise InvalidInputError(f"{store.url}: there is no record {at}; the log ends with {head.number}")
    if head.creation is not None and isinstance(at, datetime) and at < head.creation.time:
        raise InvalidInputError(f"{store.url}: created at {time_text(head.creation.time)}, after {time_text(at)}")
    log, checkpoints = CommitLog(store, clock), Checkpoints(store)
    was_without = False
    while True:
        try:
            state = _checkpoint_before(checkpoints, at)
        except NotFoundError:
            continue  # collected while it was looked for; the next list is without it
        first = state.number
        if _fold_until(state, log, at):
            return state
        if log.is_intact(max(first, 0)):
            if isinstance(at, int):
                raise FormatError(
                    f"{store.url}: record {state.number + 1} of the commit log is missing, later ones exist"
                )
            return state
        # The log was trimmed beyond the record that the fold began with, after a later checkpoint had been made.
        if first < 0 and was_without:
            raise SnapshotExpiredError(
                f"{store.url}: the log no longer reaches back to {at}; history() tells what it has", at=str(at)
            )
        was_without = first < 0


def _fold_until(state: CollectionState, log: CommitLog, at: Moment) -> bool:
    """Fold records up to a moment; False if they end before it."""
    if state.number == at:
        return True
    for number, record in log.follow(state.number):
        if isinstance(at, datetime) and isinstance(record, Commit) and record.time > at:
            return True
        state.apply(number, record)
        if number == at:
            return True
    return False


def _checkpoint_before(checkpoints: Checkpoints, at: Moment) -> CollectionState:
    """The newest checkpoint that is not behind a moment; an empty state if there is none."""
    numbers = checkpoints.numbers()
    if isinstance(at, int):
        before = [number for number in numbers if number <= at]
        return checkpoints.load(before[-1]) if before else CollectionState()
    low, high, found = 0, len(numbers), CollectionState()
    while low < high:
        middle = (low + high) // 2
        state = checkpoints.load(numbers[middle])
        if state.last_time is None or state.last_time <= at:
            low, found = middle + 1, state
        else:
            high = middle
    return found
