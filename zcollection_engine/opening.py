"""Create a collection, open one."""

from __future__ import annotations

import uuid
from typing import Literal

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.collection import Collection
from zcollection_engine.commits.opening import Moment, load_state, load_state_at
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionConfig, CollectionRef, load_config
from zcollection_engine.creation import create, require_absent
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import Granule
from zcollection_engine.merging import Strategy, TimeSeries
from zcollection_engine.partitioning import Partitioning
from zcollection_engine.precedence import ByTime, Precedence
from zcollection_engine.probing import check_store
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.transaction import WriterOptions


def create_collection(
    url: str | ObjectStore,
    schema: Schema,
    partitioning: Partitioning,
    *,
    strategy: Strategy | None = None,
    precedence: Precedence | None = None,
    drift: DriftPolicy | None = None,
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
    precedence
        Which of two granules wins; by default the newer one.
    drift
        What becomes of granules that depart from the schema.
    immutable
        A granule that holds the values of the variables without the partitioned dimension, if the schema has any.
    storage, writer, clock
        How to reach the store, how the writer behaves, and its clock.

    Raises
    ------
    ConflictError
        If there is a collection already.
    InvalidInputError
        If schema and partitioning do not fit each other, or immutable values are missing; or if the store does not keep
        the conditions of writes and ``single_writer`` is not set.
    """
    store = _store(url, storage)
    behaviour = writer or WriterOptions(owner=f"library-{uuid.uuid4().hex}")
    require_absent(store)
    check_store(store, single_writer=behaviour.single_writer, probe=True)
    merging = (strategy or TimeSeries()).bound(schema)
    config = CollectionConfig(schema, partitioning, merging, precedence or ByTime(), drift or DriftPolicy())
    create(store, config, immutable=immutable, clock=clock or SystemClock())
    return open_collection(store, mode="w", storage=storage, writer=behaviour, clock=clock)


def open_collection(
    url: str | ObjectStore,
    *,
    mode: Literal["r", "w"] = "r",
    at: Moment | None = None,
    storage: StorageOptions | None = None,
    writer: WriterOptions | None = None,
    clock: Clock | None = None,
) -> Collection:
    """Open a collection as of its last commit, or of an older one.

    Opening for writing (``mode="w"``) first completes what a crashed writer left unpublished.

    Parameters
    ----------
    url
        See `create_collection`.
    mode
        "r" or "w".
    at
        Number of a record of the log, or a time with its zone: then the last commit up to it counts. Only for reading.
        Rows that were only appended to since are there; reading a partition that was rewritten too often, or whose old
        chunks were collected, raises `SnapshotExpiredError`.
    storage, writer, clock
        How to reach the store, how the writer behaves, and its clock.

    Raises
    ------
    NotFoundError
        If there is no collection.
    FormatError
        If a newer version wrote it.
    SnapshotExpiredError
        If the log does not reach back to ``at``.
    InvalidInputError
        If a store without conditional writes is to be written and ``single_writer`` is not set.
    """
    if mode not in ("r", "w"):
        raise InvalidInputError(f'mode {mode!r} is unknown; use "r" or "w"')
    behaviour = writer or WriterOptions(owner=f"library-{uuid.uuid4().hex}")
    if mode == "w" and at is not None:
        raise InvalidInputError("an older commit can only be read; rollback() makes it the present one")
    options = storage or StorageOptions()
    store = _store(url, options)
    ticking = clock or SystemClock()
    if mode == "w":
        check_store(store, single_writer=behaviour.single_writer, probe=False)
    state = load_state(store, ticking) if at is None else load_state_at(store, at, ticking)
    stored = load_config(store, state.config)
    ref = CollectionRef(store.url, options, state.config)
    if mode == "r":
        return Collection(store, ref, stored, state, committer=None, clock=ticking)
    committer = Committer(store, ref, stored.config, state, options=behaviour, clock=ticking)
    committer.roll_forward()
    return Collection(store, ref, stored, state, committer=committer, clock=ticking)


def _store(url: str | ObjectStore, storage: StorageOptions | None) -> ObjectStore:
    return open_store(url, storage or StorageOptions()) if isinstance(url, str) else url
