"""Make commits visible to readers that know nothing of the log.

One conditional PUT of a partition's group document changes all its variables at once. Each document carries the number
of the commit it shows and is never replaced by an older one, so publication may be repeated by anyone at any time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.config import CollectionConfig, config_document
from zcollection_engine.errors import NotFoundError, PreconditionFailedError
from zcollection_engine.foreign import lying_of, resolve_foreign
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import Format, format_of
from zcollection_engine.schema import TIME_UNITS
from zcollection_engine.stores.base import ObjectStore

STAGED = ".zcommits/staged"

_PARALLEL_PUTS = 16


@dataclass(frozen=True, slots=True)
class _Shown:
    commit: int
    etag: str
    modified: datetime | None


class Publisher:
    """Writes the documents of one collection. Thread-safe.

    Parameters
    ----------
    store
        The collection's store.
    config
        The configuration in force.
    creation
        Transaction that created the collection.
    source
        Where the log lies, if not in ``store``.
    """

    def __init__(
        self, store: ObjectStore, config: CollectionConfig, creation: str, source: ObjectStore | None = None
    ) -> None:
        self._store = store
        self._source = source or store
        self._config = config
        self._creation = creation
        self._shown: dict[str, _Shown] = {}
        self._arrays: dict[str, tuple[int, int]] = {}
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def is_flipped(self, partition: PartitionState) -> bool:
        """Tell whether this publisher knows that readers see the partition's last commit.

        What was taken over as it lies is visible already.
        """
        if partition.is_untouched:
            return True
        shown = self._shown.get(self._document(partition.path))
        return shown is not None and shown.commit >= partition.commit

    def is_complete(self, partition: PartitionState) -> bool:
        """Tell whether the documents of the single arrays are known to be up to date, too."""
        shown = self._arrays.get(partition.path, (-1, -1))[0]
        return partition.is_untouched or (self.is_flipped(partition) and shown >= partition.commit)

    def publish(self, partition: PartitionState, *, arrays: bool) -> None:
        """Make the partition's last commit visible, on demand in the documents of its single arrays, too."""
        self.flip(partition)
        if arrays and not self.is_complete(partition):
            self.publish_arrays(partition)

    def flip(self, partition: PartitionState) -> None:
        """Make the partition's last commit visible; after a rewrite, in the documents of its arrays, too.

        A new partition's group appears last, so that readers which ignore consolidated metadata find all arrays in it.
        """
        if partition.is_untouched:
            return
        if partition.generation == 0:
            self._publish_generation(partition)
        if not self.is_flipped(partition):
            for key, body in self._format.parents(partition.path).items():
                self._create(key, lambda body=body: body)  # type: ignore[misc]
            self._put(self._document(partition.path), partition.commit, self.render(partition)[self._format.document])
        self._publish_generation(partition)

    def _publish_generation(self, partition: PartitionState) -> None:
        if self._arrays.get(partition.path, (-1, -1))[1] != partition.generation:
            self.publish_arrays(partition)

    def flipped_at(self, partition: PartitionState) -> datetime:
        """A time, by the store's clock, at which the partition's present generation was visible."""
        return self._store.head(self._document(partition.path)).modified

    def announce(self, path: str) -> None:
        """Show a partition without rows, before anything else lies there.

        Released zcollection takes every folder of such a name for a partition, and fails on one without this document.
        """
        empty = self._format.render(self._config.schema, Version(-1, 0, 0))[self._format.document]
        self._create(self._document(path), lambda: empty)

    def publish_arrays(self, partition: PartitionState) -> None:
        """Bring the documents of the partition's arrays and nested groups up to date."""
        documents = self.render(partition)
        documents.pop(self._format.document)

        def put(item: tuple[str, bytes]) -> None:
            self._put(f"{partition.path}/{item[0]}", partition.commit, item[1])

        with ThreadPoolExecutor(_PARALLEL_PUTS) as pool:
            list(pool.map(put, documents.items()))
        with self._lock:
            self._arrays[partition.path] = (partition.commit, partition.generation)

    def withdraw(self, paths: Iterable[str], variables: Sequence[str]) -> None:
        """Delete the documents of arrays that were dropped, for readers that list a group instead of asking it."""
        keys = [f"{path}/{key}" for path in paths for variable in variables for key in self._format.of_array(variable)]
        with ThreadPoolExecutor(_PARALLEL_PUTS) as pool:
            list(pool.map(self._delete, keys))

    def _delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._store.delete(key)

    def publish_root(self, state: CollectionState) -> None:
        """Tell the period covered, the rows and the last commit in the root group's attributes."""
        parts = [p for p in state.partitions.values() if p.axis is not None]
        attributes: dict[str, Any] = {
            **self._config.schema.attributes,
            "zcollection_partitions": len(parts),
            "zcollection_rows": sum(p.rows for p in parts),
            "zcollection_granules": len(state.ledger),
        }
        if state.last_time is not None:
            attributes["zcollection_updated"] = state.last_time.isoformat()
        if parts:
            bounds = [p.axis for p in parts if p.axis is not None]
            attributes |= self._coverage(min(b[0] for b in bounds), max(b[1] for b in bounds))
        for key, body in self._format.root(attributes, state.last_commit).items():
            self._put(key, state.last_commit, body)

    def publish_config(self, config: CollectionConfig, commit: int) -> None:
        """Render from a configuration from now on, and tell it to readers as of the commit that brought it.

        The variables without the partitioned dimension are written once, from what was staged at the creation.
        """
        self._config = config
        key, body = config_document(config, commit)
        if config.imported is not None and commit == 0:
            told = resolve_foreign(self._source, config.imported).config
            self._create(key, told.encode)  # as it lies
        else:
            self._put(key, commit, body)
        if self._config.schema.immutable_variables:
            self._publish_immutable()

    def _publish_immutable(self) -> None:
        folder, last = self._format.immutable, self._format.document
        done = f"{folder}/{last}"
        try:
            self._store.head(done)
        except NotFoundError:
            staged = f"{STAGED}/{self._creation}/"
            for info in list(self._store.list(staged)):
                key = f"{folder}/{info.key.removeprefix(staged)}"
                self._create(key, lambda source=info.key: self._store.get(source).data)  # type: ignore[misc]
            lying = lying_of(self._source, self._config.imported, folder, imported=True)
            layouts = None if lying is None else lying.layouts
            documents = self._format.render(self._config.schema, Version(0, 0, 0), immutable=True, layouts=layouts)
            for name in sorted(documents, key=lambda n: n == last):
                self._create(f"{folder}/{name}", lambda body=documents[name]: body)  # type: ignore[misc]

    def render(self, partition: PartitionState) -> dict[str, bytes]:
        """All documents of a partition as of its last commit, by key relative to it."""
        coverage = self._coverage(*partition.axis) if partition.axis else {}
        version = Version(partition.commit, partition.generation, partition.rows)
        lying = lying_of(self._source, self._config.imported, partition.path, imported=partition.is_imported)
        layouts = None if lying is None else lying.layouts
        return self._format.render(self._config.schema, version, coverage, layouts=layouts)

    @property
    def _format(self) -> Format:
        return format_of(self._config.schema)

    def _document(self, path: str) -> str:
        return f"{path}/{self._format.document}"

    def _coverage(self, first: Any, last: Any) -> dict[str, str]:
        if self._config.schema[self._config.schema.axis].attributes.get("units") != TIME_UNITS:
            return {}
        return {"time_coverage_start": _iso(first), "time_coverage_end": _iso(last)}

    def _put(self, key: str, commit: int, body: bytes) -> None:
        """Write a document unless a newer one is there."""
        if self._format.is_constant(key):
            self._create(key, lambda: body)
            return
        shown = self._shown.get(key)
        while True:
            if shown is not None and shown.commit >= commit:
                break
            try:
                etag = self._store.create(key, body) if shown is None else self._store.replace(key, body, shown.etag)
                shown = _Shown(commit, etag, None)
            except PreconditionFailedError:
                shown = self._look(key)
        with self._lock:
            self._shown[key] = shown

    def _look(self, key: str) -> _Shown | None:
        try:
            stored = self._store.get(key)
        except NotFoundError:
            return None
        return _Shown(self._format.commit_of(stored.data), stored.info.etag, stored.info.modified)

    def _create(self, key: str, body: Callable[[], bytes]) -> None:
        """Create an object that is the same whoever writes it."""
        if key in self._made:
            return
        with contextlib.suppress(PreconditionFailedError):  # someone else wrote the same bytes
            self._store.create(key, body())
        with self._lock:
            self._made.add(key)


def _iso(nanoseconds: int) -> str:
    text = str(np.datetime64(nanoseconds, "ns"))
    return text.rstrip("0").rstrip(".") + "Z" if "." in text else text + "Z"
