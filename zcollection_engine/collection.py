"""A partitioned collection of Zarr groups: create, open, insert, list, load."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import xarray as xr

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Creation
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.config import CollectionConfig, CollectionRef
from zcollection_engine.creation import create
from zcollection_engine.errors import BusyError, InvalidInputError, NotFoundError, ReadOnlyError
from zcollection_engine.granules.model import Granule
from zcollection_engine.identity import GranuleEntry, GranuleIdentity, precedence_of
from zcollection_engine.ingest import LocalExecutor, granule_from_dataset, prepare
from zcollection_engine.merging import Strategy, TimeSeries
from zcollection_engine.partitioning import Partitioning
from zcollection_engine.reading import load_partitions
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.transaction import Executor, Offer, Outcome, WriterOptions
from zcollection_engine.writer import Writer


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as a reader sees it.

    Attributes
    ----------
    path
        Place below the collection, ``year=2023/month=12``.
    keys
        The same as names and numbers.
    rows
        Number of rows.
    first, last
        Smallest and greatest axis value, in the stored unit (int64 nanoseconds since 1970-01-01 for a time).
    generation
        How often the partition was rewritten.
    commit
        Number of the last commit that changed it.
    granules
        Number of granules that have a share in it.
    """

    path: str
    keys: tuple[tuple[str, int], ...]
    rows: int
    first: Any
    last: Any
    generation: int
    commit: int
    granules: int


class Collection:
    """A collection, seen as of one commit.

    Use `create_collection` or `open_collection`. A collection opened for reading stays at the commit it was opened at
    until `refresh`; one opened for writing also follows its own commits.
    """

    def __init__(
        self,
        store: ObjectStore,
        ref: CollectionRef,
        config: CollectionConfig,
        state: CollectionState,
        *,
        writer: Writer | None,
        clock: Clock,
    ) -> None:
        self._store = store
        self._ref = ref
        self._config = config
        self._state = state
        self._writer = writer
        self._clock = clock

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def ref(self) -> CollectionRef:
        """What another process needs to find the collection."""
        return self._ref

    @property
    def config(self) -> CollectionConfig:
        return self._config

    @property
    def schema(self) -> Schema:
        return self._config.schema

    @property
    def state(self) -> CollectionState:
        """The fold of the commit log this view stands on."""
        return self._state

    @property
    def commit(self) -> int:
        """Number of the last commit seen; -1 if there is none yet."""
        return self._state.last_commit

    def refresh(self) -> Self:
        """See what was committed since; returns the collection."""
        if self._writer is not None:
            self._writer.refresh()
        else:
            self._state.apply_all(CommitLog(self._store, self._clock).follow(self._state.number))
        return self

    def partitions(self) -> list[Partition]:
        """All partitions that have rows, in the numeric order of their keys."""
        found = [
            Partition(
                p.path,
                self._config.partitioning.keys(p.path),
                p.rows,
                p.axis[0],
                p.axis[1],
                p.generation,
                p.commit,
                len(self._state.members.get(p.path, ())),
            )
            for p in list(self._state.partitions.values())
            if p.axis is not None
        ]
        return sorted(found, key=lambda p: p.keys)

    def granules(self) -> Iterator[GranuleEntry]:
        """Every granule that is in, in no particular order."""
        return iter(list(self._state.ledger.values()))

    def load(
        self, partitions: Sequence[str] | None = None, *, variables: Sequence[str] | None = None, decode: bool = True
    ) -> xr.Dataset | xr.DataTree:
        """Return the rows of some partitions, lazily (Dask chunks are the stored chunks).

        Parameters
        ----------
        partitions
            Paths; all by default.
        variables
            Paths of the variables wanted; all by default. The axis always comes along.
        decode
            Apply CF decoding (time, packing, fill values); False gives what is stored.

        Returns
        -------
        xarray.Dataset
            Or an `xarray.DataTree` if the schema has nested groups.

        Raises
        ------
        NotFoundError
            If there is no such partition or variable.
        SnapshotExpiredError
            On reading values, if a later generation took the place of what this view shows: the partition was
            rewritten at least twice since.
        """
        number = self._state.number
        chosen = [self._partition(path) for path in partitions] if partitions is not None else self._ordered()
        return load_partitions(self._store, self._config, chosen, number=number, variables=variables, decode=decode)

    def insert(
        self,
        dataset: xr.Dataset | xr.DataTree,
        *,
        granule: str | None = None,
        precedence: int | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Merge a dataset into the collection, as one transaction; it counts as one granule.

        Parameters
        ----------
        dataset
            Has the schema's variables; any order of rows, any number of partitions.
        granule
            Name of the granule. Inserting the same name again replaces what it gave before. By default a new name.
        precedence
            Decides against other granules that claim the same rows; by default the present time in microseconds since
            1970, so that the newest insert wins.
        timeout
            Seconds to wait for another writer, or for a free key space; None waits for ever.

        Raises
        ------
        ReadOnlyError
            If the collection was opened for reading.
        SchemaMismatchError, EmptyGranuleError, InvalidGranuleError
            If the dataset does not fit; nothing was changed.
        BusyError
            If the timeout passed.
        """
        name = granule or f"insert/{uuid.uuid4().hex}"
        taken = granule_from_dataset(dataset, self.schema, name=name)
        now = self._clock.now()
        entry, conformed = prepare(
            taken,
            self._config,
            identity=GranuleIdentity("", name, uuid.uuid4().hex, taken.nbytes),
            url="",
            precedence=precedence_of(now) if precedence is None else (precedence,),
            immutable=self._creation().immutable,
        )
        return self._wait(lambda: self.commit_offers([Offer(entry, conformed)]), timeout)

    def commit_offers(self, offers: Sequence[Offer], executor: Executor | None = None) -> Outcome:
        """Commit prepared granules; see `zcollection_engine.writer.Writer.commit`."""
        return self._writing().commit(offers, executor or LocalExecutor(self._store))

    def roll_forward(self) -> None:
        """Complete the publication of every commit that a crashed writer left behind."""
        self._writing().roll_forward()

    def publish_arrays(self) -> None:
        """Bring documents of single arrays up to date that appends left behind."""
        self._writing().publish_arrays()

    def _writing(self) -> Writer:
        if self._writer is None:
            raise ReadOnlyError(f'{self.url} was opened for reading; use open_collection(url, mode="w")')
        return self._writer

    def _creation(self) -> Creation:
        if self._state.creation is None:
            raise NotFoundError(f"{self.url}: no collection")
        return self._state.creation

    def _partition(self, path: str) -> PartitionState:
        found = self._state.partitions.get(path)
        if found is None or found.axis is None:
            raise NotFoundError(f"{self.url}: no partition {path!r}; partitions() lists them")
        return found

    def _ordered(self) -> list[PartitionState]:
        return [self._state.partitions[p.path] for p in self.partitions()]

    def _wait(self, attempt: Any, timeout: float | None) -> Outcome:
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while True:
            try:
                outcome: Outcome = attempt()
            except BusyError as error:
                if deadline is not None and self._clock.monotonic() + error.retry_after > deadline:
                    raise
                self._clock.sleep(error.retry_after)
            else:
                return outcome


def create_collection(
    url: str | ObjectStore,
    schema: Schema,
    partitioning: Partitioning,
    *,
    strategy: Strategy | None = None,
    immutable: Granule | None = None,
    storage: StorageOptions | None = None,
    writer: WriterOptions | None = None,
    clock: Clock | None = None,
) -> Collection:
    """Create a collection and open it for writing.

    Parameters
    ----------
    url
        A folder on POSIX, ``s3://bucket/prefix`` or any fsspec URL; or a store that is open already.
    schema, partitioning
        See `zcollection_engine.schema` and `zcollection_engine.partitioning`.
    strategy
        How granules merge; `TimeSeries` by default.
    immutable
        A granule that holds the values of the variables without the partitioned dimension, if the schema has any.
    storage, writer, clock
        How to reach the store, how the writer behaves, and its clock.

    Raises
    ------
    ConflictError
        If there is a collection already.
    InvalidInputError
        If schema and partitioning do not fit each other, or immutable values are missing.
    """
    store = _store(url, storage)
    config = CollectionConfig(schema, partitioning, strategy or TimeSeries())
    create(store, config, immutable=immutable, clock=clock or SystemClock())
    return open_collection(store, mode="w", storage=storage, writer=writer, clock=clock)


def open_collection(
    url: str | ObjectStore,
    *,
    mode: Literal["r", "w"] = "r",
    storage: StorageOptions | None = None,
    writer: WriterOptions | None = None,
    clock: Clock | None = None,
) -> Collection:
    """Open a collection as of its last commit.

    Opening for writing (``mode="w"``) first completes what a crashed writer left unpublished.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If a newer version wrote it.
    """
    if mode not in ("r", "w"):
        raise InvalidInputError(f'mode {mode!r} is unknown; use "r" or "w"')
    options = storage or StorageOptions()
    store = _store(url, options)
    ticking = clock or SystemClock()
    state = CollectionState()
    state.apply_all(CommitLog(store, ticking).load())
    if state.creation is None:
        raise NotFoundError(f"{store.url}: there is no collection here")
    config = CollectionConfig.from_json(state.creation.config, name=f"{store.url}/_zcollection.json")
    ref = CollectionRef(store.url, options, state.creation.transaction)
    if mode == "r":
        return Collection(store, ref, config, state, writer=None, clock=ticking)
    behaviour = writer or WriterOptions(owner=f"library-{uuid.uuid4().hex}")
    active = Writer(store, ref, config, state, options=behaviour, clock=ticking)
    active.roll_forward()
    return Collection(store, ref, config, state, writer=active, clock=ticking)


def _store(url: str | ObjectStore, storage: StorageOptions | None) -> ObjectStore:
    return open_store(url, storage or StorageOptions()) if isinstance(url, str) else url
