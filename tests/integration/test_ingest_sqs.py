"""Granules announced by S3 events through SQS become a collection, whatever their order and company."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import oracle
from tests.daemon_support import SENTINEL6, run_until_idle, running, sqs, visible_granules, write_settings
from tests.granules_twins import Twin, sentinel6_twin
from tests.landing import Bucket, Landed
from tests.orders import orders, side_by_side

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def twins() -> list[Twin]:
    return [sentinel6_twin(number) for number in range(99, 111)]


@dataclass(frozen=True)
class Places:
    """Where the collections of a test lie: those in ``on_s3`` in the bucket of the granules, the others in a folder."""

    folder: Path
    landing: Bucket
    on_s3: frozenset[str]

    def url(self, name: str) -> str:
        return self.landing.url(f"collections/{name}") if name in self.on_s3 else f"file://{self.folder}/{name}"

    def settings(self, names: Iterable[str]) -> Path:
        return write_settings(
            self.folder / "settings.toml",
            sources=[sqs(self.landing.queue_url)],
            collections=[SENTINEL6.collection(name, self.url(name), match=[f"in/{name}/*.nc"]) for name in names],
            endpoint_url=self.landing.endpoint_url,
        )

    def visible(self, name: str) -> int:
        return visible_granules(self.url(name), self.landing.endpoint_url)

    def check(self, landed: Mapping[str, Sequence[Landed]]) -> None:
        for name, granules in landed.items():
            rows = oracle.check_collection(
                self.url(name), granules, oracle.SENTINEL6, "day", endpoint_url=self.landing.endpoint_url
            )
            # One of the two rows at the time that passes 108 and 109 share goes.
            assert sum(rows.values()) == 12 * 200 - 1


def test_granules_announced_one_by_one_give_the_same_rows_in_every_order(
    tmp_path: Path, landing: Bucket, twins: list[Twin]
) -> None:
    deliveries = orders(twins)
    places = Places(tmp_path, landing, frozenset({"shuffle-1"}))
    settings = places.settings(deliveries)
    landed: dict[str, list[Landed]] = defaultdict(list)

    def put(name: str, twin: Twin) -> None:
        landed[name].append(landing.put(f"{name}/{twin.name}", twin.data))

    with running(settings) as daemon:
        side_by_side(deliveries, put, daemon.until, places.visible)
        daemon.until(lambda: landing.messages() == 0)
        daemon.stop()
    places.check(landed)


def test_granules_announced_all_at_once_give_the_same_rows_in_every_order(
    tmp_path: Path, landing: Bucket, twins: list[Twin]
) -> None:
    deliveries = orders(twins)
    places = Places(tmp_path, landing, frozenset({"sorted", "reversed"}))
    settings = places.settings(deliveries)
    landed = {
        name: [landing.put(f"{name}/{twin.name}", twin.data) for twin in order] for name, order in deliveries.items()
    }
    daemon = run_until_idle(settings)
    places.check(landed)
    assert landing.messages() == 0
    assert any(line["granules"] > 2 for line in daemon.events("committed")), "no batch was merged at once"
