"""``zcollectiond run`` as the operator meets it: signals, exit codes, granules that cannot be had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import psutil
import pytest

from daemon.journal import Journal, State
from tests import oracle
from tests.daemon_support import (
    PROJECT,
    SENTINEL6,
    Daemon,
    run_until_idle,
    running,
    settled_documents,
    sqs,
    visible_granules,
    watch,
    write_settings,
)
from tests.engine_support import small_schema
from tests.granules_twins import sentinel6_twin
from tests.landing import Bucket, Folder
from zcollection_engine import DatePartitioning, create_collection

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

TWINS = [sentinel6_twin(number, rows=80) for number in range(99, 105)]


def test_an_object_that_is_gone_ends_in_quarantine_and_the_others_go_in(tmp_path: Path, landing: Bucket) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[sqs(landing.queue_url)],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        endpoint_url=landing.endpoint_url,
        dask={"workers": 1},
    )
    landed = [landing.put(twin.name, twin.data) for twin in TWINS[:2]]
    gone = replace(landed[0], key="in/S6A_gone.nc")
    landing.announce(gone, landed[1])
    run_until_idle(settings)
    assert landing.messages() == 0
    oracle.check_collection(str(tmp_path / "s6a"), landed, oracle.SENTINEL6, "day")
    (document,) = settled_documents(tmp_path / "settings-state" / "state").values()
    assert (document["key"], document["reason"], document["attempts"]) == (gone.key, "missing", 3)
    assert "in/S6A_gone.nc" in document["message"]
    assert "given up after 3 attempts" in document["message"]


def test_sigterm_lets_work_in_progress_end_and_the_next_start_goes_on(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        batch={"max_granules": 1, "max_in_flight": 2},
        dask={"workers": 1},
    )
    with running(settings) as daemon:
        daemon.until(lambda: visible_granules(tmp_path / "s6a") >= 1, poll_seconds=0.001)
        daemon.stop()
        assert daemon.events("signal")[0]["signal"] == "SIGTERM"
    # What was taken is in; what was not is left to the next start.
    stopped_at = visible_granules(tmp_path / "s6a")
    assert 1 <= stopped_at < len(TWINS)
    journal = Journal(tmp_path / "settings-state", read_only=True)
    try:
        assert {entry.state for entry in journal.all()} == {State.COMMITTED}
        assert len(list(journal.all())) == stopped_at
    finally:
        journal.close()
    run_until_idle(settings)
    oracle.check_collection(str(tmp_path / "s6a"), landed, oracle.SENTINEL6, "day")


def test_a_worker_killed_by_someone_costs_no_granule(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        batch={"max_granules": 1},
        dask={"workers": 1},
    )
    with running(settings) as daemon:
        daemon.until((tmp_path / "s6a" / ".zcommits" / f"{4:020d}.json").exists, poll_seconds=0.001)
        (worker,) = workers(daemon)
        worker.send_signal(signal.SIGKILL)
        daemon.until(lambda: visible_granules(tmp_path / "s6a") == len(TWINS))
        assert daemon.events("Restarting worker (status=Status.running)")
        daemon.process.terminate()
        assert daemon.wait() == 0
    assert settled_documents(tmp_path / "settings-state" / "state") == {}
    oracle.check_collection(str(tmp_path / "s6a"), landed, oracle.SENTINEL6, "day")


def swelling_granule(path: Path) -> bytes:
    """A file of 2.5 MB that takes 576 MB of memory."""
    with netCDF4.Dataset(path, "w") as file:
        group = file.createGroup("data_01")
        group.createDimension("time", 60)
        group.createDimension("sample", 1_200_000)
        time = group.createVariable("time", "f8", ("time",))
        time.units = "seconds since 2000-01-01"
        time[:] = 756_083_626 + np.arange(60.0)
        shape = {"zlib": True, "complevel": 1, "shuffle": False, "chunksizes": (60, 100_000)}
        waveform = group.createVariable("waveform", "f8", ("time", "sample"), **shape)
        for start in range(0, 1_200_000, 100_000):
            waveform[:, start : start + 100_000] = np.zeros((60, 100_000))
    return path.read_bytes()


def test_a_granule_that_kills_its_worker_ends_in_quarantine_and_takes_no_other_with_it(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    incoming.put("S6A_swelling.nc", swelling_granule(tmp_path / "swelling.nc"))
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        dask={"workers": 2, "memory_limit": "512MiB"},
    )
    with running(settings, "--until-idle") as daemon:
        assert daemon.wait() == 0
    (name, document), *others = settled_documents(tmp_path / "settings-state" / "state").items()
    assert not others
    assert (name, document["reason"], document["attempts"]) == ("S6A_swelling.nc", "kills_worker", 3)
    oracle.check_collection(str(tmp_path / "s6a"), landed, oracle.SENTINEL6, "day")


def workers(daemon: Daemon) -> list[psutil.Process]:
    """The processes of the local cluster."""
    family = psutil.Process(daemon.process.pid).children(recursive=True)
    return [process for process in family if "spawn_main" in " ".join(process.cmdline())]


def test_wrong_settings_end_with_code_2_and_a_line_for_each_problem(tmp_path: Path) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[{**watch("incoming"), "intervall_seconds": 3}],
        collections=[SENTINEL6.collection("s6a", "s6a", axis="")],
    )
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "run", "--config", str(settings)],
        cwd=PROJECT,
        env={**os.environ, "ZCOLLECTIOND_DASK__WORKER": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert any('intervall_seconds: unknown key; did you mean "interval_seconds"?' in line for line in lines)
    assert any("ZCOLLECTIOND_DASK__WORKER: unknown name" in line for line in lines)
    assert any("ZCOLLECTIOND_DASK__WORKERS" in line for line in lines)
    assert any("collections[0].axis" in line for line in lines)
    assert not (tmp_path / "settings-state").exists()


def test_settings_that_do_not_fit_the_collection_end_with_code_2(tmp_path: Path) -> None:
    create_collection(str(tmp_path / "s6a"), small_schema(), DatePartitioning("time", "month"))
    settings = write_settings(
        tmp_path / "settings.toml", sources=[watch("incoming")], collections=[SENTINEL6.collection("s6a", "s6a")]
    )
    with running(settings) as daemon:
        assert daemon.wait() == 2
        (line,) = daemon.text.splitlines()
        assert "collections.s6a.partitioning" in line
