"""What a crash of the netCDF library would do to the daemon: its worker dies, and nothing else."""

from __future__ import annotations

import ctypes

import pytest
from distributed.scheduler import KilledWorker

from daemon.compute import DaskCompute
from daemon.failures import Kind, judge
from daemon.settings_sections import DaskSettings
from daemon.worker_logs import WorkerLogs

pytestmark = pytest.mark.integration


async def test_a_crash_ends_the_worker_is_blamed_on_the_task_and_another_worker_goes_on() -> None:
    async with DaskCompute(DaskSettings(workers=1), WorkerLogs("json", "warning")) as compute:
        with pytest.raises(KilledWorker) as caught:
            await compute._submit(ctypes.string_at, 0)
        failure = judge(caught.value)
        assert (failure.kind, failure.reason) == (Kind.RETRY, "kills_worker")
        assert await compute._submit(len, b"granule") == 7
