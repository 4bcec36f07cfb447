"""Reads whole collections with a released zcollection: partitions, and rows with and without filters."""

from __future__ import annotations

import keyword
import os
from typing import Any

import exchange
import zarr
import zcollection
from exchange_dask import small_cluster


def read(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Open each collection; ``filters`` of a collection are expressions by name."""
    answer.facts |= {"versions": {"zcollection": zcollection.__version__, "zarr": zarr.__version__}, "partitions": {}}
    with small_cluster():
        for name, place in task["collections"].items():
            try:
                collection = zcollection.open_collection(place["root"], mode="r")
            except ValueError as error:
                answer.facts["error"] = f"{type(error).__name__}: {error}"
                return
            listed = [os.path.relpath(path, place["root"]) for path in collection.partitions()]
            answer.facts["partitions"][name] = listed
            for way, filters in ways(listed, place["filters"]).items():
                for delayed in (True, False):
                    take(answer, f"{'lazy' if delayed else 'eager'}/{name}/{way}", collection, filters, delayed=delayed)


def ways(partitions: list[str], filters: dict[str, str]) -> dict[str, Any]:
    """What is loaded: everything, each partition by a function and by an expression, and what the filters let pass.

    An expression is Python to zcollection, so it cannot have a key whose name is a word of Python ("pass").
    """
    found: dict[str, Any] = {"whole": None, **filters}
    for path in partitions:
        keys = {name: int(value) for name, value in (part.split("=") for part in path.split("/"))}
        found[path] = lambda given, keys=keys: given == keys
        if not any(map(keyword.iskeyword, keys)):
            found[f"expression/{path}"] = " and ".join(f"{name} == {value}" for name, value in keys.items())
    return found


def take(
    answer: exchange.Answer, name: str, collection: zcollection.Collection, filters: Any, *, delayed: bool
) -> None:
    """Keep all variables; values under a mask are kept as they are stored."""
    loaded = collection.load(filters=filters, delayed=delayed)
    for label, variable in (loaded.variables if loaded is not None else {}).items():
        answer.values[f"{name}/{label}"] = variable.values


if __name__ == "__main__":
    exchange.answer_task(read)
