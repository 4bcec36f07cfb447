"""SIGKILL at any moment and a new start: the same rows, none twice, every message acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import oracle
from tests.daemon_support import (
    SENTINEL6,
    Daemon,
    run_until_idle,
    running,
    sqs,
    visible_granules,
    watch,
    write_settings,
)
from tests.granules_twins import sentinel6_twin
from tests.landing import Bucket, Folder, Landed

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

TWINS = [sentinel6_twin(number, rows=80) for number in (104, 99, 103, 100, 102, 101)]

#: One granule a transaction, so that there are many moments to die at.
SINGLY = {"max_granules": 1}
ONE_WORKER = {"workers": 1}


@dataclass(frozen=True)
class Scene:
    """Granules that wait, and a daemon's settings."""

    settings: Path
    landed: list[Landed]

    @property
    def url(self) -> str:
        return str(self.settings.with_name("s6a"))

    def killed_at(self, record: int) -> Callable[[], bool]:
        """Whether the commit log has a record: the number of a grant is odd, that of a commit even."""
        path = Path(self.url, ".zcommits", f"{record:020d}.json")
        return path.exists

    def check(self) -> None:
        rows = oracle.check_collection(self.url, self.landed, oracle.SENTINEL6, "day")
        oracle.check_documents(self.url, rows)


@pytest.fixture
def watched(tmp_path: Path) -> Scene:
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        batch=SINGLY,
        dask=ONE_WORKER,
    )
    return Scene(settings, landed)


def kill_when(daemon: Daemon, condition: Callable[[], bool]) -> None:
    daemon.until(condition, poll_seconds=0.001)
    daemon.kill()


@pytest.mark.parametrize("record", [0, 2, 7])
def test_a_daemon_killed_over_a_watched_folder_ends_with_the_same_rows(watched: Scene, record: int) -> None:
    with running(watched.settings) as daemon:
        kill_when(daemon, watched.killed_at(record))
    assert visible_granules(watched.url) < len(TWINS)
    run_until_idle(watched.settings)
    watched.check()


def test_a_daemon_killed_again_and_again_over_a_queue_ends_with_the_same_rows(tmp_path: Path, landing: Bucket) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[sqs(landing.queue_url, visibility_seconds=3)],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        endpoint_url=landing.endpoint_url,
        batch=SINGLY,
        dask=ONE_WORKER,
    )
    scene = Scene(settings, [landing.put(twin.name, twin.data) for twin in TWINS])
    for record in (1, 6):
        with running(settings) as daemon:
            kill_when(daemon, scene.killed_at(record))
    assert landing.messages() > 0
    run_until_idle(settings)
    assert landing.messages() == 0
    scene.check()
