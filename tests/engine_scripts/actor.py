"""A process that writes a collection through the library, told by lines of JSON.

Usage: ``python -m tests.engine_scripts.actor``. Reads one order a line (`tests.engine_processes.Order`) and answers
each with one line a pass or call, then ``{"done": true}``. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests import passes
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.errors import ConflictError, EngineError
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.testing.stores import FaultStore, parse_fault
from zcollection_engine.transaction import WriterOptions

#: Arguments of calls that are times; orders have them in seconds.
_TIMES = {"min_age", "retention"}


def main() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        _attempt("open", lambda order=order: _carry_out(order))  # type: ignore[misc]
        _answer({"done": True})


def _carry_out(order: Mapping[str, Any]) -> Mapping[str, Any]:
    collection = _collection(order)
    present = {(entry.identity.key, entry.precedence[0]) for entry in collection.granules()}
    end = time.monotonic() + order["seconds"]
    for number, each in enumerate(passes.Pass(**fields) for fields in order["passes"]):
        if time.monotonic() > end and number >= order["at_least"]:
            break
        if (each.name, each.version) not in present:
            _attempt(each.name, lambda each=each: _insert(collection, each, order["timeout"]))  # type: ignore[misc]
    for name, arguments in order["calls"]:
        _attempt(name, lambda name=name, arguments=arguments: _call(collection, name, arguments))  # type: ignore[misc]
    return {"granules": len(present)}


def _collection(order: Mapping[str, Any]) -> Collection:
    """Create the collection if so ordered and nobody did yet, else open it."""
    options = StorageOptions(order["endpoint_url"], order["region"])
    store = _store(order, options)
    writer = WriterOptions(**{**order["writer"], "reader_grace": timedelta(seconds=order["writer"]["reader_grace"])})
    if order["create"]:
        try:
            return create_collection(
                store,
                replace(passes.schema(order["chunk_rows"]), zarr_format=order["zarr_format"]),
                passes.PARTITIONING,
                immutable=passes.immutable(),
                storage=options,
                writer=writer,
            )
        except ConflictError:
            pass  # somebody did
    return open_collection(store, mode="w", storage=options, writer=writer)


def _store(order: Mapping[str, Any], options: StorageOptions) -> ObjectStore:
    store = open_store(order["url"], options)
    return FaultStore(store, [parse_fault(text) for text in order["faults"]]) if order["faults"] else store


def _insert(collection: Collection, each: passes.Pass, timeout: float | None) -> Mapping[str, Any]:
    outcome = collection.insert(each.dataset(), granule=each.name, precedence=each.version, timeout=timeout)
    return {"commit": outcome.commit}


def _call(collection: Collection, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    given = {key: timedelta(seconds=value) if key in _TIMES else value for key, value in arguments.items()}
    getattr(collection, name)(**given)
    return {}


def _attempt(what: str, action: Callable[[], Mapping[str, Any]]) -> None:
    """Answer with what an action gave, or with its error."""
    try:
        found = action()
    except EngineError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    _answer({"what": what, **found})


def _answer(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
