"""Readers that have only xarray and zarr, in a process of their own, while granules go in."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from tests import oracle
from tests.daemon_support import Daemon, Product, running, watch, write_settings
from tests.landing import Folder, Landed
from tests.reader_processes import Reader, digest, reading

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

DAY = "year=2024/month=03/day=01"
SOURCE = oracle.Source(("/", "/ku"), epoch="2024-03-01")
PRODUCT = Product(("pass_*.nc",), "day", {"axis": "/time", "include": ["/*", "/ku/*"]})
ROWS = 40

#: Passes in the order of their delivery: at the end (an append), before it (a rewrite), or again with other values.
DELIVERIES = [(3, 0), (4, 0), (5, 0), (1, 0), (6, 0), (4, 1), (7, 0), (8, 0), (2, 0), (8, 1), (9, 0)]


def granule(number: int, version: int) -> bytes:
    """A pass whose variables agree with each other row by row and differ in every version."""
    seconds = number * 1000.0 + np.arange(ROWS)
    file = netCDF4.Dataset("pass", "w", memory=1 << 14)
    file.createDimension("time", ROWS)
    time = file.createVariable("time", "f8", ("time",))
    time.units = "seconds since 2024-03-01"
    time[:] = seconds
    height = (seconds * 10 + version).astype("i4")
    file.createVariable("height", "i4", ("time",))[:] = height
    file.createVariable("depth", "i4", ("time",))[:] = -3 * height
    file.createGroup("ku").createVariable("ssha", "i4", ("time",))[:] = 7 * height
    return bytes(file.close())


def digests(granules: Sequence[Landed]) -> dict[str, str]:
    """What a reader must find for a set of granules."""
    rows = oracle.expected(granules, SOURCE, "day")[DAY].rows
    assert (np.diff(rows["time"]) > 0).all()
    assert (rows["depth"] == -3 * rows["height"]).all()
    assert (rows["ku/ssha"] == 7 * rows["height"]).all()
    return {name: digest(values) for name, values in rows.items()}


def deliver(daemon: Daemon, reader: Reader, incoming: Folder) -> list[dict[str, str]]:
    """Deliver one granule at a time, each when a reader has met the last; returns what each commit must show."""
    states: list[dict[str, str]] = []
    latest: dict[int, Landed] = {}
    for number, version in DELIVERIES:
        latest[number] = incoming.put(f"pass_{number}.nc", granule(number, version))
        states.append(digests(list(latest.values())))
        time = states[-1]["height"]
        daemon.until(lambda time=time: reader.lines()[-1:] != [] and time in str(reader.lines()[-1]))
    return states


@dataclass(frozen=True)
class Scene:
    """A collection that was read while it grew: what each read showed, and what each commit had to show."""

    folder: Path
    reads: list[dict[str, object]]
    states: list[dict[str, str]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, plain_python: Path) -> Scene:
    folder = tmp_path_factory.mktemp("readers")
    settings = write_settings(
        folder / "settings.toml",
        sources=[watch("incoming")],
        collections=[PRODUCT.collection("passes", "collection", reader_grace_seconds=2, chunk_rows=16)],
        dask={"workers": 1},
    )
    partition = str(folder / "collection" / DAY)
    with running(settings) as daemon, reading(plain_python, partition, folder, kinds=("zarr", "tree")) as reader:
        states = deliver(daemon, reader, Folder(folder / "incoming"))
        daemon.stop()
    assert len(daemon.events("committed")) == len(DELIVERIES)
    return Scene(folder, reader.lines(), states)


def test_every_read_meets_the_content_of_one_commit(scene: Scene) -> None:
    seen: Counter[str] = Counter()
    met: list[int] = []
    for line in scene.reads:
        found = line["digests"]
        assert isinstance(found, dict)
        names = {"time", "height", "depth"} | ({"ku/ssha"} if line["kind"] == "tree" else set())
        assert set(found) == {*names, "granule"}
        commits = [n for n, state in enumerate(scene.states) if all(found[name] == state[name] for name in names)]
        assert len(commits) == 1, f"a read shows the content of no commit: {line}"
        met += commits
        seen[str(line["kind"])] += 1
    assert met == sorted(met), "a read shows an older commit than the one before"
    assert set(met) == set(range(len(scene.states)))
    assert min(seen["zarr"], seen["tree"]) > len(scene.states)


def test_partitions_and_the_whole_collection_open_with_plain_xarray_decoded(scene: Scene, plain_python: Path) -> None:
    program = f"""
import warnings
import xarray as xr
group = xr.open_zarr("collection/{DAY}")
assert str(group.time.values[0]) == "2024-03-01T00:16:40.000000000", group.time.values[0]
tree = xr.open_datatree("collection/{DAY}", engine="zarr")
assert (tree["ku/ssha"].values == 7 * tree["height"].values).all()
# zarr says so of the folder that holds the commit log.
warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr hierarchy")
tree = xr.open_datatree("collection", engine="zarr", consolidated=False)
assert tree["{DAY}/ku/ssha"].sizes == {{"time": 9 * {ROWS}}}
"""
    command = [str(plain_python), "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=scene.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
