"""The way of a granule: route, drop what is known, read and check, merge, settle, acknowledge."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from daemon.compute import DaskCompute, Reading
from daemon.errors import SourceUnavailableError
from daemon.failures import Failure, Kind, judge, spent
from daemon.journal import Entry, Journal, State
from daemon.logs import context
from daemon.passed_over import newer_of_a_tie, passed_over
from daemon.routing import Router
from daemon.scheduler import PartitionScheduler
from daemon.settings_sections import RetrySettings
from daemon.settled import SettledDocuments
from daemon.sources.base import Delivery, ObjectRef, Source
from daemon.target import Target
from zcollection_engine.collection import Collection
from zcollection_engine.errors import BusyError, EngineError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.identity import GranuleIdentity
from zcollection_engine.planning import Verdict
from zcollection_engine.transaction import Offer

_log = structlog.get_logger(__name__)

#: How long a source that cannot be told of a settled granule is asked again, in seconds.
_ACKNOWLEDGE_PAUSE = 5.0

#: Keeps the pause a finite number; the longest is reached long before.
_MOST_DOUBLINGS = 64


class Observer(Protocol):
    """Is told what happens to granules; must not block."""

    def settled(self, entry: Entry) -> None:
        """A granule is in, skipped or quarantined."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A collection and the scheduler of its transactions."""

    target: Target
    scheduler: PartitionScheduler


@dataclass(eq=False)
class Work:
    """A granule on its way, and every delivery that waits for it."""

    target: Target
    entry: Entry
    ref: ObjectRef
    deliveries: list[tuple[Source, Delivery]] = field(default_factory=list)


class Pipeline:
    """Processes deliveries. Used from one event loop; every granule is a task of its own.

    Parameters
    ----------
    router, lanes
        Where granules go; lanes by the collection's name.
    compute
        Where they are read and merged.
    journal, documents
        Where outcomes are kept.
    retry
        Budget and pauses.
    observer
        Is told of outcomes.
    """

    def __init__(
        self,
        router: Router,
        lanes: Mapping[str, Lane],
        *,
        compute: DaskCompute,
        journal: Journal,
        documents: SettledDocuments,
        retry: RetrySettings,
        observer: Observer | None = None,
    ) -> None:
        self._router = router
        self._lanes = lanes
        self._compute = compute
        self._journal = journal
        self._documents = documents
        self._retry = retry
        self._observer = observer
        self._works: dict[tuple[str, str], Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.left_alone: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Granules taken and not settled yet."""
        return len(self._tasks)

    def knows(self, ref: ObjectRef) -> bool:
        """Tell whether an object needs no work: it is settled, or goes nowhere. Answers without any request."""
        collection = self._router.route(ref).collection
        return collection is None or self._settled(self._lanes[collection].target, ref) is not None

    async def take(self, source: Source, delivery: Delivery) -> None:
        """Start the way of a delivered object."""
        ref = delivery.ref
        route = self._router.route(ref)
        if route.collection is None:
            self.left_alone["unrouted"] += 1
            _log.debug("left alone", granule=ref.key, reason=route.reason)
            self._spawn(self._acknowledge(source, delivery))
            return
        target = self._lanes[route.collection].target
        known = self._settled(target, ref)
        if known is not None:
            self.left_alone[known] += 1
            _log.debug("already settled", granule=ref.key, collection=target.name, state=known)
            self._spawn(self._acknowledge(source, delivery))
            return
        identity = _identity(ref)
        work = self._works.get((target.name, identity))
        # Without an ETag it may be another version than the one that is being read.
        if work is not None and ref.etag is not None:
            work.deliveries.append((source, delivery))
            return
        work = Work(target, self._received(target, identity, ref), ref, [(source, delivery)])
        self._works[target.name, identity] = work
        self._spawn(self._process(work))

    async def room(self, limit: int) -> int:
        """Wait until less than ``limit`` granules are on their way; returns how many more may come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._tasks) < limit)
            return limit - len(self._tasks)

    async def idle(self) -> None:
        """Wait until nothing is on its way."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._tasks)

    async def stop(self, grace: float) -> list[str]:
        """Let what is on its way end within ``grace`` seconds, then give it up; returns the keys given up."""
        try:
            async with asyncio.timeout(grace):
                await self.idle()
        except TimeoutError:
            pass  # what is left is given up below and delivered again
        left = [work.ref.key for work in self._works.values()]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            await lane.scheduler.close()
        return left

    def _settled(self, target: Target, ref: ObjectRef) -> str | None:
        if ref.etag is None or ref.size is None:
            return None
        granule = GranuleIdentity(ref.bucket, ref.key, ref.etag, ref.size)
        state = target.collection.state if target.collection else None
        if state is not None and granule.id in state.ledger:
            return State.COMMITTED.value
        if state is not None and state.ledger.was_removed(granule.id):
            return "superseded"
        found = self._documents.find(target.name, str(granule.id))
        return found.state.value if found else None

    def _received(self, target: Target, identity: str, ref: ObjectRef) -> Entry:
        entry = Entry(
            identity,
            target.name,
            ref.bucket,
            ref.key,
            State.RECEIVED,
            etag=ref.etag,
            size=ref.size,
            attempts=self._journal.attempts(target.name, identity),
            landed=ref.event_time or ref.modified,
            received=datetime.now(UTC),
        )
        self._journal.record(entry)
        return entry

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        asyncio.get_running_loop().create_task(self._tell())
        if not task.cancelled() and task.exception() is not None:
            _log.error("a granule's way ended in a defect of the daemon", exc_info=task.exception())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _process(self, work: Work) -> None:
        with context(granule=work.ref.key, collection=work.target.name):
            try:
                await self._until_settled(work)
            except Exception:
                for source, delivery in work.deliveries:
                    await source.release(delivery)
                raise
            finally:
                if self._works.get(name := (work.target.name, _identity(work.ref))) is work:
                    del self._works[name]
            for source, delivery in work.deliveries:
                await self._acknowledge(source, delivery)

    async def _until_settled(self, work: Work) -> None:
        while True:
            attempts = work.entry.attempts + 1
            work.entry = replace(work.entry, attempts=attempts)
            try:
                await self._ingest(work)
            except Exception as error:  # noqa: BLE001 - judged here, the one place that decides about a granule
                failure = judge(error)
                if failure.kind is Kind.AGAIN:
                    work.entry = replace(work.entry, attempts=attempts - 1)
                    _log.info("will be fitted again", reason=failure.message)
                    continue
                if failure.kind is Kind.RETRY and attempts >= self._retry.max_attempts:
                    failure = spent(failure, attempts)
                if failure.kind is not Kind.RETRY:
                    await self._refuse(work, failure)
                    return
                self._note(work, State.RETRYING, failure.reason, failure.message)
                _log.warning("will be tried again", reason=failure.reason, attempt=attempts, error=failure.message)
                await asyncio.sleep(self._pause(attempts))
            else:
                return

    async def _ingest(self, work: Work) -> None:
        """One attempt; returns when the granule is settled."""
        target = work.target
        collection = await target.require(self._compute, work.ref)
        scheduler = self._lanes[target.name].scheduler
        reading = await self._read(work, collection)
        entry = reading.entry
        with context(partitions=sorted(entry.shares)):
            verdict, commit = await scheduler.merge(Offer(entry, reading))
            if verdict is Verdict.SUPERSEDED:
                newer = await newer_of_a_tie(target, collection, entry)
                if newer is not None:
                    verdict, commit = await scheduler.merge(Offer(newer, reading))
            self._identify(work, entry.identity)
            refusal = passed_over(verdict, entry)
            if refusal is not None:
                await self._refuse(work, refusal)
                return
            self._note(work, State.COMMITTED, "", "")
            _log.info("visible", commit=commit, rows=entry.rows, seconds=work.entry.latency)

    async def _read(self, work: Work, collection: Collection) -> Reading:
        """Read a granule, after the collection got the variables that it brings, if it is to have such."""
        target = work.target
        scheduler = self._lanes[target.name].scheduler
        while True:
            with scheduler.reading():
                found = await self._compute.read(target.request(work.ref), collection.ref)
            if isinstance(found, Reading):
                return found
            await self._add(found, work)

    async def _add(self, addition: Addition, work: Work) -> None:
        """Give a collection the variables that a granule brings, while no transaction of ours stands in the way."""
        scheduler = self._lanes[work.target.name].scheduler
        for attempt in itertools.count():
            try:
                async with scheduler.paused():
                    await work.target.add(addition, work.ref)
            except BusyError as error:
                if not attempt:
                    _log.info("waiting to add variables", reason=str(error))
                await asyncio.sleep(error.retry_after)
            else:
                return

    def _identify(self, work: Work, found: GranuleIdentity) -> None:
        """Go on under the identity that the reading told; the event may have told another one, or part of it."""
        ref = work.ref
        if ref.etag not in (None, found.etag) or ref.size not in (None, found.size):
            self._note(work, State.SKIPPED, "overwritten", "the object was overwritten before it was read")
        elif str(found.id) != work.entry.id:
            self._journal.forget(work.entry)
        work.entry = replace(work.entry, id=str(found.id), etag=found.etag, size=found.size)

    async def _refuse(self, work: Work, failure: Failure) -> None:
        """Quarantine or skip a granule: durable, then known to the journal."""
        state = State.SKIPPED if failure.kind is Kind.SKIP else State.QUARANTINED
        entry = replace(work.entry, state=state, reason=failure.reason, message=failure.message)
        entry = replace(entry, settled=datetime.now(UTC))
        await self._document(work, entry, failure)
        self._note(work, state, failure.reason, failure.message)
        _log.warning(state.value, reason=failure.reason, error=failure.message)

    async def _document(self, work: Work, entry: Entry, failure: Failure) -> None:
        """Write a granule's document; its storage may fail for a while, which is not the granule's fault."""
        event = work.deliveries[0][1].event
        for attempt in itertools.count(1):
            try:
                await asyncio.to_thread(self._documents.write, entry, failure, url=work.ref.url, event=event)
            except EngineError as error:
                _log.error("document cannot be written", url=self._documents.url, reason=str(error))
                await asyncio.sleep(self._pause(attempt))
            else:
                return

    def _note(self, work: Work, state: State, reason: str, message: str) -> None:
        settled = datetime.now(UTC) if state.is_settled else None
        work.entry = replace(work.entry, state=state, reason=reason, message=message, settled=settled)
        self._journal.record(work.entry)
        if settled is not None and self._observer is not None:
            self._observer.settled(work.entry)

    async def _acknowledge(self, source: Source, delivery: Delivery) -> None:
        while True:
            try:
                await source.acknowledge(delivery)
            except SourceUnavailableError as error:
                _log.warning("source cannot be told", source=source.name, reason=str(error))
                await asyncio.sleep(_ACKNOWLEDGE_PAUSE)
            else:
                return

    def _pause(self, attempts: int) -> float:
        doublings = min(attempts - 1, _MOST_DOUBLINGS)
        longest = min(self._retry.max_seconds, self._retry.base_seconds * 2**doublings)
        return random.uniform(0, longest)  # noqa: S311 - jitter, no secret


def _identity(ref: ObjectRef) -> str:
    """The journal's name for an object: the id of its identity, as far as the event told it."""
    return str(GranuleIdentity(ref.bucket, ref.key, ref.etag or "", ref.size or 0).id)
