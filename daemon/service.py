"""The running daemon: receive loops, upkeep, an orderly stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from daemon.errors import SourceUnavailableError
from daemon.pipeline import Pipeline
from daemon.sdnotify import Notifier
from daemon.sources.base import Source
from daemon.target import Target
from zcollection_engine.errors import EngineError

_log = structlog.get_logger(__name__)

#: Pause before a source that cannot be asked is asked again, in seconds: from the first to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0

#: Between two looks at whether everything is drained, when a source had nothing.
_IDLE_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service runs.

    Attributes
    ----------
    max_in_flight
        Granules taken and not settled, over all sources.
    shutdown_grace
        Seconds for work in progress after a stop.
    until_idle
        End when all sources are drained and every granule is settled.
    watchdog_seconds
        Interval of the signs of life for the service manager; None for none.
    """

    max_in_flight: int
    shutdown_grace: float
    until_idle: bool = False
    watchdog_seconds: float | None = None


class Service:
    """Moves deliveries from the sources into the pipeline until it is stopped.

    Parameters
    ----------
    sources
        Entered already.
    targets
        By name; opened already.
    pipeline, notifier, options
        See there.
    stop
        Setting it asks for an orderly stop.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        targets: Mapping[str, Target],
        pipeline: Pipeline,
        *,
        stop: asyncio.Event,
        notifier: Notifier,
        options: ServiceOptions,
    ) -> None:
        self._sources = sources
        self._targets = targets
        self._pipeline = pipeline
        self._notifier = notifier
        self._options = options
        self._stop = stop
        self._unavailable: dict[str, str] = {}
        self._started = False

    def stop(self) -> None:
        """Ask for an orderly stop; returns at once."""
        self._stop.set()

    def live(self) -> str | None:
        """See `daemon.health.HealthProbe`."""
        return None

    def ready(self) -> str | None:
        """See `daemon.health.HealthProbe`."""
        if self._stop.is_set():
            return "draining"
        if not self._started:
            return "starting"
        return "; ".join(f"{name}: {why}" for name, why in self._unavailable.items()) or None

    async def run(self) -> None:
        """Run until `stop`, or until idle where that was asked for."""
        loops = [asyncio.create_task(self._receive(s), name=f"receive from {s.name}") for s in self._sources]
        loops += [asyncio.create_task(self._keep_arrays(t), name=f"upkeep of {t.name}") for t in self._targets.values()]
        if self._options.until_idle:
            loops.append(asyncio.create_task(self._watch_idle(), name="watch for idleness"))
        if self._options.watchdog_seconds is not None:
            loops.append(asyncio.create_task(self._watchdog(self._options.watchdog_seconds), name="watchdog"))
        stopped = asyncio.create_task(self._stop.wait(), name="wait for stop")
        self._started = True
        self._notifier.ready()
        _log.info("ready", sources=[s.name for s in self._sources], collections=list(self._targets))
        try:
            await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            await self._wind_up(loops)
            stopped.cancel()
        for task in loops:
            if not task.cancelled() and task.exception() is not None:
                await task

    async def _wind_up(self, loops: Sequence[asyncio.Task[None]]) -> None:
        self._notifier.stopping()
        _log.info("stopping", in_flight=self._pipeline.in_flight)
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        given_up = await self._pipeline.stop(self._options.shutdown_grace)
        if given_up:
            _log.warning("given up, to be delivered again", granules=given_up)
        for target in self._targets.values():
            await self._flush(target)

    async def _receive(self, source: Source) -> None:
        pause = _FIRST_PAUSE
        while True:
            limit = await self._pipeline.room(self._options.max_in_flight)
            try:
                deliveries = await source.receive(limit)
            except SourceUnavailableError as error:
                self._unavailable[source.name] = str(error)
                _log.error("source is unavailable", source=source.name, reason=str(error), seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._unavailable.pop(source.name, None)
            pause = _FIRST_PAUSE
            for delivery in deliveries:
                await self._pipeline.take(source, delivery)

    async def _watch_idle(self) -> None:
        while True:
            await self._pipeline.idle()
            if await self._drained() and self._pipeline.in_flight == 0:
                _log.info("idle: all sources are drained and every granule is settled")
                return
            await asyncio.sleep(_IDLE_PAUSE)

    async def _drained(self) -> bool:
        try:
            return all([await source.drained() for source in self._sources])
        except SourceUnavailableError as error:
            _log.warning("cannot tell whether a source is drained", reason=str(error))
            return False

    async def _keep_arrays(self, target: Target) -> None:
        lag = target.settings.array_metadata_lag_seconds
        while True:
            await asyncio.sleep(max(lag, 0.1))
            await self._flush(target)

    async def _flush(self, target: Target) -> None:
        try:
            await target.publish_arrays()
        except EngineError as error:
            _log.warning("documents of single arrays could not be published", collection=target.name, reason=str(error))

    async def _watchdog(self, seconds: float) -> None:
        while True:
            self._notifier.watchdog()
            await asyncio.sleep(seconds)
