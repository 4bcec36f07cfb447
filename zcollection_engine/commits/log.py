"""The commit log on an object store: read, follow, append.

Record n is made only behind record n - 1, and old records are removed in ascending order, never the one that a kept
checkpoint stands on. So whoever still finds record n after having met nothing at n + 1 has seen the head of the log,
and a record whose predecessor is gone was made by a writer that slept while the log went on: it is void.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.commits.records import Record, decode, encode
from zcollection_engine.errors import (
    FencedError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores.base import ObjectStore

FOLDER = ".zcommits/"
CHECKPOINTS = f"{FOLDER}checkpoints/"

_READ_AHEAD = (1, 1, 2, 4, 8)
_PARALLEL_READS = 16
_PUT_ATTEMPTS = 8


class NumberTakenError(PreconditionFailedError):
    """Another record has the number; it is in ``winner``."""

    code = "number_taken"

    @property
    def winner(self) -> Record:
        record: Record = self.context["winner"]
        return record


class LogTrimmedError(FencedError):
    """The log went on without this process and was trimmed meanwhile: what it knows is void, open it again."""

    code = "log_trimmed"


def record_key(number: int) -> str:
    """Key of a record below the collection."""
    return f"{FOLDER}{number:020d}.json"


def record_number(key: str) -> int | None:
    """Number of the record at ``key``; None if the key is no record's."""
    name = key.removeprefix(FOLDER)
    is_record = len(name) == 25 and name.endswith(".json") and name[:20].isascii() and name[:20].isdecimal()
    return int(name[:20]) if is_record else None


class CommitLog:
    """The records of one collection.

    Numbers are taken one after another without gaps, so the record after ``n`` is found by one GET.
    """

    def __init__(self, store: ObjectStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()

    def read(self, number: int) -> Record:
        """Return a record; raises `NotFoundError`."""
        key = record_key(number)
        return decode(self._store.get(key).data, name=f"{self._store.url}/{key}")

    def follow(self, after: int) -> Iterator[tuple[int, Record]]:
        """Yield the records behind ``after`` until there are no more.

        One GET tells that there are none; where there are many they are read ahead in parallel. The end is the head of
        the log only if record ``after`` is still there afterwards (`is_intact`).
        """
        number = after + 1
        for ahead in itertools.chain(_READ_AHEAD, itertools.repeat(_PARALLEL_READS)):
            for record in self._read_some(number, ahead):
                if record is None:
                    return
                yield number, record
                number += 1

    def is_intact(self, number: int) -> bool:
        """Tell whether the log still has record ``number``, so that nothing behind it was removed."""
        try:
            self._store.head(record_key(number))
        except NotFoundError:
            return False
        return True

    def append(self, number: int, record: Record) -> None:
        """Create record ``number``.

        A lost answer is resolved by asking again until the number is taken by someone; a record of the same
        transaction and kind is our own.

        Raises
        ------
        NumberTakenError
            If another record has the number.
        LogTrimmedError
            If the log is far beyond the number; the record counts for nothing.
        OutcomeUnknownError
            If the store gave no answer to many tries; the record may or may not exist.
        """
        self._settle(number, record)
        if not self._counts(number):
            self._store.delete(record_key(number))
            raise LogTrimmedError(
                f"{self._store.url}: record {number} came too late, the log has been trimmed beyond it", record=number
            )

    def _settle(self, number: int, record: Record) -> None:
        data = encode(record)
        key = record_key(number)
        last: StorageError | None = None
        for attempt in range(_PUT_ATTEMPTS):
            if attempt:
                self._clock.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter, no secret
            try:
                winner = self._create(number, data)
            except StorageError as error:
                last = error
                continue
            except NotFoundError as error:
                raise LogTrimmedError(f"{self._store.url}/{key} was taken, and removed again since") from error
            if winner is not None and encode(winner) != data:
                raise NumberTakenError(f"{self._store.url}/{key} was taken by another writer", winner=winner)
            return
        raise OutcomeUnknownError(
            f"{self._store.url}/{key}: {_PUT_ATTEMPTS} tries without an answer; the last one said: {last}"
        ) from last

    def _create(self, number: int, data: bytes) -> Record | None:
        """Create a record; return the one that has the number if there is one already."""
        try:
            self._store.create(record_key(number), data)
        except PreconditionFailedError:
            return self.read(number)
        return None

    def _counts(self, number: int) -> bool:
        if number > 0:
            return self.is_intact(number - 1)
        return next(self._store.list(CHECKPOINTS), None) is None

    def _read_some(self, first: int, count: int) -> list[Record | None]:
        if count == 1:
            return [self._find(first)]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(self._find, range(first, first + count)))

    def _find(self, number: int) -> Record | None:
        try:
            return self.read(number)
        except NotFoundError:
            return None
