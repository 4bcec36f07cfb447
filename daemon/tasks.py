"""What runs on a Dask worker: read a granule, merge a partition. Plain functions of picklable arguments.

An error of the engine is returned, not raised: it is an outcome like any other, and Dask would log it as a failed task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import ParamSpec, TypeVar

from daemon.sources.base import ObjectRef
from zcollection_engine.codecs import DEFAULT_PROFILE
from zcollection_engine.config import CollectionRef, resolve_config
from zcollection_engine.errors import EngineError, NotFoundError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.ingest import widened
from zcollection_engine.jobs import JobResult, PartitionJob, run_job
from zcollection_engine.schema import Schema
from zcollection_engine.sources import Source, read_again, read_source
from zcollection_engine.stores.resolve import StorageOptions

P = ParamSpec("P")
T = TypeVar("T")


def _returning_errors(function: Callable[P, T]) -> Callable[P, T | EngineError]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | EngineError:
        try:
            return function(*args, **kwargs)
        except EngineError as error:
            return error

    return call


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A granule to be read for a collection.

    Attributes
    ----------
    ref
        The object; its ETag and size are what the event said, the object itself decides. Of a Zarr directory it is the
        marker, which stands for the granule.
    spec
        What kind of object it is, and what to take from it.
    storage
        How to reach its store.
    """

    ref: ObjectRef
    spec: GranuleSpec
    storage: StorageOptions

    @property
    def source(self) -> Source:
        return Source(self.ref.url, self.ref.bucket, self.ref.key)


@dataclass(frozen=True, slots=True)
class Founding:
    """What the settings say about the schema of a collection to be created.

    Attributes
    ----------
    chunk_rows, codecs, provenance, zarr_format
        As for `infer_schema`.
    """

    chunk_rows: int | None = None
    codecs: str = DEFAULT_PROFILE
    provenance: bool = True
    zarr_format: int = 3


@dataclass(frozen=True, slots=True)
class ReadGranule:
    """A granule that fits its collection, in the memory of a worker."""

    entry: GranuleEntry
    granule: Granule


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a first granule says of the collection it could found."""

    schema: Schema
    granule: Granule


@_returning_errors
def read_granule(request: ReadRequest, collection: CollectionRef) -> ReadGranule | Addition:
    """Fetch a granule, check it, fit it to its collection. A file or archive takes one GET.

    The outcome may be an `Addition`: the granule brings variables that the collection is to have first, and fits then.
    It may be an `InvalidGranuleError` (it cannot be ingested, now or ever), a `NotFoundError` or a `StorageError` (it
    could not be fetched).
    """
    stored = resolve_config(collection)
    arrival = read_source(request.source, request.spec, request.storage)
    config = widened(stored.config, [arrival.granule])
    offer = arrival.offer(config, stored.immutable)
    return Addition.between(stored.config.schema, config.schema) or ReadGranule(offer.entry, offer.payload)


@_returning_errors
def reread_granule(
    entry: GranuleEntry, spec: GranuleSpec, storage: StorageOptions, collection: CollectionRef
) -> ReadGranule:
    """Read a granule that is in again, see `zcollection_engine.sources.read_again`."""
    stored = resolve_config(collection)
    return ReadGranule(entry, read_again(entry, spec, stored.config, stored.immutable, storage))


def entry_of(read: ReadGranule | Addition | EngineError) -> GranuleEntry | Addition | EngineError:
    """The small part of an outcome that travels to the daemon."""
    return read.entry if isinstance(read, ReadGranule) else read


@_returning_errors
def propose(request: ReadRequest, founding: Founding) -> Proposal:
    """Read a granule and infer the schema of the collection it could found."""
    granule = read_source(request.source, request.spec, request.storage).granule
    schema = infer_schema(
        granule,
        chunk_rows=founding.chunk_rows,
        provenance=founding.provenance,
        codecs=founding.codecs,
        zarr_format=founding.zarr_format,
    )
    fixed = {v.path: granule.variables[v.path] for v in schema.immutable_variables}
    axis = granule.variables[granule.axis]
    return Proposal(schema, replace(granule, variables={**fixed, granule.axis: axis}))


@_returning_errors
def merge_partition(job: PartitionJob, reads: Sequence[ReadGranule | Addition | EngineError]) -> JobResult:
    """Run one job of a transaction.

    The outcome may be a `NotFoundError`: a read that was repeated, since its worker died, met another version.
    """
    granules = [_granule(read, identity) for read, identity in zip(reads, job.inserted, strict=True)]
    return run_job(job, granules)


def _granule(read: ReadGranule | Addition | EngineError, identity: int) -> Granule:
    if isinstance(read, EngineError):
        raise read
    if isinstance(read, Addition) or read.entry.id != identity:
        name = read.granule.name if isinstance(read, ReadGranule) else f"granule {identity}"
        raise NotFoundError(f"{name} was overwritten while it waited to be merged; it will be read again")
    return read.granule
