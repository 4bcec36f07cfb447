"""Show readers of Zarr v2 what a rewrite wrote elsewhere: copy its chunks to the keys that they read.

Zarr v2 has one spelling of chunk keys, so a reader may meet the copy half-way; the log, and the engine's own readers,
stand on what was written and never do. Anyone may copy, again and again: a chunk is written on the condition of the
ETag that was there before the log was looked at, so a sleeper that wakes up finds other ETags and damages nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zcollection_engine.commits.state import PartitionState
from zcollection_engine.errors import FormatError, NotFoundError, PreconditionFailedError
from zcollection_engine.layout.formats import GENERATION_ATTRIBUTE, format_of
from zcollection_engine.layout.inventory import array_shape, chunk_grid
from zcollection_engine.layout.v2documents import ARRAY, ATTRIBUTES
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore

_PARALLEL_COPIES = 16


@dataclass(frozen=True, slots=True)
class _Shown:
    """What readers see of a partition: its generation, the rows of its axis, its arrays."""

    generation: int
    rows: int
    arrays: frozenset[str]


def copy_chunks(store: ObjectStore, schema: Schema, partition: PartitionState, is_current: Callable[[], bool]) -> None:
    """Bring the chunks that readers see up to a partition's last commit, before its document tells of it.

    Parameters
    ----------
    store, schema
        The collection.
    partition
        As of its last commit.
    is_current
        Tells, by a look at the log, whether no later commit changed the partition.
    """
    if not partition.generation:
        return
    while True:
        wanted = list(_wanted(store, schema, partition))
        if not wanted:
            return
        etags = {info.key: info.etag for info in store.list(f"{partition.path}/")}
        if not is_current():
            return  # whoever publishes the later commit copies
        try:
            if _copy_all(store, wanted, etags):
                return
        except NotFoundError:
            if is_current():
                raise
            return


def _copy_all(store: ObjectStore, wanted: Iterable[tuple[str, str]], etags: Mapping[str, str]) -> bool:
    with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
        return all(list(pool.map(lambda pair: _copy(store, pair[0], pair[1], etags), wanted)))


def _wanted(store: ObjectStore, schema: Schema, partition: PartitionState) -> Iterator[tuple[str, str]]:
    """Yield source and target of every chunk that readers lack."""
    layout, shown = format_of(schema), _shown(store, schema, partition)
    folder = f"{partition.path}/{layout.folder(partition.generation)}"
    is_same = shown is not None and shown.generation == partition.generation
    for variable in schema.row_variables:
        grid = chunk_grid(variable, array_shape(schema, variable, partition.rows))
        known = shown.rows if shown is not None and is_same and variable.path in shown.arrays else 0
        if known == partition.rows:
            continue
        first = known // variable.chunks[0]
        for index in itertools.product(range(first, grid[0]), *map(range, grid[1:])):
            key = layout.chunk_key(variable.path, partition.generation, index)
            yield f"{folder}/{key}", f"{partition.path}/{key}"


def _shown(store: ObjectStore, schema: Schema, partition: PartitionState) -> _Shown | None:
    key = f"{partition.path}/{format_of(schema).document}"
    try:
        metadata = json.loads(store.get(key).data)["metadata"]
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{store.url}/{key} is damaged: {error!r}; `repair` writes it again") from error
    axis: Mapping[str, list[int]] = metadata.get(f"{schema.axis}/{ARRAY}", {})
    arrays = frozenset(name.removesuffix(f"/{ARRAY}") for name in metadata if name.endswith(f"/{ARRAY}"))
    return _Shown(metadata.get(ATTRIBUTES, {}).get(GENERATION_ATTRIBUTE, 0), axis.get("shape", [0])[0], arrays)


def _copy(store: ObjectStore, source: str, target: str, etags: Mapping[str, str]) -> bool:
    """Copy a chunk; False if another one is there than the one that was seen."""
    data = store.get(source).data
    try:
        if target in etags:
            store.replace(target, data, etags[target])
        else:
            store.create(target, data)
    except PreconditionFailedError:
        try:
            return store.get(target).data == data
        except NotFoundError:
            return False
    return True
