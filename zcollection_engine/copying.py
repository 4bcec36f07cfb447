"""Show readers of Zarr v2 what a rewrite wrote elsewhere: copy its chunks to the keys that they read.

Zarr v2 has one spelling of chunk keys, so a reader may meet the copy half-way; the log, and the engine's own readers,
stand on what was written and never do. Anyone may copy, again and again: a chunk is written on the condition of the
ETag that was there before the log was looked at, so a sleeper that wakes up finds other ETags and damages nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zcollection_engine.commits.state import PartitionState
from zcollection_engine.errors import FormatError, NotFoundError, PreconditionFailedError
from zcollection_engine.layout.chunkstore import tombstone
from zcollection_engine.layout.formats import GENERATION_ATTRIBUTE, format_of
from zcollection_engine.layout.inventory import array_shape, chunk_grid
from zcollection_engine.layout.v2documents import ARRAY, ATTRIBUTES
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore

_PARALLEL_COPIES = 16

_log = logging.getLogger(__name__)


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
        copier = _Copier(store, etags, is_current)
        with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
            if all(list(pool.map(copier, wanted))):
                store.flush()
                return


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


class _Copier:
    """Copies chunks to targets that are still those that were seen, ``etags`` by key."""

    def __init__(self, store: ObjectStore, etags: Mapping[str, str], is_current: Callable[[], bool]) -> None:
        self._store = store
        self._etags = etags
        self._is_current = is_current

    def __call__(self, pair: tuple[str, str]) -> bool:
        """Copy the first key to the second; False if another object is there than the one that was seen."""
        source, target = pair
        data = self._read(source)
        return data is not None and self._write(target, data)

    def _read(self, key: str) -> bytes | None:
        """A chunk; None if a later commit has retired it.

        One that is lost must keep nobody from writing, and must not look like the rows that readers were shown before:
        they get what is no values.
        """
        try:
            return self._store.get(key).data
        except NotFoundError:
            if not self._is_current():
                return None
            _log.warning("%s/%s is lost: readers get an error instead of its rows; see `verify`", self._store.url, key)
            return tombstone(uuid.uuid4())

    def _write(self, key: str, data: bytes) -> bool:
        try:
            if key in self._etags:
                self._store.replace(key, data, self._etags[key])
            else:
                self._store.create(key, data)
        except PreconditionFailedError:
            try:
                return self._store.get(key).data == data
            except NotFoundError:
                return False
        return True
