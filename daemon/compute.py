"""The Dask cluster: a local one in this process's charge, or any scheduler."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import dask
import structlog
from distributed import Client, LocalCluster

from daemon import tasks
from daemon.errors import ClusterUnavailableError
from daemon.settings_sections import DaskSettings
from daemon.tasks import Founding, Proposal, ReadRequest
from daemon.worker_logs import WorkerLogs
from zcollection_engine.config import CollectionRef
from zcollection_engine.errors import NotFoundError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.stores.resolve import StorageOptions

_log = structlog.get_logger(__name__)

#: A granule that kills its worker is found by the first death, not by the fourth.
_LOCAL_CONFIG = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.daemon": True,
    "distributed.admin.system-monitor.interval": "5s",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A granule in the memory of a worker, held there by its future."""

    entry: GranuleEntry
    future: Any


class DaskCompute:
    """Submits work to Dask from the service's event loop. An async context manager.

    Parameters
    ----------
    settings
        Which cluster.
    worker_logs
        How the workers of a local cluster log.
    """

    def __init__(self, settings: DaskSettings, worker_logs: WorkerLogs) -> None:
        self._settings = settings
        self._worker_logs = worker_logs
        self._cluster: Any = None
        self._client: Any = None
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Connect, or start the local cluster. Raises `ClusterUnavailableError`."""
        self._loop = asyncio.get_running_loop()
        address = self._settings.address
        try:
            if not address:
                dask.config.set(_LOCAL_CONFIG)
                self._cluster = await LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=self._settings.workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=self._settings.memory_limit,
                    dashboard_address="127.0.0.1:0",
                    asynchronous=True,
                    protocol="tcp",
                    host="127.0.0.1",
                )
            self._client = await Client(  # type: ignore[no-untyped-call]
                address or self._cluster, asynchronous=True, set_as_default=False
            )
            if not address:
                await self._client.register_plugin(self._worker_logs)
        except (OSError, TimeoutError) as error:
            await self._close()
            raise ClusterUnavailableError(
                f"dask.address ({address or 'a local cluster'}): no scheduler answers: {error}"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def read(self, request: ReadRequest, collection: CollectionRef) -> Reading | Addition:
        """Read and check a granule on a worker; raises the error that `daemon.tasks.read_granule` returns."""
        found: Reading | Addition = await self._reading(self._submit(tasks.read_granule, request, collection))
        return found

    async def reread(
        self, entry: GranuleEntry, spec: GranuleSpec, storage: StorageOptions, collection: CollectionRef
    ) -> Reading:
        """Read a granule that is in again on a worker; raises what `zcollection_engine.sources.read_again` raises."""
        reading: Reading = await self._reading(self._submit(tasks.reread_granule, entry, spec, storage, collection))
        return reading

    async def propose(self, request: ReadRequest, founding: Founding) -> Proposal:
        """Infer a schema from a granule on a worker."""
        proposal: Proposal = _unwrap(await self._submit(tasks.propose, request, founding))
        return proposal

    def executor(self, collection: CollectionRef, spec: GranuleSpec, storage: StorageOptions) -> DaskExecutor:
        """An executor for transactions on a collection, to be called from other threads."""
        return DaskExecutor(self, collection, spec, storage)

    async def merge(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Reading]) -> list[JobResult]:
        """Run jobs side by side to their end; raises the first failure after all have ended."""
        futures = [self._submit(tasks.merge_partition, job, [payloads[i].future for i in job.inserted]) for job in jobs]
        results = await asyncio.gather(*futures, return_exceptions=True)
        return [_unwrap(result) for result in results]

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the service's loop, from another thread."""
        if self._loop is None:
            raise RuntimeError("the cluster is used before it was entered")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _reading(self, future: Any) -> Any:
        found = _unwrap(await self._submit(tasks.entry_of, future))
        return Reading(found, future) if isinstance(found, GranuleEntry) else found

    def _submit(self, function: Any, *args: Any) -> Any:
        key = f"{function.__name__}-{next(self._numbers)}"
        return self._client.submit(function, *args, key=key, pure=False)

    async def _close(self) -> None:
        for part in (self._client, self._cluster):
            if part is not None:
                await part.close()
        self._client = self._cluster = None


def _unwrap(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class DaskExecutor:
    """Runs a transaction's jobs on the cluster. Its payloads are `Reading`s."""

    def __init__(
        self, compute: DaskCompute, collection: CollectionRef, spec: GranuleSpec, storage: StorageOptions
    ) -> None:
        self._compute = compute
        self._collection = collection
        self._spec = spec
        self._storage = storage

    def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Reading]) -> list[JobResult]:
        results: list[JobResult] = self._compute.run(self._compute.merge(jobs, payloads))
        return results

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Reading]:
        found: dict[int, Reading] = self._compute.run(self._reread(entries))
        return found

    async def _reread(self, entries: Sequence[GranuleEntry]) -> dict[int, Reading]:
        found = {}
        for entry in entries:
            try:
                found[entry.id] = await self._compute.reread(entry, self._spec, self._storage, self._collection)
            except NotFoundError as error:
                _log.warning("rows do not come back", granule=entry.identity.key, reason=str(error))
        return found
