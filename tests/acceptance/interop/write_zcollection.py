"""Writes collections with a released zcollection, as users of it have them: what ``import`` takes over.

``date``: by month, two partitions, one merged into; packed integers with a fill value and a delta filter, a
two-dimensional variable in several chunks, one without the partitioned dimension. ``sequence``: by cycle and pass,
nothing compressed, no fill value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import exchange
import numcodecs
import numpy as np
import zcollection
from exchange_dask import small_cluster

HOUR = 3_600 * 10**9
NEW_YEAR = 1_704_067_200 * 10**9  # 2024-01-01
BLOSC = numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE)
CHUNKS = (zcollection.meta.Dimension("time", 4), zcollection.meta.Dimension("band", 2))


def write(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Write both below the folder of the task; the answer has the rows that each must have."""
    answer.facts["versions"] = {"zcollection": zcollection.__version__}
    with small_cluster():
        write_date(f"{task['folder']}/date", answer)
        write_sequence(f"{task['folder']}/sequence", answer)


def write_date(folder: str, answer: exchange.Answer) -> None:
    """Twelve rows around the new year, the fourth to the sixth merged in again with other values."""
    rows = np.arange(12)
    first, second = dated(rows, 0), dated(rows[3:6], 1000)
    monthly = zcollection.partitioning.Date(("time",), "M")
    collection = zcollection.create_collection("time", first, monthly, folder)
    tuple(collection.insert(first))
    tuple(collection.insert(second, merge_callable=zcollection.merging.merge_time_series))
    salt = np.where(np.isin(rows, rows[3:6]), 1000, 0)
    answer.values |= {f"date/{name}": values for name, values in dated_values(rows, salt).items()}


def dated_values(rows: Any, salt: Any) -> dict[str, Any]:
    """Values of rows: an hour each, half of them before the new year; every fifth height is missing."""
    heights = (rows * 10 + salt).astype("i4")
    heights[rows % 5 == 4] = 2**31 - 1
    profiles = (rows[:, None] * 10 + np.arange(3) + np.broadcast_to(salt, rows.shape)[:, None]) / 4
    return {
        "time": (NEW_YEAR + (rows - 6) * HOUR).astype("M8[ns]"),
        "height": heights,
        "profile": profiles.astype("f4"),
        "band": np.array([1.5, 2.5, 3.5]),
    }


def dated(rows: Any, salt: int) -> zcollection.Dataset:
    """The same as a dataset."""
    values = dated_values(rows, salt)
    packing = (attribute("scale_factor", 0.001), attribute("units", "m"))
    arrays = [
        array("time", values["time"], compressor=BLOSC),
        array("height", values["height"], packing, fill=2**31 - 1, filters=[numcodecs.Delta("<i4")], compressor=BLOSC),
        array("profile", values["profile"], dimensions=("time", "band"), fill=np.float32("nan"), compressor=BLOSC),
        array("band", values["band"], (attribute("units", "Hz"),), dimensions=("band",), compressor=BLOSC),
    ]
    return zcollection.Dataset(arrays, chunks=CHUNKS, attrs=(attribute("title", "by month"),))


def write_sequence(folder: str, answer: exchange.Answer) -> None:
    """Three passes of four rows in two cycles, the tenth pass among them."""
    rows = np.arange(12)
    values = {
        "time": (NEW_YEAR + rows * HOUR).astype("M8[ns]"),
        "cycle": np.array([2, 2, 10]).repeat(4).astype("i2"),
        "pass": np.array([9, 10, 1]).repeat(4).astype("i2"),
        "height": rows * 0.5,
    }
    sequence = zcollection.partitioning.Sequence(("cycle", "pass"))
    dataset = zcollection.Dataset([array(name, found) for name, found in values.items()])
    tuple(zcollection.create_collection("time", dataset, sequence, folder).insert(dataset))
    answer.values |= {f"sequence/{name}": found for name, found in values.items()}


def array(
    name: str,
    values: Any,
    attrs: Sequence[Any] = (),
    *,
    dimensions: tuple[str, ...] = ("time",),
    fill: Any = None,
    filters: Sequence[Any] = (),
    compressor: Any = None,
) -> zcollection.Array:
    """A variable of a dataset."""
    return zcollection.Array(
        name, values, dimensions, attrs=attrs, fill_value=fill, filters=filters, compressor=compressor
    )


def attribute(name: str, value: Any) -> zcollection.Attribute:
    return zcollection.Attribute(name, value)


if __name__ == "__main__":
    exchange.answer_task(write)
