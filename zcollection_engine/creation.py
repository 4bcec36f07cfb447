"""Create a collection: one record decides, then the files that are written once are published."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from zcollection_engine.clock import Clock
from zcollection_engine.codecs import check_codecs
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.log import CommitLog, LogTrimmedError, NumberTakenError
from zcollection_engine.commits.records import Creation
from zcollection_engine.config import CollectionConfig, StoredConfig, store_config
from zcollection_engine.errors import ConflictError, InvalidInputError
from zcollection_engine.granules.conform import immutable_digest
from zcollection_engine.granules.model import Granule
from zcollection_engine.layout.chunkstore import ChunkWriter, open_variable
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.partitionstore import immutable_store
from zcollection_engine.layout.v2documents import check_v2
from zcollection_engine.partitioning import DatePartitioning, Partitioning
from zcollection_engine.publication import STAGED
from zcollection_engine.schema import PROVENANCE, TIME_UNITS, Schema, Variable
from zcollection_engine.stores.base import ObjectStore

_PRESENT = "{}: there is a collection already; open it, or choose another URL"


def create(store: ObjectStore, config: CollectionConfig, *, immutable: Granule | None, clock: Clock) -> Creation:
    """Create the first record of a collection.

    The configuration and the values of variables without the partitioned dimension are staged before the record names
    them, so that anyone can publish them once it exists.

    Raises
    ------
    ConflictError
        If there is a collection already.
    InvalidInputError
        If immutable values are missing.
    """
    check_config(config)
    _check_immutable(config.schema, immutable)
    transaction = uuid.uuid4()
    digests: Mapping[str, str] = {}
    if immutable is not None and config.schema.immutable_variables:
        _stage(store, config.schema, immutable, transaction)
        digests = immutable_digest(immutable, config.schema)
    store_config(store, transaction.hex, StoredConfig(config, digests))
    creation = Creation(transaction.hex, clock.now())
    try:
        CommitLog(store, clock).append(0, creation)
    except (NumberTakenError, LogTrimmedError) as error:
        raise ConflictError(_PRESENT.format(store.url)) from error
    store.flush()
    return creation


def require_absent(store: ObjectStore) -> None:
    """Raise `ConflictError` if there is a collection."""
    if CommitLog(store).is_intact(0) or Checkpoints(store).numbers():
        raise ConflictError(_PRESENT.format(store.url))


def check_config(config: CollectionConfig) -> None:
    """Raise `InvalidInputError` if schema and partitioning do not fit each other or the format."""
    check_codecs(config.schema)
    if config.schema.zarr_format == 2:
        check_v2(config.schema)
    for name in config.partitioning.variables:
        variable = config.schema.by_path.get(name)
        if variable is None:
            raise InvalidInputError(f"a collection cannot be partitioned by {name!r}: its schema lacks that variable")
        if variable.dimensions != (config.schema.dimension,):
            raise InvalidInputError(
                f"variable {name!r} has dimensions {variable.dimensions}; a collection is partitioned by variables of"
                f" the one dimension {config.schema.dimension!r}"
            )
        _check_type(config.partitioning, variable)
    if config.schema.keeps_provenance and not _is_provenance(config.schema):
        raise InvalidInputError(f"variable {PROVENANCE!r} is kept for the origin of each row; call yours otherwise")


def _is_provenance(schema: Schema) -> bool:
    variable = schema[PROVENANCE]
    return (variable.dtype, variable.dimensions) == ("<u8", (schema.dimension,))


def _check_type(partitioning: Partitioning, variable: Variable) -> None:
    if isinstance(partitioning, DatePartitioning):
        if variable.dtype != "<i8" or variable.attributes.get("units") != TIME_UNITS:
            raise InvalidInputError(
                f"variable {variable.path!r} ({variable.dtype}, units {variable.attributes.get('units')!r}) is no time;"
                f" a partitioning by date needs int64 {TIME_UNITS!r}"
            )
    elif variable.numpy_dtype.kind not in "iu":
        raise InvalidInputError(
            f"variable {variable.path!r} has dtype {variable.dtype}; a partitioning by sequence needs integers"
        )


def _check_immutable(schema: Schema, granule: Granule | None) -> None:
    for variable in schema.immutable_variables:
        found = granule.variables.get(variable.path) if granule is not None else None
        if found is None:
            raise InvalidInputError(
                f"the values of {variable.path!r} are needed to create the collection: pass immutable="
            )
        shape = tuple(schema.sizes[d] for d in variable.dimensions)
        if found.values.shape != shape:
            raise InvalidInputError(f"variable {variable.path!r} has shape {found.values.shape}, not {shape}")


def _stage(store: ObjectStore, schema: Schema, granule: Granule, transaction: uuid.UUID) -> None:
    writer = ChunkWriter(store, transaction, lambda: None, seal=format_of(schema).seal)
    target = immutable_store(store, schema, path=f"{STAGED}/{transaction.hex}", writer=writer)
    for variable in schema.immutable_variables:
        array = open_variable(target, variable.path)
        array[...] = granule.variables[variable.path].values
