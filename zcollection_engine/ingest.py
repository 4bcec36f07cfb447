"""From a granule to an offer: fit it to the schema, say what it has in each partition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError, SchemaMismatchError
from zcollection_engine.granules.additions import find_addition
from zcollection_engine.granules.conform import conform, immutable_digest
from zcollection_engine.granules.drift import DEFAULT_POLICY, DriftPolicy, remedy
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.jobs import JobResult, PartitionJob, run_job
from zcollection_engine.merging import Share
from zcollection_engine.schema import PROVENANCE, TIME_CALENDAR, TIME_UNITS, Schema
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.transaction import Offer

#: Whole days from 1970 that int64 nanoseconds can hold, in both directions.
_MOST_DAYS = np.iinfo(np.int64).max // (86_400 * 10**9) - 1


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
    identity, url
        For the ledger.
    precedence
        What decides where the collection's rule leaves it open: the time of the object, see `precedence_of`.
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
    required = (*config.partitioning.variables, *config.strategy.columns)
    fitted = conform(granule, config.schema, config.drift, required=required)
    if config.drift.immutable != "keep":
        _compare_immutable(fitted, config.schema, immutable)
    axis = fitted.variables[config.schema.axis].values
    split = config.partitioning.split({p: fitted.variables[p].values for p in config.partitioning.variables})
    shares = {path: Share(len(rows), config.strategy.intervals(axis[rows])) for path, rows in split.items()}
    ruled = config.precedence.of(identity.key, granule.attributes)
    return GranuleEntry(identity, url, (*ruled, *precedence), shares), fitted


@dataclass(frozen=True, slots=True)
class Arrival:
    """A granule as read, and what the ledger will say of it.

    Attributes
    ----------
    granule
        Not fitted to any collection.
    identity, url, precedence
        See `prepare`.
    """

    granule: Granule
    identity: GranuleIdentity
    url: str
    precedence: tuple[int, ...]

    def offer(self, config: CollectionConfig, immutable: Mapping[str, str]) -> Offer:
        """Fit the granule to a collection; its payload is the granule. Raises what `prepare` raises."""
        entry, fitted = prepare(
            self.granule,
            config,
            identity=self.identity,
            url=self.url,
            precedence=self.precedence,
            immutable=immutable,
        )
        return Offer(entry, fitted)


def widened(config: CollectionConfig, granules: Iterable[Granule]) -> CollectionConfig:
    """Return a configuration that also has the variables that granules bring, if it is to take in new ones.

    Returns
    -------
    CollectionConfig
        The very same if there is nothing to add. A variable that was dropped stays out.

    Raises
    ------
    SchemaMismatchError
        As `find_addition`.
    """
    if config.drift.new != "add":
        return config
    schema = config.schema
    for granule in granules:
        addition = find_addition(granule, schema, dropped=config.retired)
        schema = addition.to(schema) if addition else schema
    return config if schema is config.schema else replace(config, schema=schema)


def granule_from_dataset(
    dataset: xr.Dataset | xr.DataTree, schema: Schema, *, name: str, drift: DriftPolicy = DEFAULT_POLICY
) -> Granule:
    """Take the schema's variables from a dataset in memory or on Dask, and new ones unless the policy ignores them.

    Times (datetime64) become int64 nanoseconds since 1970-01-01. Values that xarray has decoded are packed again as
    their ``encoding`` says. Units that the dataset does not tell are taken to be the collection's.

    Raises
    ------
    InvalidGranuleError
        If the axis is missing or a time is not finite.
    """
    variables = {}
    for path, array in _arrays(dataset):
        if _is_wanted(path, array, schema, drift):
            found = _variable(array, name=name, path=path)
            known = schema[path].attributes if path in schema.by_path else {}
            silent = {k: known[k] for k in ("units",) if k in known and k not in found.attributes}
            variables[path] = replace(found, attributes={**silent, **found.attributes})
    return _granule(variables, schema.axis, dataset, name=name)


def schema_of(dataset: xr.Dataset | xr.DataTree, axis: str, *, chunk_rows: int | None = None) -> Schema:
    """Derive a schema from a dataset: its variables, and the row variable ``granule``.

    Parameters
    ----------
    dataset
        A typical one; its number of rows decides on the chunks unless ``chunk_rows`` does.
    axis
        Path of the variable that orders the rows; it has one dimension, along which the collection is partitioned.
    chunk_rows
        Rows in a chunk.

    Raises
    ------
    InvalidGranuleError
        If the axis is missing or has not just one dimension.
    """
    name = "the dataset"
    variables = {path: _variable(array, name=name, path=path) for path, array in _arrays(dataset)}
    return infer_schema(_granule(variables, axis, dataset, name=name), chunk_rows=chunk_rows)


class LocalExecutor:
    """Runs the jobs one after another in this process; payloads are granules."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Granule]) -> list[JobResult]:
        return [run_job(job, [payloads[i] for i in job.inserted], self._store) for job in jobs]

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Granule]:
        """A dataset that was inserted has no source to be read again from."""
        return {}


def _arrays(dataset: xr.Dataset | xr.DataTree) -> Iterator[tuple[str, xr.Variable]]:
    if isinstance(dataset, xr.DataTree):
        nodes = [(node.path.strip("/"), node.to_dataset(inherit=False)) for node in dataset.subtree]
    else:
        nodes = [("", dataset)]
    for group, node in nodes:
        for label, array in node.variables.items():
            yield (f"{group}/{label}" if group else str(label)), array


def _is_wanted(path: str, array: xr.Variable, schema: Schema, drift: DriftPolicy) -> bool:
    if path == PROVENANCE or path in schema.by_path:
        return path != PROVENANCE
    return drift.new == "reject" or (drift.new == "add" and schema.dimension in array.dims)


def _granule(
    variables: Mapping[str, GranuleVariable], axis: str, dataset: xr.Dataset | xr.DataTree, *, name: str
) -> Granule:
    if axis not in variables:
        raise InvalidGranuleError(f"{name}: the axis {axis!r} is missing; there are {', '.join(sorted(variables))}")
    dimensions = variables[axis].dimensions
    if len(dimensions) != 1:
        raise InvalidGranuleError(f"{name}: the axis {axis!r} must have one dimension, it has {dimensions}")
    return Granule(name, axis, dimensions[0], variables, {str(k): v for k, v in dataset.attrs.items()})


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
    """Convert times. What cannot be held is looked for first: older numpy wraps around silently, newer raises."""
    if values.dtype != np.dtype("datetime64[ns]"):
        days = values.astype("datetime64[D]").astype(np.int64)
        lost = values[np.abs(days) > _MOST_DAYS]
        if lost.size:
            raise InvalidGranuleError(
                f"{name}: variable {path!r} holds {lost.flat[0]}, which int64 nanoseconds since 1970 cannot hold"
            )
    return values.astype("datetime64[ns]").astype(np.int64)


def _compare_immutable(granule: Granule, schema: Schema, expected: Mapping[str, str]) -> None:
    found = immutable_digest(granule, schema)
    for path, digest in expected.items():
        if found.get(path) != digest:
            raise SchemaMismatchError(
                f"{granule.name}: variable {path!r} has no {schema.dimension!r} dimension, so it is stored once for the"
                f" collection, and its values differ from those stored; exclude it, or ingest into another collection;"
                f" {remedy('immutable')}",
                variable=path,
            )
