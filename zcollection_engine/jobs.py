"""The worker's part of a transaction: merge one partition and write its chunks.

A job is plain data and runs in any process that reaches the collection's store. It publishes nothing: what it wrote
becomes visible by the commit and the flip of the partition's metadata document.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from zcollection_engine.commits.grants import GrantCheck
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.config import CollectionConfig, CollectionRef, resolve_config, resolve_store
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.foreign import lying_of
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, open_variable
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.partitionstore import partition_store
from zcollection_engine.merging import Candidates, Change, Custom, Interval, origins, select
from zcollection_engine.merging.custom import call_function
from zcollection_engine.rowblocks import ExistingRows, InsertedRows, MergedRows, block_rows
from zcollection_engine.schema import PROVENANCE, Schema, Variable
from zcollection_engine.stores.base import ObjectStore

Values = npt.NDArray[Any]

DEFAULT_BLOCK_NBYTES = 256 * 1024 * 1024

_PARALLEL_ARRAYS = 8


@dataclass(frozen=True, slots=True)
class PartitionJob:
    """What a worker needs to merge granules into one partition.

    Attributes
    ----------
    collection
        Where.
    token, seconds
        The grant under which the job writes, and its time to live without a sign of life: a job that lasts looks again
        whether the grant is still good.
    attempt
        Unique id of this attempt, 32 hexadecimal digits.
    partition
        Path.
    change
        Append, rewrite or copy.
    base
        The partition as the grant found it; for a copy, the version whose rows are taken.
    generation
        Of the arrays after the job.
    owners
        (id, intervals) of every granule with a share in the partition afterwards, in ascending rank.
    inserted
        Ids of the granules handed to the job, in the order in which they are handed.
    removed
        Ids of granules whose existing rows go.
    present
        (id, intervals) of every granule with a share before, in ascending rank, where rows do not tell theirs.
    filled
        Paths of variables that have no values yet and get their fill values.
    block_nbytes
        Bytes of rows that a rewrite holds at a time, about.
    imported
        Whether the base's chunks are someone else's.
    """

    collection: CollectionRef
    token: int
    seconds: float
    attempt: str
    partition: str
    change: Change
    base: Version
    generation: int
    owners: tuple[tuple[int, tuple[Interval, ...]], ...]
    inserted: tuple[int, ...]
    removed: tuple[int, ...] = ()
    present: tuple[tuple[int, tuple[Interval, ...]], ...] = ()
    filled: tuple[str, ...] = ()
    block_nbytes: int = DEFAULT_BLOCK_NBYTES
    imported: bool = False


@dataclass(frozen=True, slots=True)
class JobResult:
    """A partition as a job left it.

    Attributes
    ----------
    axis
        Smallest and greatest axis value of the rows written; of all rows unless ``extends``.
    changed
        False if the merge kept just the existing rows.
    extends
        True if rows were written behind the existing ones.
    """

    partition: str
    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    changed: bool = True
    extends: bool = False


def run_job(job: PartitionJob, granules: Sequence[Granule], store: ObjectStore | None = None) -> JobResult:
    """Merge granules into a partition.

    Parameters
    ----------
    job
        What to do.
    granules
        Conformed to the collection's schema, in the order of ``job.inserted``.
    store
        The collection's store, if the caller has one open.

    Raises
    ------
    FencedError
        If another writer took the partition over; nothing published was touched.
    InvalidInputError
        If a user's own merge function failed.
    """
    objects = store or resolve_store(job.collection.url, job.collection.options)
    config = resolve_config(job.collection, objects).config
    check = GrantCheck(CommitLog(objects), job.token, (job.partition,))
    with objects.exclusive(job.partition):
        writer = ChunkWriter(
            objects, UUID(job.attempt), check, check_every=job.seconds / 2, seal=format_of(config.schema).seal
        )
        result = _PartitionMerge(job, config, granules, objects, writer).run()
        objects.flush()
    return result


class _PartitionMerge:
    """One job at work."""

    def __init__(
        self,
        job: PartitionJob,
        config: CollectionConfig,
        granules: Sequence[Granule],
        objects: ObjectStore,
        writer: ChunkWriter,
    ) -> None:
        self._job = job
        self._config = config
        self._schema = config.schema
        self._strategy = config.strategy
        self._objects = objects
        self._writer = writer
        pieces = [
            (identity, granule, _rows_in(config, granule, job.partition))
            for identity, granule in zip(job.inserted, granules, strict=True)
        ]
        self._inserted = InsertedRows(self._schema, pieces)
        self._nothing = ExistingRows(self._schema, None, 0)

    def run(self) -> JobResult:
        match self._job.change:
            case Change.COPY:
                return self._copy(self._existing())
            case Change.FILL:
                return self._fill()
            case _ if isinstance(self._strategy, Custom):
                return self._merge_by_function(self._strategy)
            case Change.APPEND:
                return self._merge(self._nothing)
            case _:
                return self._merge(self._existing())

    def _copy(self, existing: ExistingRows) -> JobResult:
        """Take the rows of an older version."""
        rows = MergedRows(existing, self._inserted, np.arange(existing.count))
        return self._write_anew(rows, existing.column(self._schema.axis))

    def _fill(self) -> JobResult:
        """Give new variables their fill values, beside the arrays that are there."""
        base = self._job.base
        target = self._target(base.generation, base.rows)
        added = [self._schema[path] for path in self._job.filled]
        self._writer.observe(self._leftovers(added))
        existing = ExistingRows(self._schema, None, base.rows, self._job.filled)
        self._write_blocks(target, MergedRows(existing, self._inserted, np.arange(base.rows)), added)
        return JobResult(self._job.partition, base.rows, base.generation, None, changed=False)

    def _merge(self, existing: ExistingRows) -> JobResult:
        """Choose among existing and new rows, and write no more than must be written."""
        candidates = self._candidates(existing)
        selection = select(self._strategy, candidates, self._job.owners, removed=self._job.removed)
        axis = candidates.axis[selection.take]
        if selection.is_identity and existing.count:
            base = self._job.base
            return JobResult(self._job.partition, base.rows, base.generation, _bounds(axis), changed=False)
        if selection.is_extension and not self._job.imported:
            behind = selection.take[existing.count :] - existing.count
            return self._write_behind(MergedRows(self._nothing, self._inserted, behind), axis[existing.count :])
        return self._write_anew(MergedRows(existing, self._inserted, selection.take), axis)

    def _write_behind(self, merged: MergedRows, axis: Values) -> JobResult:
        """Write new rows behind the existing ones, in the same generation."""
        base = self._job.base
        rows = base.rows + merged.take.size
        target = self._target(base.generation, rows)
        target.prefetch(_tail_chunks(self._schema, base))

        def write(variable: Variable) -> None:
            array = open_variable(target, variable.path)
            array[base.rows : rows] = merged.column(variable.path)

        _side_by_side(write, self._schema.row_variables)
        return JobResult(self._job.partition, rows, base.generation, _bounds(axis), extends=True)

    def _write_anew(self, merged: MergedRows, axis: Values) -> JobResult:
        """Write all rows into the partition's next key space, block by block."""
        job = self._job
        target = self._target(job.generation, merged.take.size)
        self._writer.observe(self._leftovers(self._schema.row_variables))
        self._write_blocks(target, merged, self._schema.row_variables)
        return JobResult(job.partition, merged.take.size, job.generation, _bounds(axis))

    def _write_blocks(self, target: ChunkStore, merged: MergedRows, variables: Sequence[Variable]) -> None:
        def write(variable: Variable) -> None:
            array = open_variable(target, variable.path)
            rows = block_rows(self._schema, variable, self._job.block_nbytes // _PARALLEL_ARRAYS)
            for place, values in merged.blocks(variable, rows):
                array[place] = values

        _side_by_side(write, variables)

    def _merge_by_function(self, strategy: Custom) -> JobResult:
        """Let a user's function merge one granule after another, in ascending rank."""
        existing = self._existing()
        paths = [variable.path for variable in self._schema.row_variables]
        rows = {path: existing.column(path) for path in paths}
        if PROVENANCE in rows and self._job.removed:
            stays = ~np.isin(rows[PROVENANCE], np.array(self._job.removed, np.uint64))
            rows = {path: values[stays] for path, values in rows.items()}
        for piece in self._inserted.pieces:
            added = InsertedRows(self._schema, [piece])
            rows = call_function(strategy.function, self._schema, rows, {path: added.column(path) for path in paths})
        self._require_partition(strategy, rows)
        schema = self._schema
        variables = {v.path: GranuleVariable(v.dimensions, rows[v.path]) for v in schema.row_variables}
        granule = Granule(self._job.partition, schema.axis, schema.dimension, variables)
        every = np.arange(granule.rows)
        whole = InsertedRows(schema, [(0, granule, every)], origins=rows.get(PROVENANCE))
        write = self._write_anew if self._job.base.rows else self._write_behind
        return write(MergedRows(self._nothing, whole, every), rows[schema.axis])

    def _require_partition(self, strategy: Custom, rows: Mapping[str, Values]) -> None:
        others = self._config.partitioning.split({p: rows[p] for p in self._config.partitioning.variables}).keys()
        for path in others - {self._job.partition}:
            raise InvalidInputError(
                f"merge function {strategy.function!r} returned rows of {path} when it merged {self._job.partition}"
            )

    def _candidates(self, existing: ExistingRows) -> Candidates:
        def both(path: str) -> Values:
            return np.concatenate([existing.column(path), self._inserted.column(path)])

        axis = both(self._schema.axis)
        origin = np.concatenate([self._origins(existing, axis[: existing.count]), self._inserted.origin])
        return Candidates(axis, origin, existing.count, {path: both(path) for path in self._strategy.columns})

    def _origins(self, existing: ExistingRows, axis: Values) -> Values:
        if self._schema.keeps_provenance:
            return existing.column(PROVENANCE)
        return origins(self._strategy, axis, self._job.present)

    def _existing(self) -> ExistingRows:
        base = self._job.base
        if not base.rows:
            return self._nothing
        name, path = self._config.imported, self._job.partition
        lying = lying_of(self._objects, name, path, imported=self._job.imported)
        store = partition_store(self._objects, path, self._schema, base, lying=lying)
        return ExistingRows(self._schema, store, base.rows, self._job.filled)

    def _target(self, generation: int, rows: int) -> ChunkStore:
        version = Version(self._job.base.commit, generation, rows)
        return partition_store(self._objects, self._job.partition, self._schema, version, writer=self._writer)

    def _leftovers(self, variables: Sequence[Variable]) -> Mapping[str, str]:
        """ETags of all chunks of some arrays that lie in the key space about to be written."""
        layout, paths = format_of(self._schema), {variable.path for variable in variables}
        found = {}
        for info in self._objects.list(f"{self._job.partition}/"):
            place = layout.place(info.key.removeprefix(f"{self._job.partition}/"), paths)
            if place is not None and place.space == layout.space(self._job.generation):
                found[info.key] = info.etag
        return found


def _side_by_side(write: Callable[[Variable], None], variables: Sequence[Variable]) -> None:
    with ThreadPoolExecutor(_PARALLEL_ARRAYS) as pool:
        for future in [pool.submit(write, variable) for variable in variables]:
            future.result()


def _bounds(axis: Values) -> tuple[Any, Any] | None:
    return (axis.min().item(), axis.max().item()) if axis.size else None


def _rows_in(config: CollectionConfig, granule: Granule, partition: str) -> npt.NDArray[np.intp]:
    columns = {path: granule.variables[path].values for path in config.partitioning.variables}
    return config.partitioning.split(columns)[partition]


def _tail_chunks(schema: Schema, base: Version) -> list[str]:
    """Keys of the chunks that hold the last rows and have room for more."""
    keys, layout = [], format_of(schema)
    for variable in schema.row_variables:
        if base.rows % variable.chunks[0] == 0:
            continue
        inner = [
            range(-(-(schema.sizes[d] or 0) // n))
            for d, n in zip(variable.dimensions[1:], variable.chunks[1:], strict=True)
        ]
        indices = itertools.product([base.rows // variable.chunks[0]], *inner)
        keys += [layout.chunk_key(variable.path, base.generation, index) for index in indices]
    return keys
