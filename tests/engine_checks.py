"""What must be true of a collection whatever happened to its writers, told by the engine and by plain readers."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import xarray as xr

from tests import oracle
from tests.engine_processes import Place
from tests.engine_support import Rows, rows_of
from tests.passes import BANDS, Pass, expected_rows
from zcollection_engine import Collection, open_collection
from zcollection_engine.layout.formats import format_of
from zcollection_engine.verification.verifying import verify


def engine_view(collection: Collection) -> dict[str, Rows]:
    """Return (seconds, height) of each row by partition."""
    found: dict[str, Rows] = {}
    for partition in collection.partitions():
        rows = collection.load([partition.path], decode=False)
        assert isinstance(rows, xr.Dataset)
        found[partition.path] = rows_of(rows)
    return found


def plain_view(place: Place, paths: Iterable[str]) -> dict[str, Rows]:
    """Return the same as plain xarray sees it, by consolidated metadata, of those partitions that have any."""
    found: dict[str, Rows] = {}
    for path in paths:
        try:
            group = oracle.open_group(f"{place.url}/{path}", place.endpoint_url)
        except FileNotFoundError:
            continue
        if group.metadata.consolidated_metadata is None:
            continue  # the folder of a partition whose own document is not published yet
        with xr.open_zarr(group.store, decode_cf=False, consolidated=True) as rows:
            found[path] = rows_of(rows)
    return found


def check_collection(place: Place, passes: Iterable[Pass]) -> None:
    """See that a collection holds exactly the rows of some passes, for every kind of reader."""
    passes = list(passes)
    expected = expected_rows(passes)
    collection = open_collection(place.url, storage=place.options)
    assert sorted(entry.identity.key for entry in collection.granules()) == sorted({each.name for each in passes})
    assert engine_view(collection) == expected
    assert plain_view(place, expected) == expected
    oracle.check_documents(place.url, expected, place.endpoint_url)
    _check_origins(collection, passes)
    assert verify(collection).findings == ()
    _check_summary(place, expected, granules=len(list(collection.granules())))


def _check_origins(collection: Collection, passes: Iterable[Pass]) -> None:
    """Every row names the granule that gave it, and the variable without rows is there."""
    seconds = {each.name: set(each.seconds) for each in sorted(passes, key=lambda p: p.version)}
    names = {entry.id: entry.identity.key for entry in collection.granules()}
    rows = collection.load(decode=False)
    assert isinstance(rows, xr.Dataset)
    for (second, _), origin in zip(rows_of(rows), rows["granule"].values.tolist(), strict=True):
        assert second in seconds[names[origin]]
    np.testing.assert_array_equal(rows["band"].values, BANDS)


def _check_summary(place: Place, expected: dict[str, Rows], *, granules: int) -> None:
    """The root group tells the truth."""
    layout = format_of(open_collection(place.url, storage=place.options).schema)
    (summary,) = (key for key in layout.root({}, 0) if not layout.is_constant(key))
    attributes = layout.attributes_of(json.loads(place.store().get(summary).data))
    found = [attributes[f"zcollection_{name}"] for name in ("partitions", "rows", "granules")]
    assert found == [len(expected), sum(map(len, expected.values())), granules]
