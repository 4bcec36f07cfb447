"""Reads groups and single arrays with zarr-python alone, by its own codec pipeline or by another."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import exchange
import zarr
from zarr.core.group import GroupMetadata


def read(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Read each group by its consolidated metadata, and each array by its own."""
    packages, refusals = ["zarr"], ()
    if "pipeline" in task:
        zarr.config.set({"codec_pipeline.path": task["pipeline"]})
        packages.append(task["pipeline"].partition(".")[0])
        refusals = (UserWarning,)  # a pipeline warns before it leaves an array to zarr-python's own
    answer.facts |= {"versions": {name: version(name) for name in packages}, "pipelines": []}
    for name, folder in exchange.places(task, "groups"):
        group = zarr.open_consolidated(folder, mode="r")
        for path, node in group.metadata.consolidated_metadata.flattened_metadata.items():
            if not isinstance(node, GroupMetadata):
                answer.take(
                    f"group/{name}/{path}", lambda group=group, path=path: values(group[path], answer), refusals
                )
    for name, folder in exchange.places(task, "arrays"):
        answer.take(f"array/{name}", lambda folder=folder: values(zarr.open_array(folder, mode="r"), answer), refusals)


def values(array: zarr.Array, answer: exchange.Answer) -> Any:
    """All values of an array; notes what decoded them."""
    pipeline = type(array.async_array.codec_pipeline).__name__
    answer.facts["pipelines"] = sorted({*answer.facts["pipelines"], pipeline})
    return array[...]


if __name__ == "__main__":
    exchange.answer_task(read)
