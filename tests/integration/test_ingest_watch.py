"""Granules that appear in a watched folder become a collection, whatever their order and company."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests import oracle
from tests.daemon_support import SENTINEL6, run_until_idle, running, visible_granules, watch, write_settings
from tests.granules_twins import Twin, sentinel6_twin
from tests.landing import Folder, Landed
from tests.orders import orders, side_by_side

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

DAY_16, DAY_17 = "year=2023/month=12/day=16", "year=2023/month=12/day=17"


@pytest.fixture(scope="module")
def twins() -> list[Twin]:
    return [sentinel6_twin(number) for number in range(99, 111)]


def settings_for(folder: Path, names: list[str]) -> Path:
    return write_settings(
        folder / "settings.toml",
        sources=[watch("incoming")],
        collections=[
            SENTINEL6.collection(name, f"collections/{name}", match=[f"**/incoming/{name}/*.nc"]) for name in names
        ],
    )


def check(folder: Path, landed: dict[str, list[Landed]]) -> None:
    for name, granules in landed.items():
        rows = oracle.check_collection(str(folder / "collections" / name), granules, oracle.SENTINEL6, "day")
        # One of the two rows at the time that passes 108 and 109 share goes.
        assert sum(rows.values()) == 12 * 200 - 1
        assert set(rows) == {DAY_16, DAY_17}


def test_granules_that_come_one_by_one_give_the_same_rows_in_every_order(tmp_path: Path, twins: list[Twin]) -> None:
    deliveries = orders(twins)
    settings = settings_for(tmp_path, list(deliveries))
    incoming = Folder(tmp_path / "incoming")
    landed: dict[str, list[Landed]] = defaultdict(list)

    def put(name: str, twin: Twin) -> None:
        landed[name].append(incoming.put(f"{name}/{twin.name}", twin.data))

    with running(settings) as daemon:
        side_by_side(deliveries, put, daemon.until, lambda name: visible_granules(tmp_path / "collections" / name))
        daemon.stop()
    check(tmp_path, landed)


def test_granules_that_come_all_at_once_give_the_same_rows_in_every_order(tmp_path: Path, twins: list[Twin]) -> None:
    deliveries = orders(twins)
    settings = settings_for(tmp_path, list(deliveries))
    incoming = Folder(tmp_path / "incoming")
    landed = {
        name: [incoming.put(f"{name}/{twin.name}", twin.data) for twin in order] for name, order in deliveries.items()
    }
    daemon = run_until_idle(settings)
    check(tmp_path, landed)
    assert any(line["granules"] > 2 for line in daemon.events("committed")), "no batch was merged at once"
