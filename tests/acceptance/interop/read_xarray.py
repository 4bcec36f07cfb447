"""Reads groups with xarray: as they are stored, and decoded."""

from __future__ import annotations

from typing import Any

import exchange
import numpy as np
import xarray as xr
import zarr


def read(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Open each group as one dataset, and with all that is nested in it as a tree."""
    answer.facts["versions"] = {"xarray": xr.__version__, "zarr": zarr.__version__}
    for name, folder in exchange.places(task, "groups"):
        with xr.open_zarr(folder, decode_cf=False, chunks=None) as dataset:
            take(answer, f"dataset/{name}", dataset)
        for way, decode in (("tree", False), ("decoded", True)):
            with xr.open_datatree(folder, engine="zarr", decode_cf=decode) as tree:
                for node in tree.subtree:
                    take(answer, f"{way}/{name}{node.path.rstrip('/')}", node.to_dataset(inherit=False))


def take(answer: exchange.Answer, name: str, dataset: xr.Dataset) -> None:
    """Keep all variables of a dataset."""
    for label, variable in dataset.variables.items():
        answer.values[f"{name}/{label}"] = np.asarray(variable.values)


if __name__ == "__main__":
    exchange.answer_task(read)
