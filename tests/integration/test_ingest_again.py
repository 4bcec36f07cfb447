"""Granules that come again: the same, changed, or an older version after a newer one."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.journal import Journal, State
from tests import oracle
from tests.daemon_support import (
    SENTINEL6,
    names,
    run_until_idle,
    running,
    settled_documents,
    sqs,
    visible_granules,
    watch,
    write_settings,
)
from tests.granules_twins import Twin, sentinel6_twin
from tests.landing import Bucket, Folder, Landed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TWINS = [sentinel6_twin(number, rows=60) for number in (99, 100, 101)]
CHANGED = sentinel6_twin(100, rows=60, seed=9)


@dataclass(frozen=True)
class Ingest:
    """A daemon's settings and its collection, in one folder."""

    settings: Path

    @property
    def url(self) -> str:
        return str(self.settings.with_name("s6a"))

    @property
    def state(self) -> Path:
        return self.settings.with_name("settings-state")

    def commits(self) -> int:
        """Number of the last record: every change, even one without rows, adds some."""
        return max((int(path.stem) for path in Path(self.url, ".zcommits").glob("*.json")), default=-1)

    def check(self, granules: list[Landed]) -> None:
        oracle.check_collection(self.url, granules, oracle.SENTINEL6, "day")


def ingest(folder: Path, source: dict[str, object], endpoint_url: str | None = None) -> Ingest:
    settings = write_settings(
        folder / "settings.toml",
        sources=[source],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        endpoint_url=endpoint_url,
    )
    return Ingest(settings)


def put_later(landing: Bucket, twin: Twin, than: Landed) -> Landed:
    """Put an object until its store, which tells whole seconds, says that it is newer."""
    while (landed := landing.put(TWINS[1].name, twin.data)).modified <= than.modified:
        pass
    return landed


def test_events_of_the_same_bytes_change_nothing_and_changed_bytes_replace(tmp_path: Path, landing: Bucket) -> None:
    made = ingest(tmp_path, sqs(landing.queue_url), landing.endpoint_url)
    landed = [landing.put(twin.name, twin.data) for twin in TWINS]
    landing.announce(*landed, *landed)
    with running(made.settings) as daemon:
        daemon.until(lambda: visible_granules(made.url) == 3 and landing.messages() == 0)
        made.check(landed)
        commits = made.commits()

        landing.announce(*landed)
        for twin in TWINS:
            landing.put(twin.name, twin.data)
        daemon.until(lambda: landing.messages() == 0)
        assert made.commits() == commits
        made.check(landed)

        changed = put_later(landing, CHANGED, landed[1])
        daemon.until(lambda: landing.messages() == 0)
        daemon.stop()
    assert made.commits() > commits
    made.check([landed[0], changed, landed[2]])


def test_a_daemon_that_lost_its_state_leaves_alone_what_is_in(tmp_path: Path) -> None:
    made = ingest(tmp_path, watch("incoming"))
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    run_until_idle(made.settings)
    commits = made.commits()
    shutil.rmtree(made.state)

    run_until_idle(made.settings)
    assert made.commits() == commits
    made.check(landed)
    journal = Journal(made.state, read_only=True)
    try:
        entries = list(journal.all())
    finally:
        journal.close()
    assert {entry.state for entry in entries} == {State.COMMITTED}
    assert names(entry.key for entry in entries) == {twin.name for twin in TWINS}


def test_the_newest_version_of_a_file_counts_and_gives_back_the_rows_that_a_wrong_one_took(tmp_path: Path) -> None:
    made = ingest(tmp_path, watch("incoming"))
    incoming = Folder(tmp_path / "incoming")
    landed = [incoming.put(TWINS[1].name, TWINS[1].data), incoming.put(TWINS[2].name, TWINS[2].data)]
    # Under the name of pass 99, but with other values for all of pass 100.
    wrong = incoming.put(TWINS[0].name, CHANGED.data)
    with running(made.settings) as daemon:
        daemon.until(lambda: visible_granules(made.url) == 3)
        made.check([*landed, wrong])
        commits = made.commits()

        landed.append(incoming.put(TWINS[0].name, TWINS[0].data))
        daemon.until(lambda: made.commits() >= commits + 2 and daemon.events("visible")[-1]["commit"] > commits)
        made.check(landed)
        commits = made.commits()

        restore(tmp_path / "incoming", TWINS[1].name, CHANGED.data)
        daemon.until(lambda: bool(settled_documents(made.state / "state")))
        daemon.stop()
    documents = settled_documents(made.state / "state")
    assert {name: document["reason"] for name, document in documents.items()} == {TWINS[1].name: "superseded"}
    assert made.commits() == commits
    made.check(landed)


def restore(folder: Path, name: str, data: bytes) -> None:
    """Put a version back with the time that it had long ago, as ``cp -p`` does."""
    part = folder / f"{name}.part"
    part.write_bytes(data)
    os.utime(part, (1_700_000_000, 1_700_000_000))
    part.replace(folder / name)
