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
from zcollection_engine.granules.model import Granule
from zcollection_engine.layout import keyspaces
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, open_variable
from zcollection_engine.layout.documents import Version, render
from zcollection_engine.merging import Change, Interval, Selection, select
from zcollection_engine.schema import PROVENANCE, Schema, Variable
from zcollection_engine.stores.base import ObjectStore

Values = npt.NDArray[Any]

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


@dataclass(frozen=True, slots=True)
class JobResult:
    """A partition as a job left it; ``changed`` is False if the merge kept just the existing rows."""

    partition: str
    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    changed: bool = True


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
    """
    objects = store or resolve_store(job.collection.url, job.collection.options)
    config = resolve_config(job.collection, objects).config
    check = GrantCheck(CommitLog(objects), job.token, (job.partition,))
    with objects.exclusive(job.partition):
        writer = ChunkWriter(objects, UUID(job.attempt), check, check_every=job.seconds / 2)
        merge = _PartitionMerge(job, config, granules, objects, writer)
        result = {Change.APPEND: merge.append, Change.REWRITE: merge.rewrite, Change.COPY: merge.copy}[job.change]()
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
        self._schema = config.schema
        self._strategy = config.strategy
        self._objects = objects
        self._writer = writer
        self._pieces = [
            (identity, granule, _rows_in(config, granule, job.partition))
            for identity, granule in zip(job.inserted, granules, strict=True)
        ]

    def append(self) -> JobResult:
        """Write the new rows behind the existing ones."""
        base = self._job.base
        selection = self._select(np.empty(0, self._axis_dtype()), np.empty(0, np.uint64))
        rows = base.rows + selection.take.size
        target = self._target(rows)
        target.prefetch(_tail_chunks(self._schema, base))

        def write(variable: Variable) -> None:
            array = open_variable(target, variable.path)
            array[base.rows : rows] = self._inserted(variable)[selection.take]

        self._for_each_variable(write)
        return self._result(rows, self._inserted(self._schema[self._schema.axis])[selection.take])

    def rewrite(self) -> JobResult:
        """Write the whole partition into its next key space."""
        job, schema = self._job, self._schema
        source = ChunkStore(self._objects, job.partition, render(schema, job.base))
        existing_axis = _read(source, schema[schema.axis])
        selection = self._select(existing_axis, _read(source, schema[PROVENANCE]))
        axis = np.concatenate([existing_axis, self._inserted(schema[schema.axis])])[selection.take]
        if selection.is_identity:
            bounds = (axis[0].item(), axis[-1].item()) if axis.size else None
            return JobResult(job.partition, job.base.rows, job.base.generation, bounds, changed=False)
        target = self._target(selection.take.size)
        self._writer.observe(self._leftovers())

        def write(variable: Variable) -> None:
            _write(
                target, variable, np.concatenate([_read(source, variable), self._inserted(variable)])[selection.take]
            )

        self._for_each_variable(write)
        return self._result(selection.take.size, axis)

    def copy(self) -> JobResult:
        """Write the rows of an older version into the partition's next key space."""
        job, schema = self._job, self._schema
        source = ChunkStore(self._objects, job.partition, render(schema, job.base))
        target = self._target(job.base.rows)
        self._writer.observe(self._leftovers())
        self._for_each_variable(lambda v: _write(target, v, _read(source, v)))
        return self._result(job.base.rows, _read(source, schema[schema.axis]))

    def _select(self, existing_axis: Values, existing_origin: Values) -> Selection:
        axis = np.concatenate([existing_axis, self._inserted(self._schema[self._schema.axis])])
        origin = np.concatenate([existing_origin, self._inserted(self._schema[PROVENANCE])])
        return select(
            self._strategy,
            axis,
            origin,
            self._job.owners,
            existing=existing_axis.size,
            removed=self._job.removed,
        )

    def _inserted(self, variable: Variable) -> Values:
        shape = tuple(self._schema.sizes[d] or 0 for d in variable.dimensions)
        pieces = [np.empty(shape, variable.numpy_dtype)]
        for identity, granule, rows in self._pieces:
            if variable.path == PROVENANCE:
                pieces.append(np.full(len(rows), identity, np.uint64))
            else:
                pieces.append(granule.variables[variable.path].values[rows])
        return np.concatenate(pieces)

    def _target(self, rows: int) -> ChunkStore:
        job = self._job
        version = Version(job.base.commit, job.generation, rows)
        return ChunkStore(self._objects, job.partition, render(self._schema, version), self._writer)

    def _leftovers(self) -> Mapping[str, str]:
        """ETags of all chunks that lie in the key space about to be written."""
        found = {}
        for info in self._objects.list(f"{self._job.partition}/"):
            inside = info.key.removeprefix(f"{self._job.partition}/")
            for variable in self._schema.row_variables:
                if inside.startswith(f"{variable.path}/") and keyspaces.is_in_space(
                    self._job.generation, inside.removeprefix(f"{variable.path}/")
                ):
                    found[info.key] = info.etag
        return found

    def _for_each_variable(self, write: Callable[[Variable], None]) -> None:
        with ThreadPoolExecutor(_PARALLEL_ARRAYS) as pool:
            for future in [pool.submit(write, variable) for variable in self._schema.row_variables]:
                future.result()

    def _axis_dtype(self) -> np.dtype[Any]:
        return self._schema[self._schema.axis].numpy_dtype

    def _result(self, rows: int, axis: Values) -> JobResult:
        bounds = (axis.min().item(), axis.max().item()) if axis.size else None
        return JobResult(self._job.partition, rows, self._job.generation, bounds)


def _rows_in(config: CollectionConfig, granule: Granule, partition: str) -> npt.NDArray[np.intp]:
    columns = {path: granule.variables[path].values for path in config.partitioning.variables}
    return config.partitioning.split(columns)[partition]


def _tail_chunks(schema: Schema, base: Version) -> list[str]:
    """Keys of the chunks that hold the last rows and have room for more."""
    keys = []
    for variable in schema.row_variables:
        if base.rows % variable.chunks[0] == 0:
            continue
        inner = [
            range(-(-(schema.sizes[d] or 0) // n))
            for d, n in zip(variable.dimensions[1:], variable.chunks[1:], strict=True)
        ]
        indices = itertools.product([base.rows // variable.chunks[0]], *inner)
        keys += [f"{variable.path}/{keyspaces.chunk_key(base.generation, index)}" for index in indices]
    return keys


def _write(store: ChunkStore, variable: Variable, values: Values) -> None:
    if values.shape[0]:
        open_variable(store, variable.path)[:] = values


def _read(store: ChunkStore, variable: Variable) -> Values:
    return np.asarray(open_variable(store, variable.path)[...], dtype=variable.numpy_dtype)
