"""Two daemons on the same granules and the same collection, from its creation on: every row once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.daemon_support import (
    SENTINEL6,
    Daemon,
    running,
    settled_documents,
    sqs,
    visible_granules,
    watch,
    write_settings,
)
from tests.granules_twins import sentinel6_twin
from tests.landing import Bucket, Folder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

TWINS = [sentinel6_twin(number, rows=80) for number in range(99, 111)]


@contextmanager
def two_daemons(
    folder: Path, source: Mapping[str, Any], url: str, endpoint_url: str | None = None
) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons that are ready, each with its own state; both are seen to end well."""
    settings = [
        write_settings(
            folder / f"{name}.toml",
            sources=[source],
            collections=[SENTINEL6.collection("s6a", url)],
            endpoint_url=endpoint_url,
            batch={"max_granules": 2},
            dask={"workers": 1},
        )
        for name in ("first", "second")
    ]
    with running(settings[0]) as first, running(settings[1]) as second:
        first.until_ready()
        second.until_ready()
        yield first, second
        first.stop()
        second.stop()
    for name in ("first", "second"):
        assert settled_documents(folder / f"{name}-state" / "state") == {}


def test_two_daemons_on_one_queue_put_every_row_in_once(tmp_path: Path, landing: Bucket) -> None:
    url = landing.url("collections/s6a")
    with two_daemons(tmp_path, sqs(landing.queue_url), url, landing.endpoint_url) as (daemon, _):
        landed = [landing.put(twin.name, twin.data) for twin in TWINS]
        daemon.until(lambda: visible_granules(url, landing.endpoint_url) == len(TWINS) and landing.messages() == 0)
    oracle.check_collection(url, landed, oracle.SENTINEL6, "day", endpoint_url=landing.endpoint_url)


def test_two_daemons_on_one_folder_put_every_row_in_once(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    with two_daemons(tmp_path, watch("incoming"), "s6a") as daemons:
        landed = [incoming.put(twin.name, twin.data) for twin in TWINS]
        for daemon in daemons:
            # Each took every granule on; what the other one had put in was known by then.
            daemon.until(lambda daemon=daemon: len(daemon.events("visible")) == len(TWINS))
    rows = oracle.check_collection(str(tmp_path / "s6a"), landed, oracle.SENTINEL6, "day")
    oracle.check_documents(str(tmp_path / "s6a"), rows)
    assert all(daemon.events("creating the collection") for daemon in daemons)
