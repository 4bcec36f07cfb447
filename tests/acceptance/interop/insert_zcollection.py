"""Inserts rows into a collection with a released zcollection, and loads all of it afterwards."""

from __future__ import annotations

from typing import Any

import exchange
import numpy as np
import zcollection
from exchange_dask import small_cluster


def insert(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Insert the files of rows that the task names, one after another, ``merge`` telling whether as a time series."""
    answer.facts["versions"] = {"zcollection": zcollection.__version__}
    with small_cluster():
        collection = zcollection.open_collection(task["root"], mode="w")
        for step in task["steps"]:
            merge = zcollection.merging.merge_time_series if step["merge"] else None
            tuple(collection.insert(dataset(collection, step["rows"]), merge_callable=merge))
        loaded = zcollection.open_collection(task["root"], mode="r").load(delayed=False)
        for label, variable in loaded.variables.items():
            answer.values[label] = variable.values


def dataset(collection: zcollection.Collection, path: str) -> zcollection.Dataset:
    """Rows for all variables of a collection, with its own metadata."""
    with np.load(path) as rows:
        return zcollection.Dataset(
            [
                zcollection.Array(
                    name,
                    rows[name].astype(known.dtype),
                    known.dimensions,
                    attrs=known.attrs,
                    compressor=known.compressor,
                    fill_value=known.fill_value,
                    filters=known.filters,
                )
                for name, known in collection.metadata.variables.items()
            ],
            attrs=collection.metadata.attrs,
        )


if __name__ == "__main__":
    exchange.answer_task(insert)
