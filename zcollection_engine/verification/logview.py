"""What the log says that the objects of a collection are: the one place that knows how state and publication are made.

The expected bytes of a document come from the publisher itself, let loose on an empty store in memory.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from zcollection_engine.collection import Collection
from zcollection_engine.commits.log import FOLDER
from zcollection_engine.commits.state import CollectionState, HeldGrant, PartitionState
from zcollection_engine.config import CONFIGS, CollectionConfig, StoredConfig, config_document, load_config
from zcollection_engine.errors import FormatError, NotFoundError
from zcollection_engine.foreign import ForeignGroup, lying_of, resolve_foreign
from zcollection_engine.granules.conform import immutable_digest
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import Format, format_of
from zcollection_engine.layout.partitionstore import AsItLies, immutable_store
from zcollection_engine.opening import open_collection
from zcollection_engine.publication import STAGED, Publisher
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.verification.chunks import ChunkReader

#: The log's own folder.
LOG = FOLDER


@dataclass(frozen=True, slots=True)
class PartitionView:
    """A partition as of one record of the log.

    Attributes
    ----------
    state
        Rows, generation, bounds of the axis.
    owners
        Granules with a share in it, by id.
    published
        Whether its last commit is known to be published.
    """

    state: PartitionState
    owners: Mapping[int, GranuleEntry]
    published: bool

    @property
    def version(self) -> Version:
        return Version(self.state.commit, self.state.generation, self.state.rows)


class LogView:
    """The log of a collection, followed on demand. Thread-safe.

    Parameters
    ----------
    collection
        Opened for reading; used by nothing else.
    store
        Its store.
    """

    def __init__(self, collection: Collection, store: ObjectStore) -> None:
        self.store = store
        self._collection = collection
        self._lock = threading.Lock()
        self._older: list[Schema] | None = None

    @classmethod
    def of(cls, collection: Collection, store: ObjectStore | None) -> LogView:
        """Return a view of its own of a collection, as of now.

        Parameters
        ----------
        collection
            Any handle of the collection; it stays as it is.
        store
            The collection's store, if the caller has one open.
        """
        objects = store or collection.store
        return cls(open_collection(objects, storage=collection.ref.options), objects)

    @property
    def config(self) -> CollectionConfig:
        return self._collection.config

    @property
    def schema(self) -> Schema:
        return self._collection.config.schema

    @property
    def format(self) -> Format:
        return format_of(self.schema)

    @property
    def configured(self) -> int:
        """Number of the record that brought the configuration."""
        return self._state.configured

    def schemas(self) -> Iterator[Schema]:
        """Yield the schema, then those of all stored versions of the configuration; they are read when first needed."""
        yield self.schema
        with self._lock:
            if self._older is None:
                self._older = [s.config.schema for s in self._stored_configs()]
            found = self._older
        yield from found

    @property
    def number(self) -> int:
        """The last record seen."""
        return self._state.number

    @property
    def commit(self) -> int:
        """The last commit seen; -1 for none."""
        return self._state.last_commit

    @property
    def held(self) -> tuple[HeldGrant, ...]:
        """Grants that are neither committed, released nor fenced, each once."""
        with self._lock:
            return tuple({held.token: held for held in self._state.held.values()}.values())

    def refresh(self) -> None:
        """Fold what was appended to the log since."""
        with self._lock:
            self._collection.refresh()

    def paths(self) -> tuple[str, ...]:
        """Every partition that a commit names, those without rows included."""
        with self._lock:
            return tuple(self._state.partitions)

    def state(self, path: str) -> PartitionState:
        """Return a partition's state as of the last record seen; raises `NotFoundError`."""
        found = self._state.partitions.get(path)
        if found is None:
            raise NotFoundError(f"{self.store.url}: no partition {path!r}; partitions() lists them")
        return found

    def partition(self, path: str) -> PartitionView:
        """Return a partition with its granules as of the last record seen; raises `NotFoundError`."""
        with self._lock:
            state = self.state(path)
            owners = {entry.id: entry for entry in self._state.ledger.owners(path)}
            return PartitionView(state, owners, state.commit <= self._state.published)

    def granule(self, identity: int) -> GranuleEntry | None:
        """Return a granule of the ledger."""
        with self._lock:
            return self._state.ledger.get(identity)

    def lost(self) -> list[GranuleEntry]:
        """Granules that are in but whose rows could not all be brought back, since their source was gone."""
        with self._lock:
            ids = sorted(self._state.lost)
        return [entry for entry in map(self.granule, ids) if entry is not None]

    def partition_documents(self, partition: PartitionState) -> dict[str, bytes]:
        """Documents of a partition, of its arrays and of the groups above it, by key below the collection."""
        if partition.is_untouched:
            name = self.format.document
            return {f"{partition.path}/{name}": self._publisher(self.store).render(partition)[name]}
        return self._written(lambda publisher: publisher.publish(partition, arrays=True))

    def lying(self, partition: PartitionState) -> AsItLies | None:
        """How a partition lies that was taken over; None for one of our own."""
        return lying_of(self.store, self.config.imported, partition.path, imported=partition.is_imported)

    def taken(self, key: str) -> ForeignGroup | None:
        """The group whose document was taken over at a key; None if there was none."""
        path, _, name = key.rpartition("/")
        if self.config.imported is None or name != self.format.document:
            return None
        return resolve_foreign(self.store, self.config.imported).groups.get(path)

    @property
    def is_config_imported(self) -> bool:
        """Whether readers are shown the configuration that was taken over."""
        return self.config.imported is not None and self.configured == 0

    def config_document(self) -> tuple[str, bytes]:
        """Key and bytes of the configuration as readers see it."""
        key, body = config_document(self.config, self.configured)
        if self.is_config_imported and self.config.imported is not None:
            body = resolve_foreign(self.store, self.config.imported).config.encode()
        return key, body

    def fixed_documents(self) -> dict[str, bytes]:
        """Documents of the variables without the partitioned dimension: written once, by the first configuration."""
        found = self._written(lambda publisher: publisher.publish_config(self._first, 0))
        del found[self.config_document()[0]]
        if self.config.imported is not None:
            return {key: body for key, body in found.items() if self.taken(key) is not None}
        return found

    def root_documents(self) -> dict[str, bytes]:
        """Documents of the root group, with the summary."""
        with self._lock:
            return self._written(lambda publisher: publisher.publish_root(self._state))

    def immutable_chunks(self, path: str | None = None) -> ChunkReader:
        """A reader of the variables without the partitioned dimension, where readers find them, or at ``path``."""
        found = immutable_store(self.store, self._first.schema, path=path, lying=self.lying_immutable())
        return ChunkReader(found, self.format.immutable if path is None else path)

    def lying_immutable(self) -> AsItLies | None:
        """How the variables without the partitioned dimension lie, if they were taken over."""
        return lying_of(self.store, self.config.imported, self.format.immutable, imported=True)

    def is_immutable(self, variable: Variable, values: npt.NDArray[Any]) -> bool:
        """Tell whether these are the values that the collection was created with."""
        digest = immutable_digest({variable.path: values}, self.schema)[variable.path]
        return digest == self._collection.immutable.get(variable.path)

    @property
    def staged(self) -> str:
        """Folder with the chunks of those variables as they were first written."""
        return f"{STAGED}/{self._creation}"

    @property
    def _state(self) -> CollectionState:
        return self._collection.state

    @property
    def _creation(self) -> str:
        if self._state.creation is None:
            raise NotFoundError(f"{self.store.url}: there is no collection here")
        return self._state.creation.transaction

    @cached_property
    def _first(self) -> CollectionConfig:
        return load_config(self.store, self._creation).config

    def _stored_configs(self) -> Iterator[StoredConfig]:
        for info in self.store.list(CONFIGS):
            try:
                yield load_config(self.store, info.key.removeprefix(CONFIGS).removesuffix(".json"))
            except FormatError:
                continue  # of an attempt that nothing names; the one in force was read already

    def _publisher(self, store: ObjectStore) -> Publisher:
        return Publisher(store, self.config, self._creation, self.store)

    def _written(self, publish: Callable[[Publisher], Any]) -> dict[str, bytes]:
        """Return what a publisher writes that finds nothing."""
        scratch = MemoryStore(f"memory://expected/{uuid.uuid4().hex}")
        try:
            publish(self._publisher(scratch))
            return {info.key: scratch.get(info.key).data for info in scratch.list()}
        finally:
            scratch.clear()
