"""Create a collection: one record decides, then the files that are written once are published."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from zcollection_engine.clock import Clock
from zcollection_engine.commits.log import CommitLog, NumberTakenError
from zcollection_engine.commits.records import Creation
from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import ConflictError, InvalidInputError
from zcollection_engine.granules.conform import immutable_digest
from zcollection_engine.granules.model import Granule
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, open_variable
from zcollection_engine.layout.documents import Version, render
from zcollection_engine.publication import STAGED
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore


def create(store: ObjectStore, config: CollectionConfig, *, immutable: Granule | None, clock: Clock) -> Creation:
    """Create the first record of a collection.

    Values of variables without the partitioned dimension are staged before the record names them, so that anyone can
    publish them once it exists.

    Raises
    ------
    ConflictError
        If there is a collection already.
    InvalidInputError
        If immutable values are missing.
    """
    _check(config)
    transaction = uuid.uuid4()
    digests: Mapping[str, str] = {}
    if config.schema.immutable_variables:
        if immutable is None:
            names = ", ".join(v.path for v in config.schema.immutable_variables)
            raise InvalidInputError(f"the values of {names} are needed to create the collection: pass immutable=")
        _stage(store, config.schema, immutable, transaction)
        digests = immutable_digest(immutable, config.schema)
    creation = Creation(transaction.hex, clock.now(), config.to_json(), digests)
    try:
        CommitLog(store, clock).append(0, creation)
    except NumberTakenError as error:
        raise ConflictError(f"{store.url}: there is a collection already; open it, or choose another URL") from error
    store.flush()
    return creation


def _check(config: CollectionConfig) -> None:
    for name in config.partitioning.variables:
        variable = config.schema[name]
        if variable.dimensions != (config.schema.dimension,):
            raise InvalidInputError(
                f"variable {name!r} has dimensions {variable.dimensions}; a collection is partitioned by variables of"
                f" the one dimension {config.schema.dimension!r}"
            )
    if not config.schema.keeps_provenance:
        raise InvalidInputError("the schema lacks the row variable 'granule' (uint64): infer_schema adds it")


def _stage(store: ObjectStore, schema: Schema, granule: Granule, transaction: uuid.UUID) -> None:
    documents = render(schema, Version(0, 0, 0), immutable=True)
    writer = ChunkWriter(store, transaction, lambda: None)
    target = ChunkStore(store, f"{STAGED}/{transaction.hex}", documents, writer)
    for variable in schema.immutable_variables:
        array = open_variable(target, variable.path)
        array[...] = granule.variables[variable.path].values
