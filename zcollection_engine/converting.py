"""Rewrite a collection into a new one of another Zarr format, partition by partition.

The source is only read: a collection of ours as of its last commit, or a tree of released zcollection. Each partition
comes into the target by a transaction of its own; a conversion that died goes on where it stopped when it is made
again. The granules come last, in one commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.collection import Collection
from zcollection_engine.commits.grants import GrantCheck, Granted
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import EVERYTHING, Commit, PartitionChange
from zcollection_engine.commits.state import PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.conversionsource import Source, open_source
from zcollection_engine.errors import BusyError, ConflictError, FormatError, InvalidInputError, NotFoundError
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, open_variable
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.partitionstore import partition_store
from zcollection_engine.opening import create_collection, open_collection
from zcollection_engine.retargeting import Retarget, retarget
from zcollection_engine.rowblocks import block_rows
from zcollection_engine.schema import Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.transaction import WriterOptions

Values = npt.NDArray[Any]

#: Called with the path of a partition, its number from 1, and the number of all.
Progress = Callable[[str, int, int], None]

_PARALLEL_ARRAYS = 8


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How a collection is converted.

    Attributes
    ----------
    zarr_format
        Of the target.
    keep_codecs
        Whether variables keep their codecs.
    verify
        Whether all values of the target are read back and compared.
    """

    zarr_format: int = 3
    keep_codecs: bool = False
    verify: bool = True


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was converted.

    Attributes
    ----------
    source, target
        URLs.
    zarr_format
        Of the target.
    partitions, rows, granules
        What the target has.
    written
        Partitions that came in now; the others were in already.
    renamed
        New names by old ones, where they differ.
    verified
        Whether all values were compared.
    lost
        What the target does not have.
    """

    source: str
    target: str
    zarr_format: int
    partitions: int
    rows: int
    granules: int
    written: int
    renamed: Mapping[str, str]
    verified: bool
    lost: tuple[str, ...]


def convert(
    source: str | ObjectStore,
    target: str | ObjectStore,
    options: ConvertOptions | None = None,
    *,
    storage: StorageOptions | None = None,
    writer: WriterOptions | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> tuple[Collection, ConvertReport]:
    """Rewrite a collection into a new one, which is open for writing afterwards.

    Nobody else may write the target until it is done. Memory is bounded by `WriterOptions.block_nbytes` and by the
    largest chunk.

    Parameters
    ----------
    source
        A collection of ours, or a tree of released zcollection; it is not changed.
    target
        Where there is no collection; or one of a conversion of the same source that died.
    options
        What it becomes.
    storage, writer, clock
        See `create_collection`.
    progress
        Told of each partition.

    Raises
    ------
    NotFoundError
        If there is no source.
    FormatError
        If the source cannot be read.
    InvalidInputError
        If the source cannot be had in that format, or source and target are one.
    ConflictError
        If there is another collection at the target; if values differ when they are compared.
    SnapshotExpiredError
        If the source was rewritten meanwhile; convert again into a new target.
    """
    wanted, reach = options or ConvertOptions(), storage or StorageOptions()
    objects = open_store(source, reach) if isinstance(source, str) else source
    into = open_store(target, reach) if isinstance(target, str) else target
    if objects.url == into.url:
        raise InvalidInputError(f"{into.url}: source and target of a conversion must differ")
    found = open_source(objects)
    plan = retarget(found.config, wanted.zarr_format, keep_codecs=wanted.keep_codecs, rescale=found.is_foreign)
    behaviour = writer or WriterOptions(owner=f"convert-{uuid.uuid4().hex}")
    collection = _open_target(into, found, plan, storage=reach, writer=behaviour, clock=clock)
    ticking = clock or SystemClock()
    state = load_state(into, ticking)
    committer = Committer(into, collection.ref, collection.config, state, options=behaviour, clock=ticking)
    work = _Conversion(found, plan, committer)
    written = work.run(progress or (lambda *_: None))
    if wanted.verify:
        work.verify()
    return collection.refresh(), ConvertReport(
        objects.url,
        into.url,
        wanted.zarr_format,
        len(found.partitions),
        sum(p.rows for p in found.partitions),
        len(found.granules),
        written,
        {old: new for old, new in plan.names.items() if old != new},
        wanted.verify,
        found.lost,
    )


def _open_target(
    store: ObjectStore,
    source: Source,
    plan: Retarget,
    *,
    storage: StorageOptions,
    writer: WriterOptions,
    clock: Clock | None,
) -> Collection:
    """Create the target, or open the one of a conversion that died."""
    try:
        collection = open_collection(store, mode="w", storage=storage, writer=writer, clock=clock)
    except NotFoundError:
        config = plan.config
        return create_collection(
            store,
            config.schema,
            config.partitioning,
            strategy=config.strategy,
            precedence=config.precedence,
            drift=config.drift,
            immutable=_immutable(source, plan),
            storage=storage,
            writer=writer,
            clock=clock,
        )
    if collection.config.to_json() != plan.config.to_json():
        raise ConflictError(f"{store.url}: there is another collection already; choose another target")
    return collection


def _immutable(source: Source, plan: Retarget) -> Granule | None:
    schema = source.config.schema
    if not schema.immutable_variables:
        return None
    found = {
        plan.names[path]: GranuleVariable(schema[path].dimensions, plan.values(path, values))
        for path, values in source.fixed().items()
    }
    return Granule(source.store.url, plan.config.schema.axis, schema.dimension, found)


class _Conversion:
    """One conversion at work."""

    def __init__(self, source: Source, plan: Retarget, committer: Committer) -> None:
        self._source = source
        self._plan = plan
        self._committer = committer

    def run(self, progress: Progress) -> int:
        """Bring in what is not in yet; returns the number of partitions."""
        written = 0
        total = len(self._source.partitions)
        for number, partition in enumerate(self._source.partitions, 1):
            progress(partition.path, number, total)
            written += self._bring(partition)
        self._bring_granules()
        self._committer.store.flush()
        return written

    def verify(self) -> None:
        """Compare all values; raises `ConflictError`, which names the first partition and variable that differ."""
        for partition in self._source.partitions:
            self._compare(partition)
        granules = {entry.id for entry in self._committer.state.ledger}
        if granules != {entry.id for entry in self._source.granules}:
            raise ConflictError(f"{self._committer.store.url}: its granules are not those of the source")

    def _bring(self, partition: PartitionState) -> bool:
        path = self._plan.path(partition.path)
        granted = self._grant([path])
        base = granted.base(path)
        if base.rows:
            self._committer.release(granted)
            if (base.rows, base.axis) != (partition.rows, self._plan.axis(partition.axis)):
                raise ConflictError(
                    f"{self._committer.store.url}: {path} has other rows than the source; convert into a new target"
                )
            return False
        with self._committer.holding(granted):
            self._committer.prepare(granted, ())
            self._write(partition, path, granted)
            change = PartitionChange(partition.rows, base.generation, self._plan.axis(partition.axis))
            self._commit(granted, {path: change})
        self._committer.publish([path], arrays=True)
        self._committer.checkpoint_if_due()
        return True

    def _bring_granules(self) -> None:
        entries = [replace(e, shares=self._plan.shares(e.shares)) for e in self._source.granules]
        if not entries or len(self._committer.state.ledger):
            return
        granted = self._grant([EVERYTHING])
        with self._committer.holding(granted):
            self._commit(granted, {}, tuple(entries))
        self._committer.publish((), arrays=True)

    def _commit(
        self, granted: Granted, changes: Mapping[str, PartitionChange], granules: tuple[GranuleEntry, ...] = ()
    ) -> None:
        draft = Commit(
            granted.transaction, granted.grant.time, granted.token, changes, granules=granules, operation="convert"
        )
        self._committer.commit(granted, draft)

    def _grant(self, paths: list[str]) -> Granted:
        """Take a grant; waits for that of a conversion that died."""
        committer = self._committer
        while True:
            try:
                with committer.lock:
                    committer.refresh()
                    committer.require_free(paths)
                    granted = committer.grant(committer.state.number, paths)
            except BusyError as error:
                committer.clock.sleep(error.retry_after)
                continue
            if granted is not None:
                return granted

    def _write(self, partition: PartitionState, path: str, granted: Granted) -> None:
        """Write the chunks of a partition."""
        objects, schema = self._committer.store, self._plan.config.schema
        check = GrantCheck(self._committer.log, granted.token, (path,))
        seconds = granted.grant.seconds / 2
        with objects.exclusive(path):
            writer = ChunkWriter(objects, uuid.uuid4(), check, check_every=seconds, seal=format_of(schema).seal)
            writer.observe({})
            base = granted.base(path)
            version = Version(base.commit, base.generation, partition.rows)
            target = partition_store(objects, path, schema, version, writer=writer)
            rows = self._source.rows_of(partition)

            def write(variable: Variable) -> None:
                array = open_variable(target, self._plan.names[variable.path])
                for place, values in self._blocks(rows, variable, partition.rows):
                    array[place] = values

            self._side_by_side(write)
            objects.flush()

    def _compare(self, partition: PartitionState) -> None:
        path, schema = self._plan.path(partition.path), self._plan.config.schema
        state = self._committer.state.partition(path)
        version = Version(state.commit, state.generation, state.rows)
        target = partition_store(self._committer.store, path, schema, version)
        rows = self._source.rows_of(partition)

        def compare(variable: Variable) -> None:
            array = open_variable(target, self._plan.names[variable.path])
            for place, values in self._blocks(rows, variable, partition.rows):
                if not _same(np.asarray(array[place]), values):
                    raise ConflictError(
                        f"{self._committer.store.url}: rows {place.start} to {place.stop} of {variable.path} in {path}"
                        " are not those of the source; convert into a new target"
                    )

        if state.rows != partition.rows:
            raise FormatError(f"{self._committer.store.url}: {path} has {state.rows} rows, not {partition.rows}")
        self._side_by_side(compare)

    def _blocks(self, rows: ChunkStore, variable: Variable, count: int) -> Iterator[tuple[slice, Values]]:
        """Yield the values of a variable as the target has them, whole chunks of the target at a time."""
        array, schema = open_variable(rows, variable.path), self._plan.config.schema
        nbytes = self._committer.options.block_nbytes // _PARALLEL_ARRAYS
        step = block_rows(schema, schema[self._plan.names[variable.path]], nbytes)
        for start in range(0, count, step):
            place = slice(start, min(start + step, count))
            yield place, self._plan.values(variable.path, np.asarray(array[place]))

    def _side_by_side(self, work: Callable[[Variable], None]) -> None:
        with ThreadPoolExecutor(_PARALLEL_ARRAYS) as pool:
            for future in [pool.submit(work, v) for v in self._source.config.schema.row_variables]:
                future.result()


def _same(found: Values, wanted: Values) -> bool:
    if wanted.dtype == object:
        return bool(np.array_equal(found, wanted))
    return found.dtype == wanted.dtype and bool(np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"))
