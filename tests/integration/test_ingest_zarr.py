"""Zarr granules, directories and archives, become the collection that the same granules as NetCDF would become."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.daemon_support import (
    SENTINEL6,
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
from tests.zarr_twins import Format, objects, pack, write_twin

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROWS = 50


@pytest.fixture(scope="module")
def twins() -> list[Twin]:
    return [sentinel6_twin(number, rows=ROWS) for number in (99, 100, 101)]


def section(name: str, folder: Path, match: str, **granule: Any) -> dict[str, Any]:
    wanted = {**SENTINEL6.granule, "format": "zarr", **granule}
    return SENTINEL6.collection(name, folder / "collections" / name, match=[match], granule=wanted)


def deliver(landing: Folder | Bucket, twin: Twin, source: Path, *, key: str, marker: str) -> Landed:
    """Write a directory's objects one by one, the marker last; the marker stands for the granule."""
    found = dict(objects(source))
    last = found.pop(marker, b"")
    for name, data in found.items():
        landing.put(f"{key}/{name}", data)
    put = landing.put(f"{key}/{marker}", last)
    return Landed(put.key, twin.data, put.modified)


def check(folder: Path, name: str, granules: list[Landed]) -> None:
    rows = oracle.check_collection(str(folder / "collections" / name), granules, oracle.SENTINEL6, "day")
    assert sum(rows.values()) == len(granules) * ROWS


def test_directories_and_archives_in_a_watched_folder_are_taken_when_they_are_complete(
    tmp_path: Path, twins: list[Twin]
) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[
            section("v3", tmp_path, "**/incoming/v3/*.zarr/zarr.json"),
            section("v2", tmp_path, "**/incoming/v2/*.zarr/COMPLETE", marker="COMPLETE"),
            section("hidden", tmp_path, "**/incoming/hidden/*.zarr/.zmetadata"),
            section("zip", tmp_path, "**/incoming/zip/*.zip"),
        ],
    )
    incoming = Folder(tmp_path / "incoming")
    landed: dict[str, list[Landed]] = defaultdict(list)

    def put(name: str, twin: Twin, marker: str, zarr_format: Format) -> None:
        source = write_twin(twin, tmp_path / f"{name}-{twin.name}", zarr_format)
        key = f"{name}/{Path(twin.name).stem}.zarr"
        if name == "zip":
            archive = incoming.put(f"{key}.zip", pack(source))
            landed[name].append(Landed(archive.key, twin.data, archive.modified))
        else:
            landed[name].append(deliver(incoming, twin, source, key=key, marker=marker))

    with running(settings) as daemon:
        for number, twin in enumerate(twins, 1):
            put("v3", twin, "zarr.json", 3)
            put("v2", twin, "COMPLETE", 2)
            put("hidden", twin, ".zmetadata", 2)
            put("zip", twin, "", 3)
            for name in landed:
                url = tmp_path / "collections" / name
                daemon.until(lambda url=url, number=number: visible_granules(url) == number)
        daemon.stop()
    for name, granules in landed.items():
        check(tmp_path, name, granules)


def test_a_directory_without_a_chunk_is_quarantined_until_it_is_delivered_whole(
    tmp_path: Path, twins: list[Twin]
) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[section("v3", tmp_path, "**/incoming/*.zarr/zarr.json")],
        daemon={"state_url": str(tmp_path / "state")},
    )
    twin = twins[0]
    source = write_twin(twin, tmp_path / "source.zarr", 3)
    chunk = source / "data_01/ku/ssha/c/0"
    data = chunk.read_bytes()
    chunk.unlink()
    incoming = Folder(tmp_path / "incoming")
    deliver(incoming, twin, source, key="a.zarr", marker="zarr.json")
    run_until_idle(settings)
    document = settled_documents(tmp_path / "state")["zarr.json"]
    assert document["reason"] == "incomplete"
    assert "data_01/ku/ssha/c/0" in document["message"]

    chunk.write_bytes(data)
    landed = deliver(incoming, twin, source, key="a.zarr", marker="zarr.json")
    run_until_idle(settings)
    check(tmp_path, "v3", [landed])


def test_a_directory_in_a_bucket_is_announced_by_the_event_of_its_marker(
    tmp_path: Path, landing: Bucket, twins: list[Twin]
) -> None:
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[sqs(landing.queue_url)],
        collections=[section("v2", tmp_path, "in/**/*.zarr/.zmetadata")],
        endpoint_url=landing.endpoint_url,
    )
    landed = []
    for twin in twins[:2]:
        source = write_twin(twin, tmp_path / twin.name, 2)
        landed.append(deliver(landing, twin, source, key=f"day/{twin.name}.zarr", marker=".zmetadata"))
    daemon = run_until_idle(settings)
    assert len(daemon.events("visible")) == 2, daemon.tail()
    assert landing.messages() == 0
    check(tmp_path, "v2", landed)
