"""Granules that come again: the same, changed, or an older version after a newer one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.journal import Journal, State
from tests import oracle
from tests.daemon_support import SENTINEL6, names, run_until_idle, settled_documents, sqs, watch, write_settings
from tests.granules_twins import Twin, sentinel6_twin
from tests.landing import Bucket, Folder, Landed, notifying_bucket
from tests.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TWINS = [sentinel6_twin(number, rows=60) for number in (99, 100, 101)]


@dataclass(frozen=True)
class Ingest:
    """A daemon that is run again and again over one source, and its collection in a folder."""

    settings: Path

    @property
    def url(self) -> str:
        return str(self.settings.with_name("s6a"))

    @property
    def state(self) -> Path:
        return self.settings.with_name("settings-state")

    def run(self) -> None:
        run_until_idle(self.settings)

    def records(self) -> list[str]:
        """The commit log: every change that was ever made."""
        return sorted(path.name for path in Path(self.url, ".zcommits").glob("*.json"))

    def check(self, granules: list[Landed]) -> None:
        oracle.check_collection(self.url, granules, oracle.SENTINEL6, "day")


@pytest.fixture
def landing(moto_server: S3Server) -> Iterator[Bucket]:
    with notifying_bucket(moto_server) as bucket:
        yield bucket


@pytest.fixture
def from_queue(tmp_path: Path, landing: Bucket) -> Ingest:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[sqs(landing.queue_url)],
        collections=[SENTINEL6.collection("s6a", "s6a")],
        endpoint_url=landing.endpoint_url,
    )
    return Ingest(settings)


@pytest.fixture
def from_folder(tmp_path: Path) -> Ingest:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[SENTINEL6.collection("s6a", "s6a")],
    )
    return Ingest(settings)


def put_later(landing: Bucket, name: str, data: bytes, than: Landed) -> Landed:
    """Put an object again until its store, which tells whole seconds, says that it is newer."""
    while (landed := landing.put(name, data)).modified <= than.modified:
        pass
    return landed


def test_what_is_announced_or_put_again_changes_nothing(from_queue: Ingest, landing: Bucket) -> None:
    landed = [landing.put(twin.name, twin.data) for twin in TWINS]
    landing.announce(*landed, *landed)
    from_queue.run()
    from_queue.check(landed)
    records = from_queue.records()

    landing.announce(*landed)
    for twin in TWINS:
        landing.put(twin.name, twin.data)
    from_queue.run()
    assert landing.messages() == 0
    assert from_queue.records() == records
    from_queue.check(landed)


def test_an_object_with_changed_values_replaces_what_it_gave_before(from_queue: Ingest, landing: Bucket) -> None:
    landed = [landing.put(twin.name, twin.data) for twin in TWINS]
    from_queue.run()
    changed = put_later(landing, TWINS[1].name, sentinel6_twin(100, rows=60, seed=9).data, landed[1])
    from_queue.run()
    assert landing.messages() == 0
    from_queue.check([landed[0], changed, landed[2]])


def test_a_daemon_without_its_memory_leaves_alone_what_is_in(from_folder: Ingest) -> None:
    incoming = Folder(from_folder.settings.with_name("incoming"))
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    from_folder.run()
    records = from_folder.records()
    shutil.rmtree(from_folder.state)
    from_folder.run()
    assert from_folder.records() == records
    from_folder.check(landed)
    journal = Journal(from_folder.state, read_only=True)
    try:
        entries = list(journal.all())
    finally:
        journal.close()
    assert {entry.state for entry in entries} == {State.COMMITTED}
    assert names(entry.key for entry in entries) == {twin.name for twin in TWINS}


def test_rows_that_a_wrong_version_took_come_back_when_it_is_replaced(from_folder: Ingest) -> None:
    incoming = Folder(from_folder.settings.with_name("incoming"))
    landed = [incoming.put(TWINS[1].name, TWINS[1].data), incoming.put(TWINS[2].name, TWINS[2].data)]
    # Under the name of pass 99, but with other values for all of pass 100.
    wrong = incoming.put(TWINS[0].name, sentinel6_twin(100, rows=60, seed=9).data)
    from_folder.run()
    from_folder.check([*landed, wrong])
    right = incoming.put(TWINS[0].name, TWINS[0].data)
    from_folder.run()
    from_folder.check([*landed, right])


def test_an_older_version_that_comes_after_a_newer_one_is_skipped(from_folder: Ingest) -> None:
    incoming = Folder(from_folder.settings.with_name("incoming"))
    landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
    from_folder.run()
    restore_older(from_folder.settings.with_name("incoming"), sentinel6_twin(100, rows=60, seed=9))
    from_folder.run()
    from_folder.check(landed)
    records = from_folder.records()
    documents = settled_documents(from_folder.state / "state")
    assert {name: document["reason"] for name, document in documents.items()} == {TWINS[1].name: "superseded"}

    from_folder.run()
    assert from_folder.records() == records


def restore_older(folder: Path, twin: Twin) -> None:
    """Put a version back with the time that it had, as ``cp -p`` does."""
    part = folder / f"{twin.name}.part"
    part.write_bytes(twin.data)
    os.utime(part, (1_700_000_000, 1_700_000_000))
    part.replace(folder / twin.name)
