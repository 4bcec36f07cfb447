"""Granules announced by S3 events through SQS become a collection, whatever their order and company."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import pytest

from tests import oracle
from tests.daemon_support import SENTINEL6, run_until_idle, running, sqs, write_settings
from tests.granules_twins import Twin, sentinel6_twin
from tests.landing import Bucket, Landed, notifying_bucket
from tests.orders import orders, side_by_side
from tests.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def twins() -> list[Twin]:
    return [sentinel6_twin(number) for number in range(99, 111)]


@pytest.fixture
def landing(moto_server: S3Server) -> Iterator[Bucket]:
    with notifying_bucket(moto_server) as bucket:
        yield bucket


def settings_for(folder: Path, landing: Bucket, names: list[str]) -> Path:
    """Collections lie in the very bucket that the granules come from."""
    return write_settings(
        folder / "settings.toml",
        sources=[sqs(landing.queue_url)],
        collections=[
            SENTINEL6.collection(name, landing.url(f"collections/{name}"), match=[f"in/{name}/*.nc"]) for name in names
        ],
        endpoint_url=landing.endpoint_url,
    )


def visible(landing: Bucket, name: str) -> int:
    """Granules in a collection, by the summary that its readers see."""
    try:
        document = json.loads(landing.get(f"collections/{name}/zarr.json"))
    except botocore.exceptions.ClientError:
        return 0
    return int(document["attributes"].get("zcollection_granules", 0))


def check(landing: Bucket, landed: dict[str, list[Landed]]) -> None:
    for name, granules in landed.items():
        rows = oracle.check_collection(
            landing.url(f"collections/{name}"),
            granules,
            oracle.SENTINEL6,
            "day",
            endpoint_url=landing.endpoint_url,
        )
        assert sum(rows.values()) == 12 * 200 - 1


def test_granules_announced_one_by_one_give_the_same_rows_in_every_order(
    tmp_path: Path, landing: Bucket, twins: list[Twin]
) -> None:
    deliveries = orders(twins)
    settings = settings_for(tmp_path, landing, list(deliveries))
    landed: dict[str, list[Landed]] = defaultdict(list)

    def put(name: str, twin: Twin) -> None:
        landed[name].append(landing.put(f"{name}/{twin.name}", twin.data))

    with running(settings) as daemon:
        side_by_side(deliveries, put, daemon.until, lambda name: visible(landing, name))
        daemon.until(lambda: landing.messages() == 0)
        daemon.stop()
    check(landing, landed)


def test_granules_announced_all_at_once_give_the_same_rows_in_every_order(
    tmp_path: Path, landing: Bucket, twins: list[Twin]
) -> None:
    deliveries = orders(twins)
    settings = settings_for(tmp_path, landing, list(deliveries))
    landed = {
        name: [landing.put(f"{name}/{twin.name}", twin.data) for twin in order] for name, order in deliveries.items()
    }
    daemon = run_until_idle(settings)
    check(landing, landed)
    assert landing.messages() == 0
    assert any(line["granules"] > 2 for line in daemon.events("committed")), "no batch was merged at once"
