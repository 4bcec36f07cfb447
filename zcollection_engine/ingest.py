"""From a granule to an offer: fit it to the schema, say what it has in each partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError, SchemaMismatchError
from zcollection_engine.granules.conform import conform, immutable_digest
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.jobs import JobResult, PartitionJob, run_job
from zcollection_engine.merging import Share
from zcollection_engine.schema import PROVENANCE, TIME_CALENDAR, TIME_UNITS, Schema
from zcollection_engine.stores.base import ObjectStore


def prepare(
    granule: Granule,
    config: CollectionConfig,
    *,
    identity: GranuleIdentity,
    url: str,
    precedence: tuple[int, ...],
    immutable: Mapping[str, str],
) -> tuple[GranuleEntry, Granule]:
    """Fit a granule to a collection.

    Parameters
    ----------
    granule
        As read.
    config
        Of the collection.
    identity, url, precedence
        For the ledger.
    immutable
        SHA-256 of the collection's variables without the partitioned dimension; the granule must have the same values.

    Returns
    -------
    GranuleEntry
        With the granule's share in every partition.
    Granule
        With the schema's variables in the schema's types.

    Raises
    ------
    EmptyGranuleError
        If it has no rows.
    SchemaMismatchError
        If it does not fit the schema.
    """
    if granule.rows == 0:
        raise EmptyGranuleError(f"{granule.name}: no rows along {granule.dimension!r}")
    fitted = conform(granule, config.schema)
    _compare_immutable(fitted, config.schema, immutable)
    axis = fitted.variables[config.schema.axis].values
    split = config.partitioning.split({p: fitted.variables[p].values for p in config.partitioning.variables})
    shares = {path: Share(len(rows), config.strategy.intervals(axis[rows])) for path, rows in split.items()}
    return GranuleEntry(identity, url, precedence, shares), fitted


def granule_from_dataset(dataset: xr.Dataset | xr.DataTree, schema: Schema, *, name: str) -> Granule:
    """Take a granule from a dataset in memory or on Dask.

    Times (datetime64) become int64 nanoseconds since 1970-01-01; other values are taken as they are, or, if the schema
    has them packed and the dataset decoded, with the dataset's packing (``encoding``).

    Raises
    ------
    InvalidGranuleError
        If the axis is missing or a time is not finite.
    """
    variables: dict[str, GranuleVariable] = {}
    for group, node in _nodes(dataset):
        for label, array in node.variables.items():
            path = f"{group}/{label}" if group else str(label)
            if path in schema.by_path and path != PROVENANCE:
                variables[path] = _variable(array, name=name, path=path)
    if schema.axis not in variables:
        raise InvalidGranuleError(f"{name}: the axis {schema.axis!r} is missing; there are {sorted(variables)}")
    return Granule(name, schema.axis, schema.dimension, variables, {str(k): v for k, v in dataset.attrs.items()})


class LocalExecutor:
    """Runs the jobs one after another in this process; payloads are granules."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Granule]) -> list[JobResult]:
        return [run_job(job, [payloads[i] for i in job.inserted], self._store) for job in jobs]

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Granule]:
        """A dataset that was inserted has no source to be read again from."""
        return {}


def _nodes(dataset: xr.Dataset | xr.DataTree) -> list[tuple[str, xr.Dataset]]:
    if isinstance(dataset, xr.DataTree):
        return [(node.path.strip("/"), node.to_dataset(inherit=False)) for node in dataset.subtree]
    return [("", dataset)]


def _variable(array: xr.Variable, *, name: str, path: str) -> GranuleVariable:
    if array.dtype.kind in "mM" and np.isnat(array.values).any():
        raise InvalidGranuleError(f"{name}: variable {path!r} has times that are not a time (NaT); drop those rows")
    attributes, encoding = dict(array.attrs), array.encoding
    dimensions = tuple(str(d) for d in array.dims)
    if array.dtype.kind == "M":
        attributes |= {"units": TIME_UNITS, "calendar": TIME_CALENDAR}
        return GranuleVariable(dimensions, _nanoseconds(array.values, name=name, path=path), attributes)
    if "scale_factor" in encoding or "add_offset" in encoding:
        array = xr.conventions.encode_cf_variable(array, name=path)
        attributes = dict(array.attrs)
    values = array.values
    if values.dtype.kind in "UT":
        values = values.astype(object)
    fill = attributes.pop("_FillValue", encoding.get("_FillValue"))
    return GranuleVariable(dimensions, values, attributes, fill.item() if isinstance(fill, np.generic) else fill)


def _nanoseconds(values: npt.NDArray[Any], *, name: str, path: str) -> npt.NDArray[np.int64]:
    times = values.astype("datetime64[ns]")
    lost = values[times.astype(values.dtype) != values]
    if lost.size:
        raise InvalidGranuleError(
            f"{name}: variable {path!r} holds {lost.flat[0]}, which int64 nanoseconds since 1970 cannot hold"
        )
    return times.astype(np.int64)


def _compare_immutable(granule: Granule, schema: Schema, expected: Mapping[str, str]) -> None:
    found = immutable_digest(granule, schema)
    for path, digest in expected.items():
        if found.get(path) != digest:
            raise SchemaMismatchError(
                f"{granule.name}: variable {path!r} has no {schema.dimension!r} dimension, so it is stored once for the"
                f" collection, and its values differ from those stored; exclude it, or ingest into another collection",
                variable=path,
            )
