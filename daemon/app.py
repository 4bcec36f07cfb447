"""The composition root: the one place that names every concrete class."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog

from daemon.compute import DaskCompute
from daemon.health import HealthServer
from daemon.journal import Entry, Journal, State, owned_state_dir
from daemon.pipeline import Lane, Observer, Pipeline
from daemon.routing import Router, Rule
from daemon.scheduler import Limits, PartitionScheduler
from daemon.sdnotify import Notifier, watchdog_interval
from daemon.service import Service, ServiceOptions
from daemon.settings import Settings, check_runnable
from daemon.settings_data import SourceSettings, SqsSourceSettings
from daemon.settled import SettledDocuments
from daemon.sources.base import Source
from daemon.sources.sqs import SqsSource
from daemon.sources.sqs_queue import QueueSettings
from daemon.sources.watch import WatchSource
from daemon.target import Target
from daemon.worker_logs import WorkerLogs
from zcollection_engine.collection import Collection
from zcollection_engine.stores.resolve import open_store
from zcollection_engine.transaction import Offer, Outcome

_log = structlog.get_logger(__name__)

#: Threads for the engine's blocking calls: a transaction holds one while it waits for its jobs.
_THREADS = 32


async def run(settings: Settings, *, until_idle: bool = False, observer: Observer | None = None) -> None:
    """Run the daemon until a signal, or until idle.

    The first SIGINT or SIGTERM asks for an orderly stop; a second one ends the process at once.

    Raises
    ------
    SettingsError, StateInUseError, ClusterUnavailableError
        If it cannot start.
    """
    check_runnable(settings)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="engine"))
    stop = asyncio.Event()
    with _signals(stop.set):
        async with build(settings, stop=stop, until_idle=until_idle, observer=observer) as service:
            await service.run()


@asynccontextmanager
async def build(
    settings: Settings, *, stop: asyncio.Event, until_idle: bool = False, observer: Observer | None = None
) -> AsyncIterator[Service]:
    """Put the daemon together; everything is open while the context lasts. Setting ``stop`` ends the service."""
    async with AsyncExitStack() as stack:
        storage = settings.storage_options
        name = stack.enter_context(owned_state_dir(settings.daemon.state_dir))
        journal = Journal(settings.daemon.state_dir)
        stack.callback(journal.close)
        documents = SettledDocuments(open_store(settings.daemon.durable_state_url, storage))
        journal.rebuild(await asyncio.to_thread(documents.load))
        targets = {c.name: Target(c, storage, owner=settings.daemon.instance or name) for c in settings.collections}
        for target in targets.values():
            await target.open()
            if target.collection is not None:
                journal.rebuild(_committed(target.name, target.collection))
        worker_logs = WorkerLogs(settings.daemon.log_format, settings.daemon.log_level)
        compute = await stack.enter_async_context(DaskCompute(settings.dask, worker_logs))
        limits = Limits(settings.batch.max_granules, settings.batch.max_bytes, settings.batch.max_delay_seconds)
        pipeline = Pipeline(
            _router(settings),
            {n: Lane(t, PartitionScheduler(n, _committer(t, compute), limits)) for n, t in targets.items()},
            compute=compute,
            journal=journal,
            documents=documents,
            retry=settings.retry,
            observer=observer,
        )
        sources: list[Source] = [
            await stack.enter_async_context(_source(s, settings, pipeline, documents)) for s in settings.sources
        ]
        options = ServiceOptions(
            settings.batch.max_in_flight, settings.daemon.shutdown_grace_seconds, until_idle, watchdog_interval()
        )
        service = Service(sources, targets, pipeline, stop=stop, notifier=Notifier.from_environment(), options=options)
        if settings.daemon.health_port:
            health = HealthServer(settings.daemon.health_host, settings.daemon.health_port, service)
            await stack.enter_async_context(health)
        yield service


def _router(settings: Settings) -> Router:
    own = [c.url for c in settings.collections]
    own += [settings.daemon.durable_state_url, f"file://{settings.daemon.state_dir.absolute()}"]
    return Router([Rule(c.name, c.match) for c in settings.collections], own)


def _committer(target: Target, compute: DaskCompute) -> Callable[[Sequence[Offer]], Awaitable[Outcome]]:
    async def commit(offers: Sequence[Offer]) -> Outcome:
        collection = target.collection
        if collection is None:
            raise RuntimeError(f"{target.name}: merged before the collection was opened")
        executor = target.executor(compute, collection)
        return await asyncio.to_thread(collection.commit_offers, offers, executor)

    return commit


def _source(
    source: SourceSettings, settings: Settings, pipeline: Pipeline, documents: SettledDocuments
) -> SqsSource | WatchSource:
    if isinstance(source, SqsSourceSettings):
        queue = QueueSettings(
            source.queue_url,
            settings.aws.endpoint_url,
            settings.aws.region,
            source.wait_seconds,
            source.visibility_seconds,
        )

        async def keep(body: str, reason: str) -> None:
            name = hashlib.sha256(body.encode()).hexdigest()[:32]
            await asyncio.to_thread(documents.write_unknown, name, body, reason)

        return SqsSource(source.label, queue, on_unknown=keep)
    specs = [collection.granule_spec for collection in settings.collections]
    return WatchSource(
        source.label,
        open_store(source.url, settings.storage_options),
        interval_seconds=source.interval_seconds,
        settle_seconds=source.effective_settle_seconds,
        known=pipeline.knows,
        is_marker=lambda key: any(spec.is_marker(key) for spec in specs),
    )


def _committed(name: str, collection: Collection) -> Iterator[Entry]:
    for granule in collection.granules():
        i = granule.identity
        yield Entry(str(granule.id), name, i.bucket, i.key, State.COMMITTED, etag=i.etag, size=i.size)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``stop``; then hand the signals back, so that a second one ends."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        _log.info("signal", signal=number.name)
        restore()
        stop()

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        restore()
