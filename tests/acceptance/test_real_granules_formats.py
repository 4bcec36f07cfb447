"""Real products in both formats and by both kinds of partitioning: every value equals that of its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from tests import oracle
from tests.daemon_support import PROJECT
from tests.landing import Folder, Landed
from zcollection_engine import Collection, DatePartitioning, SequencePartitioning, create_collection, open_collection
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.partitioning import Partitioning
from zcollection_engine.verification.verifying import verify

GRANULES = PROJECT.parent / "shared" / "granules"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.granules,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not GRANULES.is_dir(), reason=f"the folder of real granules is missing: {GRANULES}"),
    pytest.mark.parametrize("zarr_format", [3, 2]),
]

Rows = Mapping[str, npt.NDArray[Any]]


def landed(product: str, folder: Path) -> list[Landed]:
    """The files of a product, put into a folder one after another, in an order that is none of time's."""
    incoming, files = Folder(folder / "incoming"), sorted((GRANULES / product).glob("*.nc"))
    return [incoming.put(path.name, path.read_bytes()) for path in [*files[1::2], *files[::2]]]


def ingested(
    folder: Path, granules: list[Landed], spec: GranuleSpec, partitioning: Partitioning, zarr_format: int
) -> Collection:
    """A collection of these granules, in two transactions."""
    first = read_netcdf(granules[0].data, spec, name=granules[0].key)
    schema = infer_schema(first, zarr_format=zarr_format)
    collection = create_collection(str(folder / "collection"), schema, partitioning, immutable=first)
    urls = [str(folder / "incoming" / Path(granule.key).name) for granule in granules]
    for half in (urls[: len(urls) // 2], urls[len(urls) // 2 :]):
        collection.ingest(half, spec)
    assert verify(collection).findings == ()
    return open_collection(collection.url)


def check(collection: Collection, path: str, wanted: Rows, zarr_format: int) -> None:
    """The rows of a partition, as the engine loads them and as plain xarray finds them."""
    found = collection.load([path], decode=False)
    tree = xr.DataTree(found) if isinstance(found, xr.Dataset) else found
    plain = xr.open_datatree(f"{collection.url}/{path}", engine="zarr", decode_cf=False)
    assert plain.attrs["zcollection_commit"] >= 0
    for name, values in wanted.items():
        mine = name if zarr_format == 3 else name.replace("/", "_")
        np.testing.assert_array_equal(tree[mine].values, values, err_msg=name)
        shown = plain[mine].values
        np.testing.assert_array_equal(shown.astype("i8") if shown.dtype.kind == "M" else shown, values, err_msg=name)


def sentinel6(zarr_format: int) -> GranuleSpec:
    return GranuleSpec(
        "/data_01/time",
        include=("/data_01/*", "/data_01/ku/*"),
        attributes={"cycle_number": "uint16", "pass_number": "uint16"},
        flat=zarr_format == 2,
    )


def test_passes_by_day(tmp_path: Path, zarr_format: int) -> None:
    granules = landed("sentinel6", tmp_path)
    collection = ingested(tmp_path, granules, sentinel6(zarr_format), DatePartitioning("time", "day"), zarr_format)
    expected = oracle.expected(granules, oracle.SENTINEL6, "day")
    assert [p.path for p in collection.partitions()] == sorted(expected)
    for path, wanted in expected.items():
        check(collection, path, wanted.rows, zarr_format)


def test_passes_by_cycle_and_pass(tmp_path: Path, zarr_format: int) -> None:
    granules = landed("sentinel6", tmp_path)
    by_pass = SequencePartitioning(("cycle_number", "pass_number"))
    collection = ingested(tmp_path, granules, sentinel6(zarr_format), by_pass, zarr_format)
    raw = [oracle.read_raw(granule.data, oracle.SENTINEL6).rows for granule in granules]
    passes = {f"cycle_number={r['cycle_number'][0]}/pass_number={r['pass_number'][0]}": r for r in raw}
    assert [p.path for p in collection.partitions()] == sorted(passes, key=lambda p: int(p.rpartition("=")[2]))
    for path, rows in passes.items():
        order = np.argsort(rows["time"], kind="stable")
        check(collection, path, {name: values[order] for name, values in rows.items()}, zarr_format)


def test_months_with_a_table(tmp_path: Path, zarr_format: int) -> None:
    granules = landed("gsfc-ssh", tmp_path)
    monthly = DatePartitioning("time", "month")
    collection = ingested(tmp_path, granules, GranuleSpec("/time"), monthly, zarr_format)
    expected = oracle.expected(granules, oracle.GSFC, "month")
    assert [p.path for p in collection.partitions()] == list(expected)
    for path, wanted in expected.items():
        check(collection, path, wanted.rows, zarr_format)
    table = oracle.read_raw(granules[0].data, oracle.GSFC).fixed["basin_names_table"].tolist()
    assert collection.load(variables=["basin_names_table"])["basin_names_table"].values.tolist() == table
    folder = {3: "_immutable", 2: ".immutable"}[zarr_format]
    with xr.open_zarr(f"{collection.url}/{folder}", zarr_format=zarr_format) as fixed:
        assert fixed["basin_names_table"].values.tolist() == table
