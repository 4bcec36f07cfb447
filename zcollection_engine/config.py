"""What was decided about a collection when it was created, and the file that tells it to readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import FORMAT_VERSION, Creation
from zcollection_engine.errors import FormatError
from zcollection_engine.merging import Strategy, strategy_from_json
from zcollection_engine.partitioning import Partitioning, partitioning_from_json
from zcollection_engine.schema import Schema
from zcollection_engine.schema_json import schema_from_json, schema_to_json
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store

CONFIG_KEY = "_zcollection.json"


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """A collection's schema, partitioning and merge strategy."""

    schema: Schema
    partitioning: Partitioning
    strategy: Strategy

    def to_json(self) -> dict[str, Any]:
        """The content of ``_zcollection.json``; members that zcollection knows keep its names."""
        return {
            "format_version": FORMAT_VERSION,
            "axis": self.schema.dimension,
            "partitioning": {**self.partitioning.to_json(), "dimension": self.schema.dimension},
            "catalog": {"enabled": False},
            "merge": self.strategy.to_json(),
            "schema": schema_to_json(self.schema),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, name: str) -> CollectionConfig:
        """Read a configuration; raises `FormatError`, which names ``name``."""
        version = data.get("format_version", 0)
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{name} has format version {version}; this zcollectiond reads up to {FORMAT_VERSION}: use a newer one"
            )
        try:
            return cls(
                schema_from_json(data["schema"]),
                partitioning_from_json(data["partitioning"]),
                strategy_from_json(data["merge"]),
            )
        except (KeyError, TypeError, FormatError) as error:
            raise FormatError(f"{name} is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class CollectionRef:
    """How another process finds a collection.

    Attributes
    ----------
    url
        Root of the collection.
    options
        How to reach its store.
    creation
        Transaction that created it, so that a collection made anew under the same URL is told from the old one.
    """

    url: str
    options: StorageOptions
    creation: str


@lru_cache(maxsize=64)
def resolve_store(url: str, options: StorageOptions) -> ObjectStore:
    """Return a collection's store, kept open by this process."""
    return open_store(url, options)


@lru_cache(maxsize=64)
def resolve_config(ref: CollectionRef) -> tuple[CollectionConfig, Creation]:
    """Read a collection's configuration from its log, once in a process."""
    creation = CommitLog(resolve_store(ref.url, ref.options)).read(0)
    if not isinstance(creation, Creation) or creation.transaction != ref.creation:
        raise FormatError(f"{ref.url}: the collection was made anew since this job was planned")
    return CollectionConfig.from_json(creation.config, name=f"{ref.url}/{CONFIG_KEY}"), creation


def config_bytes(creation: Creation) -> bytes:
    """The bytes of ``_zcollection.json``."""
    return json.dumps(creation.config, indent=2, ensure_ascii=False, allow_nan=False).encode()
