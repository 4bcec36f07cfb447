"""What runs on a Dask worker: read a granule, merge a partition. Plain functions of picklable arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zcollection_engine.stores.resolve import StorageOptions, fetch

from daemon.sources.base import ObjectRef
from zcollection_engine.config import CollectionRef, resolve_config
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.identity import GranuleEntry, GranuleIdentity, precedence_of
from zcollection_engine.ingest import prepare
from zcollection_engine.jobs import JobResult, PartitionJob, run_job
from zcollection_engine.schema import Schema


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A granule to be read for a collection.

    Attributes
    ----------
    ref
        The object; its ETag and size are what the event said, the object itself decides.
    spec
        What to take from it.
    storage
        How to reach its store.
    """

    ref: ObjectRef
    spec: GranuleSpec
    storage: StorageOptions


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


def read_granule(request: ReadRequest, collection: CollectionRef) -> ReadGranule:
    """Fetch a granule by one GET, check it, fit it to its collection.

    Raises
    ------
    InvalidGranuleError
        If it cannot be ingested, now or ever.
    NotFoundError, StorageError
        If the object could not be fetched.
    """
    config, creation = resolve_config(collection)
    granule, identity, precedence = _fetch(request)
    entry, fitted = prepare(
        granule,
        config,
        identity=identity,
        url=request.ref.url,
        precedence=precedence,
        immutable=creation.immutable,
    )
    return ReadGranule(entry, fitted)


def entry_of(read: ReadGranule) -> GranuleEntry:
    """The small part of a granule that travels to the daemon."""
    return read.entry


def propose(request: ReadRequest, chunk_rows: int | None) -> Proposal:
    """Read a granule and infer the schema of the collection it could found; raises as `read_granule` does."""
    granule, _, _ = _fetch(request)
    schema = infer_schema(granule, chunk_rows=chunk_rows)
    fixed = {v.path: granule.variables[v.path] for v in schema.immutable_variables}
    axis = granule.variables[granule.axis]
    return Proposal(schema, replace(granule, variables={**fixed, granule.axis: axis}))


def merge_partition(job: PartitionJob, reads: Sequence[ReadGranule]) -> JobResult:
    """Run one job of a transaction."""
    return run_job(job, [read.granule for read in reads])


def _fetch(request: ReadRequest) -> tuple[Granule, GranuleIdentity, tuple[int, ...]]:
    ref = request.ref
    stored = fetch(ref.url, request.storage)
    identity = GranuleIdentity(ref.bucket, ref.key, stored.info.etag, stored.info.size)
    granule = read_netcdf(stored.data, request.spec, name=ref.url)
    return granule, identity, precedence_of(stored.info.modified)
