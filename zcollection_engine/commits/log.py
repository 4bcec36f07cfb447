"""The commit log on an object store: read, follow, append."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.commits.records import Record, decode, encode
from zcollection_engine.errors import (
    FormatError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores.base import ObjectStore

FOLDER = ".zcommits/"
_PARALLEL_READS = 16
_PUT_ATTEMPTS = 8


class NumberTakenError(PreconditionFailedError):
    """Another record has the number; it is in ``winner``."""

    code = "number_taken"

    @property
    def winner(self) -> Record:
        record: Record = self.context["winner"]
        return record


def record_key(number: int) -> str:
    """Key of a record below the collection."""
    return f"{FOLDER}{number:020d}.json"


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
        """Yield the records behind ``after`` until there are no more: one GET each, and one for the end."""
        number = after + 1
        while True:
            try:
                record = self.read(number)
            except NotFoundError:
                return
            yield number, record
            number += 1

    def load(self) -> Iterator[tuple[int, Record]]:
        """Yield all records: one LIST, then parallel GETs, then whatever came meanwhile."""
        numbers = [self._number(info.key) for info in self._store.list(FOLDER) if _is_record(info.key)]
        if numbers != list(range(len(numbers))):
            missing = next(i for i, n in enumerate([*numbers, -1]) if i != n)
            raise FormatError(
                f"{self._store.url}: record {record_key(missing)} of the commit log is missing, later ones exist"
            )
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            yield from zip(numbers, pool.map(self.read, numbers), strict=True)
        yield from self.follow(len(numbers) - 1)

    def append(self, number: int, record: Record) -> None:
        """Create record ``number``.

        A lost answer is resolved by asking again until the number is taken by someone; a record of the same
        transaction and kind is our own.

        Raises
        ------
        NumberTakenError
            If another record has the number.
        OutcomeUnknownError
            If the store gave no answer to many tries; the record may or may not exist.
        """
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

    @staticmethod
    def _number(key: str) -> int:
        return int(key.removeprefix(FOLDER).removesuffix(".json"))


def _is_record(key: str) -> bool:
    name = key.removeprefix(FOLDER)
    return len(name) == 25 and name.endswith(".json") and name[:20].isascii() and name[:20].isdecimal()
