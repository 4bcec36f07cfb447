"""Partition-level scheduling: which granules are merged together, and when.

Granules that touch the same partition share a transaction; partitions that no granule links go side by side. A granule
waits only for others that are being read at that moment, and not for long: together they cost one transaction instead
of many. A lone granule starts at once; what comes while it is merged forms the next transaction.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from zcollection_engine.errors import BusyError, SchemaChangedError
from zcollection_engine.planning import Verdict
from zcollection_engine.transaction import Offer, Outcome

_log = structlog.get_logger(__name__)

#: Commits a batch; runs off the event loop.
Commit = Callable[[Sequence[Offer]], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one transaction takes.

    Attributes
    ----------
    granules
        Count.
    bytes
        Sum of the granules' sizes as objects; a larger one goes alone.
    delay
        Seconds for which a granule waits at most for others that are being read.
    """

    granules: int
    bytes: int
    delay: float = 5.0


@dataclass(eq=False, slots=True)
class _Pending:
    offer: Offer
    done: asyncio.Future[tuple[Verdict, int | None]]
    since: float
    alone: bool = False
    waited: bool = False

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self.offer.entry.shares)


@dataclass(eq=False)
class PartitionScheduler:
    """Schedules the transactions of one collection. Used from one event loop.

    Parameters
    ----------
    name
        The collection's name, for logs.
    commit
        Runs a transaction.
    limits
        Of one transaction.
    """

    name: str
    commit: Commit
    limits: Limits
    _waiting: list[_Pending] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _reads: int = 0
    _commits: int = 0
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)
    _pauses: int = 0
    _alarm: asyncio.TimerHandle | None = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A granule is being read, and will be merged as soon as it is; what is ready waits for it."""
        self._reads += 1
        try:
            yield
        finally:
            self._reads -= 1
            # Soon, not now: the reader merges what it has read before it gives up its turn.
            asyncio.get_running_loop().call_soon(self._dispatch)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No transaction runs while the context lasts: those under way end first, all others wait."""
        self._pauses += 1
        try:
            if self._commits:
                self._quiet.clear()
                await self._quiet.wait()
            yield
        finally:
            self._pauses -= 1
            self._dispatch()

    async def merge(self, offer: Offer) -> tuple[Verdict, int | None]:
        """Merge a granule; returns its verdict and the number of its commit once it is visible.

        Raises what the transaction raised for it alone: mates of a batch that fails are tried one by one.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(offer, loop.create_future(), loop.time())
        self._waiting.append(pending)
        self._dispatch()
        try:
            return await pending.done
        finally:
            if pending in self._waiting:
                self._waiting.remove(pending)

    async def close(self) -> None:
        """Cancel what is under way and what waits; their `merge` ends with `asyncio.CancelledError`."""
        if self._alarm is not None:
            self._alarm.cancel()
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            pending.done.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _dispatch(self) -> None:
        if self._pauses or self._waits_for_company():
            return
        while batch := self._next_batch():
            self._waiting = [p for p in self._waiting if p not in batch]
            paths = frozenset().union(*(p.paths for p in batch))
            self._busy |= paths
            self._commits += 1
            # An empty context: a transaction's log lines belong to no single granule.
            task = asyncio.create_task(
                self._run(batch, paths), name=f"transaction of {self.name}", context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _waits_for_company(self) -> bool:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._waiting or self._reads == 0:
            return False
        is_full = len(self._waiting) >= self.limits.granules or sum(map(_size, self._waiting)) >= self.limits.bytes
        loop = asyncio.get_running_loop()
        remaining = min(p.since for p in self._waiting) + self.limits.delay - loop.time()
        if is_full or remaining <= 0:
            return False
        self._alarm = loop.call_later(remaining, self._dispatch)
        return True

    def _next_batch(self) -> list[_Pending]:
        """The next granules whose partitions are idle and linked with each other, oldest first."""
        blocked = set(self._busy)
        batch: list[_Pending] = []
        paths: set[str] = set()
        size = 0
        for pending in self._waiting:
            is_wanted = not batch or (not pending.alone and pending.paths & paths)
            if pending.paths & blocked or not is_wanted:
                # Left for later, and not to be overtaken by a newer one.
                blocked |= pending.paths
            else:
                if batch and (len(batch) >= self.limits.granules or size + _size(pending) > self.limits.bytes):
                    break
                batch.append(pending)
                paths |= pending.paths
                size += _size(pending)
                if pending.alone:
                    break
        return batch

    async def _run(self, batch: list[_Pending], paths: frozenset[str]) -> None:
        try:
            outcome = await self._commit(batch)
        except BusyError as error:
            if not all(pending.waited for pending in batch):
                _log.info("partition is busy", collection=self.name, partitions=sorted(paths), reason=str(error))
            for pending in batch:
                pending.waited = True
            self._put_back(batch)
            await asyncio.sleep(error.retry_after)
        except asyncio.CancelledError:
            for pending in batch:
                pending.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to each granule, which decides what it means
            self._blame(batch, error)
        else:
            for pending in batch:
                if not pending.done.done():
                    pending.done.set_result((outcome.verdicts[pending.offer.entry.id], outcome.commit))
            _log.info(
                "already in" if outcome.commit is None else "committed",
                collection=self.name,
                commit=outcome.commit,
                granules=len(batch),
                partitions=[p.path for p in outcome.partitions],
                lost=[e.identity.key for e in outcome.lost] or None,
            )
        finally:
            self._busy -= paths
            self._dispatch()

    async def _commit(self, batch: list[_Pending]) -> Outcome:
        try:
            return await self.commit([p.offer for p in batch])
        finally:
            self._commits -= 1
            if not self._commits:
                self._quiet.set()

    def _put_back(self, batch: list[_Pending]) -> None:
        """Let those of a batch wait again, before all others, that still have someone who waits for them."""
        self._waiting[:0] = [pending for pending in batch if not pending.done.done()]

    def _blame(self, batch: list[_Pending], error: Exception) -> None:
        # A schema that changed is nobody's fault: all of the batch are to be fitted again.
        if len(batch) == 1 or isinstance(error, SchemaChangedError):
            for pending in batch:
                if not pending.done.done():
                    pending.done.set_exception(error)
            return
        _log.warning("batch failed; its granules are tried one by one", collection=self.name, reason=str(error))
        for pending in batch:
            pending.alone = True
        self._put_back(batch)


def _size(pending: _Pending) -> int:
    return pending.offer.entry.identity.size
