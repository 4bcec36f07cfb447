"""Objects found by listing a folder of a store at intervals; no event is ever needed.

What is known already is left alone, and so is what a writer has not finished: names that writers use for the
time of writing are never taken, and with ``settle_seconds`` an object must look the same in two scans that
lie so far apart.

Only this process's monotonic clock decides about that. A modification time is set by another machine's clock,
or copied from elsewhere by the writer (``cp -p``, ``rsync -t``, ``tar``); compared with the time of day here
it would pass off a half-written file as an old one. The price is that what lies there at the start waits for
a second scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import structlog

from daemon.errors import SourceUnavailableError
from daemon.sources.base import Clock, Delivery, ObjectRef, SystemClock
from zcollection_engine.errors import EngineError
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.stores.resolve import locate

#: Objects taken from a listing at a time: between two pages the event loop does other things.
PAGE = 500

#: Objects whose rest is watched at a time. More wait for a later scan, so that memory stays bounded.
MOST_UNSETTLED = 10_000

_UNFINISHED_SUFFIXES = (".part", ".tmp", ".filepart")

#: Key, ETag and size: one version of an object of this source.
_Version = tuple[str, str | None, int | None]


@dataclass(slots=True)
class _Sighting:
    """How an unsettled object looked, since when, and in which scan it was last seen."""

    info: ObjectInfo
    since: float
    scan: int


class _Listing:
    """A listing read page by page in worker threads. A cancelled caller leaves its page to the next one."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._objects: Iterator[ObjectInfo] | None = None
        self._reading: asyncio.Task[list[ObjectInfo]] | None = None

    async def page(self) -> list[ObjectInfo]:
        """Return the next objects; fewer than ``PAGE`` at the end."""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._read), name=f"listing {self._store.url}")
        await asyncio.wait([self._reading])
        reading, self._reading = self._reading, None
        return reading.result()

    async def close(self) -> None:
        """Wait for the page being read, and end the listing."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
            if not self._reading.cancelled() and (error := self._reading.exception()) is not None:
                structlog.get_logger(__name__).debug("the last page was not read", reason=str(error))
        if isinstance(self._objects, Generator):
            await asyncio.to_thread(self._objects.close)

    def _read(self) -> list[ObjectInfo]:
        if self._objects is None:
            self._objects = iter(self._store.list())
        return list(islice(self._objects, PAGE))


@dataclass(frozen=True, slots=True)
class _Scan:
    """A listing under way."""

    number: int
    started: float
    listing: _Listing


class WatchSource:
    """Delivers the objects that appear in a store.

    Parameters
    ----------
    name
        What logs call it.
    store
        The folder to watch, with all that lies below it.
    interval_seconds
        Least time between the starts of two scans.
    settle_seconds
        Time for which an object must not have changed; 0 for stores where an object appears whole.
    known
        Whether an object needs no delivery: the ledger has it, or no collection wants it. Called in the event
        loop for each object listed, so it must answer at once.
    is_marker
        Whether an object of this key tells that the Zarr directory which holds it is complete: it is taken whatever its
        name, for nothing is unfinished about it.
    clock
        Measures intervals and rest.
    wake
        Setting it starts the next scan at once.
    """

    def __init__(
        self,
        name: str,
        store: ObjectStore,
        *,
        interval_seconds: float,
        settle_seconds: float,
        known: Callable[[ObjectRef], bool],
        is_marker: Callable[[str], bool] = lambda _: False,
        clock: Clock | None = None,
        wake: asyncio.Event | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._interval = interval_seconds
        self._settle = settle_seconds
        self._known = known
        self._is_marker = is_marker
        self._clock = clock or SystemClock()
        self._wake = wake or asyncio.Event()
        self._bucket, self._prefix = locate(f"{store.url}/")
        self._scan: _Scan | None = None
        self._scans = 0
        self._due = self._clock.monotonic()
        self._waiting = False
        self._complete = False
        self._overlooked = False
        self._overlooking = False
        self._unsettled: dict[str, _Sighting] = {}
        self._backlog: dict[_Version, ObjectRef] = {}
        self._in_flight: dict[_Version, Delivery] = {}
        # What was acknowledged and is not known yet, with the number of the scan that last met it.
        self._acknowledged: dict[_Version, int] = {}

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._scan is not None:
            await self._scan.listing.close()
            self._scan = None
        self._backlog.clear()
        self._in_flight.clear()

    async def receive(self, limit: int) -> list[Delivery]:
        while not (deliveries := self._hand_out(limit)):
            if self._scan is None:
                await self._until_due()
                if self._backlog:
                    continue
                self._scan = self._begin()
            if not await self._advance(self._scan):
                return self._hand_out(limit)
        return deliveries

    async def acknowledge(self, delivery: Delivery) -> None:
        version = _version(delivery)
        if self._in_flight.pop(version, None) is not None:
            self._acknowledged[version] = self._scans

    async def release(self, delivery: Delivery) -> None:
        version = _version(delivery)
        if self._in_flight.pop(version, None) is not None:
            self._backlog[version] = delivery.ref
            if self._waiting:
                self._wake.set()

    async def drained(self) -> bool:
        # The last complete scan decides: where listing takes long, one may be under way at any time.
        outstanding = self._overlooked or self._unsettled or self._backlog or self._in_flight
        return self._complete and not outstanding

    def _hand_out(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        while self._backlog and len(deliveries) < limit:
            version = next(iter(self._backlog))
            ref = self._backlog.pop(version)
            if self._known(ref):
                continue
            delivery = Delivery(ref=ref, source=self._name, event=_event(ref), receipt=version)
            self._in_flight[version] = delivery
            deliveries.append(delivery)
        return deliveries

    async def _until_due(self) -> None:
        """Wait until the next scan is due, or something was given back."""
        self._waiting = True
        try:
            while not self._backlog and (left := self._due - self._clock.monotonic()) > 0:
                if await self._clock.wait(self._wake, left):
                    self._wake.clear()
                    return
        finally:
            self._waiting = False

    def _begin(self) -> _Scan:
        self._scans += 1
        self._overlooking = False
        started = self._clock.monotonic()
        self._due = started + self._interval
        return _Scan(number=self._scans, started=started, listing=_Listing(self._store))

    async def _advance(self, scan: _Scan) -> bool:
        """Look at the next page; return False when it was the last one."""
        try:
            page = await scan.listing.page()
        except (EngineError, OSError) as error:
            self._scan = None
            self._complete = False
            raise SourceUnavailableError(
                f"{self._store.url} could not be listed: {error}; check the source's URL and permissions"
            ) from error
        for info in page:
            self._consider(info, scan)
        if len(page) == PAGE:
            return True
        self._scan = None
        self._complete = True
        self._overlooked = self._overlooking
        self._unsettled = {k: s for k, s in self._unsettled.items() if s.scan == scan.number}
        self._acknowledged = {v: number for v, number in self._acknowledged.items() if number == scan.number}
        return False

    def _consider(self, info: ObjectInfo, scan: _Scan) -> None:
        version = (info.key, info.etag, info.size)
        if is_unfinished(info.key, is_marker=self._is_marker) or version in self._backlog or version in self._in_flight:
            return
        ref = self._ref(info)
        if self._known(ref):
            return
        if version in self._acknowledged:
            self._acknowledged[version] = scan.number
        elif self._is_at_rest(info, scan):
            self._unsettled.pop(info.key, None)
            self._backlog[version] = ref

    def _is_at_rest(self, info: ObjectInfo, scan: _Scan) -> bool:
        if self._settle <= 0:
            return True
        now = self._clock.monotonic()
        sighting = self._unsettled.get(info.key)
        if sighting is None and len(self._unsettled) >= MOST_UNSETTLED:
            self._overlooking = True
            return False
        if sighting is None or sighting.info != info:
            self._unsettled[info.key] = _Sighting(info=info, since=now, scan=scan.number)
            return False
        sighting.scan = scan.number
        # The page may have been read ahead, but not before its scan began.
        return scan.started - sighting.since >= self._settle

    def _ref(self, info: ObjectInfo) -> ObjectRef:
        return ObjectRef(
            url=f"{self._store.url}/{info.key}",
            bucket=self._bucket,
            key=self._prefix + info.key,
            etag=info.etag,
            size=info.size,
            modified=info.modified,
            event_time=info.modified,
        )


def is_unfinished(key: str, *, is_marker: Callable[[str], bool] = lambda _: False) -> bool:
    """Whether a key, relative to the watched folder, is a name that writers use until they are done.

    Such are names that start with "." or "_" or end in ".part", ".tmp" or ".filepart", unless they mark a Zarr
    directory as complete; and all that lies in a folder whose name starts with ".". Keys that end in "/" only mark
    folders.
    """
    *folders, name = key.split("/")
    if not name or any(folder.startswith(".") for folder in folders):
        return True
    return (name.startswith((".", "_")) or name.lower().endswith(_UNFINISHED_SUFFIXES)) and not is_marker(key)


def _version(delivery: Delivery) -> _Version:
    if not isinstance(delivery.receipt, tuple):
        raise TypeError(f"{delivery.ref.url} was not delivered by this source but by {delivery.source!r}")
    return delivery.receipt


def _event(ref: ObjectRef) -> dict[str, object]:
    modified = ref.modified.isoformat() if ref.modified is not None else None
    return {"found_by": "listing", "url": ref.url, "size": ref.size, "etag": ref.etag, "modified": modified}
