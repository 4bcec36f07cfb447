"""Collections that this version and earlier ones wrote: each opens, is whole, and takes new granules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.acceptance.interop.readers import differences
from tests.acceptance.interop.scenes import Values
from tests.golden.make import found_in, this_version, unpack
from zcollection_engine import Collection, WriterOptions, open_collection
from zcollection_engine.verification.verifying import verify

GOLDEN = Path(__file__).parents[1] / "golden"
ARCHIVES = sorted(GOLDEN.glob("*/*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: f"{path.parent.name}-{path.name.removesuffix('.tar.gz')}")
def golden(request: pytest.FixtureRequest) -> Path:
    """The archive of a golden collection."""
    path: Path = request.param
    return path


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """The collection itself."""
    unpack(golden, tmp_path / "collection")
    return tmp_path / "collection"


@pytest.fixture
def expected(golden: Path) -> dict[str, Values]:
    """The rows that it must have."""
    with np.load(golden.with_name(golden.name.replace(".tar.gz", ".npz"))) as file:
        return dict(file)


def writing(copy: Path) -> Collection:
    return open_collection(str(copy), mode="w", writer=WriterOptions(owner="golden test"))


def test_it_has_the_rows_it_was_given(copy: Path, expected: dict[str, Values]) -> None:
    found = found_in(open_collection(str(copy)))
    assert found.keys() == expected.keys()
    assert differences(found, expected) == []


def test_its_documents_chunks_and_log_agree(copy: Path) -> None:
    report = verify(open_collection(str(copy)))
    assert report.findings == ()
    assert report.counts.rows > 10


def test_each_row_comes_from_a_granule_that_is_in(copy: Path) -> None:
    collection = open_collection(str(copy))
    granules = {entry.id: entry.identity.key for entry in collection.granules()}
    origins = set(np.asarray(collection.load()["granule"].values).tolist())
    assert origins <= granules.keys()
    assert len(origins) > 2
    assert all(key.startswith("granule ") for key in granules.values())


def test_its_history_can_be_told_and_gone_back_in(copy: Path) -> None:
    collection = open_collection(str(copy))
    commits = list(collection.history())
    assert len(commits) > 3
    before = open_collection(str(copy), at=commits[-2].number)
    change = collection.diff(commits[-2].number, commits[-1].number)
    assert change.partitions
    assert sum(p.rows for p in before.partitions()) == sum(p.rows for p in collection.partitions()) - 2


def test_rows_with_other_values_take_the_place_of_all_of_them(copy: Path, expected: dict[str, Values]) -> None:
    collection = writing(copy)
    collection.insert(changed(collection, height=7))
    heights = {p: v + np.where(v == 2**31 - 1, 0, 7).astype("i4") for p, v in expected.items() if p.endswith("/height")}
    assert differences(found_in(open_collection(str(copy))), expected | heights) == []
    assert verify(open_collection(str(copy))).findings == ()


def test_later_rows_come_behind_those_it_has(copy: Path, expected: dict[str, Values]) -> None:
    collection = writing(copy)
    (partition, *_) = (p.path for p in collection.partitions())
    collection.insert(changed(collection, seconds=3600, partition=partition))
    more = {
        path: np.concatenate([v, v + 3600 * 10**9 if path.endswith("/time") else v])
        for path, v in ((p, stored_time(v)) for p, v in expected.items() if p.startswith(f"{partition}/"))
    }
    assert differences(found_in(open_collection(str(copy))), expected | more) == []
    assert verify(open_collection(str(copy))).findings == ()


def stored_time(values: Values) -> Values:
    return values.astype("datetime64[ns]").astype(np.int64) if values.dtype.kind == "M" else values


def changed(
    collection: Collection, *, height: int = 0, seconds: int = 0, partition: str | None = None
) -> xr.Dataset | xr.DataTree:
    """The rows of a collection, or of one partition, with other heights or times."""
    loaded = collection.load([partition] if partition else None, decode=False).compute()
    tree = loaded if isinstance(loaded, xr.DataTree) else xr.DataTree(loaded)
    top = tree.to_dataset().drop_vars("granule")
    stays = top["height"] == 2**31 - 1
    top["height"] = top["height"].copy(data=np.where(stays, top["height"], top["height"] + height).astype("i4"))
    time = top["time"].copy(data=top["time"].values + np.int64(seconds * 10**9))
    tree = tree.copy()
    tree.dataset = top.assign_coords(time=time)
    return tree


def test_there_are_golden_collections_of_this_version_and_they_are_small() -> None:
    assert this_version() in {path.parent.name for path in ARCHIVES}
    assert sum(path.stat().st_size for path in GOLDEN.glob("*/*")) < 200_000
