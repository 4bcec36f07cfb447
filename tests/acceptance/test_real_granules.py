"""The main job on real products: every order, one by one and at once, through SQS and through a watched folder.

By default three orders; ``ALL_ORDERS=1`` takes all seven::

    ALL_ORDERS=1 make test ARGS="-m granules --durations=0"
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests import oracle
from tests.daemon_support import (
    GSFC,
    PROJECT,
    SENTINEL3_WAVE,
    SENTINEL6,
    run_until_idle,
    running,
    settled_documents,
    sqs,
    visible_granules,
    watch,
    write_settings,
)
from tests.granules_twins import Twin
from tests.landing import Bucket, Folder, Landed
from tests.orders import SEEDS, orders, side_by_side

GRANULES = PROJECT.parent / "shared" / "granules"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.granules,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not GRANULES.is_dir(), reason=f"the folder of real granules is missing: {GRANULES}"),
]

DAY_16, DAY_17 = "year=2023/month=12/day=16", "year=2023/month=12/day=17"

#: The time at which pass 108 ends and pass 109 begins.
SHARED_TIME = np.datetime64("2023-12-17T08:35:55")


def real(product: str) -> list[Twin]:
    """The files of a product, in the order of their names."""
    return [Twin(path.name, path.read_bytes()) for path in sorted((GRANULES / product).glob("*.nc"))]


@pytest.fixture(scope="module")
def passes() -> list[Twin]:
    return real("sentinel6")


@dataclass(frozen=True)
class Way:
    """How granules come: the source's section of the settings, what puts a file there, and what its key matches."""

    source: dict[str, object]
    put: Callable[[str, bytes], Landed]
    match: str
    endpoint_url: str | None


@pytest.fixture(params=["folder", "queue"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    if request.param == "folder":
        return Way(watch("incoming"), Folder(tmp_path / "incoming").put, "**/incoming/{}/*.nc", None)
    landing: Bucket = request.getfixturevalue("landing")
    return Way(sqs(landing.queue_url), landing.put, "in/{}/*.nc", landing.endpoint_url)


def chosen(passes: list[Twin]) -> dict[str, list[Twin]]:
    return orders(passes, SEEDS if os.environ.get("ALL_ORDERS") else SEEDS[:1])


def settings_for(folder: Path, way: Way, names: list[str]) -> Path:
    return write_settings(
        folder / "settings.toml",
        sources=[way.source],
        collections=[SENTINEL6.collection(name, name, match=[way.match.format(name)]) for name in names],
        endpoint_url=way.endpoint_url,
    )


def check_passes(url: str, granules: list[Landed]) -> None:
    """Every value equals the source's; the time that two passes share is there once."""
    rows = oracle.check_collection(url, granules, oracle.SENTINEL6, "day")
    total = sum(len(oracle.read_raw(granule.data, oracle.SENTINEL6).rows["time"]) for granule in granules)
    assert rows == {DAY_16: 2773, DAY_17: total - 1 - 2773}
    oracle.check_documents(url, [DAY_16])
    times = np.asarray(oracle.open_group(f"{url}/{DAY_17}")["time"][...]).astype("datetime64[ns]")
    assert (np.diff(times) > np.timedelta64(0)).all()
    assert (np.abs(times - SHARED_TIME) < np.timedelta64(500, "ms")).sum() == 1


def test_passes_one_by_one_in_every_order(tmp_path: Path, way: Way, passes: list[Twin]) -> None:
    deliveries = chosen(passes)
    landed: dict[str, list[Landed]] = defaultdict(list)

    def put(name: str, granule: Twin) -> None:
        landed[name].append(way.put(f"{name}/{granule.name}", granule.data))

    with running(settings_for(tmp_path, way, list(deliveries))) as daemon:

        def until(condition: Callable[[], bool]) -> None:
            daemon.until(condition, 1500)

        side_by_side(deliveries, put, until, lambda name: visible_granules(tmp_path / name))
        daemon.stop()
    for name, granules in landed.items():
        check_passes(str(tmp_path / name), granules)


def test_passes_in_one_batch_in_every_order(tmp_path: Path, way: Way, passes: list[Twin]) -> None:
    deliveries = chosen(passes)
    landed = {
        name: [way.put(f"{name}/{granule.name}", granule.data) for granule in order]
        for name, order in deliveries.items()
    }
    run_until_idle(settings_for(tmp_path, way, list(deliveries)), seconds=1500)
    for name, granules in landed.items():
        check_passes(str(tmp_path / name), granules)


def test_passes_in_a_bucket_open_where_there_is_only_xarray_and_zarr(
    tmp_path: Path, landing: Bucket, passes: list[Twin], plain_python: Path
) -> None:
    """The collection lies in the bucket; its objects are copied as they are for a reader without any S3 client."""
    landed = [landing.put(granule.name, granule.data) for granule in passes[:2]]
    url = landing.url("collections/s6a")
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[sqs(landing.queue_url)],
        collections=[SENTINEL6.collection("s6a", url)],
        endpoint_url=landing.endpoint_url,
    )
    run_until_idle(settings)
    oracle.check_collection(url, landed, oracle.SENTINEL6, "day", endpoint_url=landing.endpoint_url)
    landing.download("collections/s6a/", tmp_path / "copy")

    wanted = oracle.expected(landed, oracle.SENTINEL6, "day")[DAY_16].rows
    digests = {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in wanted.items()}
    (tmp_path / "stop").touch()
    script = Path(__file__).with_name("plain_reader.py")
    arguments = map(json.dumps, (["zarr", "tree"], None, ["zcollection_engine", "obstore", "s3fs"]))
    places = (str(script), str(tmp_path / "copy" / DAY_16), str(tmp_path / "stop"))
    command = [str(plain_python), "-W", "error", *places, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    group, tree = (json.loads(line) for line in done.stdout.splitlines())
    for found in (group, tree):
        found["digests"].pop("granule")
    assert tree["digests"] == digests
    assert group["digests"] == {name: digest for name, digest in digests.items() if "/" not in name}
    decode = f"""
import numpy as np, xarray as xr
tree = xr.open_datatree({str(tmp_path / "copy" / DAY_16)!r}, engine="zarr")
assert tree.time.dtype == "datetime64[ns]"
ssha = tree["ku/ssha"]
assert ssha.dtype.kind == "f" and ssha.attrs["units"] == "m" and np.isfinite(ssha.values).any()
"""
    done = subprocess.run([str(plain_python), "-c", decode], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


QUIRKS = {
    "empty_time_0.nc": "empty",
    "undecodable_time_units.nc": "axis_undecodable",
    "truncated_hdf5.nc": "truncated",
    "zero_bytes.nc": "empty_file",
    "plain_text.nc": "not_netcdf",
}


def test_two_more_products_go_in_and_files_that_are_no_good_harm_nothing(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    for quirk in real("quirks"):
        incoming.put(quirk.name, quirk.data)
    wave = [incoming.put(granule.name, granule.data) for granule in real("sentinel3-wave")]
    gsfc = [incoming.put(granule.name, granule.data) for granule in real("gsfc-ssh")]
    settings = write_settings(
        tmp_path / "settings.toml",
        sources=[watch("incoming")],
        collections=[
            SENTINEL3_WAVE.collection("wave", "wave"),
            GSFC.collection("gsfc", "gsfc", match=["GSFC-*.nc", *QUIRKS]),
        ],
    )
    run_until_idle(settings)
    months = oracle.check_collection(str(tmp_path / "wave"), wave, oracle.SENTINEL3_WAVE, "month")
    assert list(months) == ["year=2020/month=11", "year=2022/month=02"]
    days = oracle.check_collection(str(tmp_path / "gsfc"), gsfc, oracle.GSFC, "month")
    assert list(days) == ["year=2022/month=01"]
    table = oracle.read_raw(gsfc[0].data, oracle.GSFC).fixed["basin_names_table"]
    with xr.open_zarr(tmp_path / "gsfc" / "_immutable", consolidated=True) as fixed:
        assert fixed["basin_names_table"].values.tolist() == table.tolist()
    documents = settled_documents(tmp_path / "settings-state" / "state")
    assert {name: document["reason"] for name, document in documents.items()} == QUIRKS
    assert all(name in document["message"] for name, document in documents.items())
