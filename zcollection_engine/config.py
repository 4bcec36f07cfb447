"""What was decided about a collection when it was created, and the file that tells it to readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from zcollection_engine import zcollection1
from zcollection_engine.commits.log import FOLDER
from zcollection_engine.commits.records import FORMAT_VERSION, dump, parse
from zcollection_engine.errors import FormatError, NotFoundError
from zcollection_engine.granules.drift import DriftPolicy, policy_from_json
from zcollection_engine.merging import Strategy, strategy_from_json
from zcollection_engine.partitioning import Partitioning, partitioning_from_json
from zcollection_engine.precedence import ByTime, Precedence, precedence_from_json
from zcollection_engine.schema import Schema
from zcollection_engine.schema_json import schema_from_json, schema_to_json
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.zcollection1 import dump_zcollection, to_zcollection

CONFIG_KEY = "_zcollection.json"
CONFIGS = f"{FOLDER}configs/"


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """What was decided about a collection.

    Attributes
    ----------
    schema
        Its variables.
    partitioning
        Which partition a row belongs to.
    strategy
        Which rows stay where granules meet.
    precedence
        Which of two granules wins.
    drift
        What becomes of granules that depart from the schema.
    retired
        Paths of variables that there were once and that are no longer: their chunks may still lie there.
    imported
        Name of what is kept of the tree that the collection was made of, see `zcollection_engine.foreign`; None for a
        collection of our own.
    """

    schema: Schema
    partitioning: Partitioning
    strategy: Strategy
    precedence: Precedence = field(default_factory=ByTime)
    drift: DriftPolicy = field(default_factory=DriftPolicy)
    retired: tuple[str, ...] = ()
    imported: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of ``_zcollection.json``; members that zcollection knows keep its names."""
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "axis": self.schema.dimension,
            "partitioning": {**self.partitioning.to_json(), "dimension": self.schema.dimension},
            "catalog": {"enabled": False},
            "merge": self.strategy.to_json(),
            "schema": schema_to_json(self.schema),
        }
        # What is as it was before it could be chosen is left out: collections written then keep their very bytes.
        if self.precedence != ByTime():
            body["precedence"] = self.precedence.to_json()
        if self.drift != DriftPolicy():
            body["drift"] = self.drift.to_json()
        if self.retired:
            body["retired"] = list(self.retired)
        if self.imported is not None:
            body["imported"] = self.imported
        return body

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
                precedence_from_json(data.get("precedence")),
                policy_from_json(data.get("drift", {})),
                tuple(data.get("retired", ())),
                data.get("imported"),
            )
        except (KeyError, TypeError, FormatError) as error:
            raise FormatError(f"{name} is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """A version of a collection's configuration, as stored beside the log under the id of the transaction that made it.

    Attributes
    ----------
    config
        Schema, partitioning, merge strategy.
    immutable
        SHA-256 of each variable without the partitioned dimension.
    """

    config: CollectionConfig
    immutable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CollectionRef:
    """How another process finds a collection.

    Attributes
    ----------
    url
        Root of the collection.
    options
        How to reach its store.
    config
        Name of the configuration in force; one made anew under the same URL has another.
    """

    url: str
    options: StorageOptions
    config: str


def config_key(name: str) -> str:
    """Key of a version of the configuration."""
    return f"{CONFIGS}{name}.json"


def store_config(store: ObjectStore, name: str, stored: StoredConfig) -> None:
    """Write a version of the configuration, before a record of the log names it."""
    body = {"format_version": FORMAT_VERSION, "immutable": dict(stored.immutable), "config": stored.config.to_json()}
    store.create(config_key(name), dump(body))


def load_config(store: ObjectStore, name: str) -> StoredConfig:
    """Read a version of the configuration; raises `FormatError`."""
    key = config_key(name)
    place = f"{store.url}/{key}"
    try:
        data = store.get(key).data
    except NotFoundError as error:
        raise FormatError(f"{place} is missing; the commit log names it") from error
    body = parse(data, name=place)
    try:
        return StoredConfig(CollectionConfig.from_json(body["config"], name=place), body["immutable"])
    except KeyError as error:
        raise FormatError(f"{place} is damaged: {error} is missing") from error


@lru_cache(maxsize=64)
def resolve_store(url: str, options: StorageOptions) -> ObjectStore:
    """Return a collection's store, kept open by this process."""
    return open_store(url, options)


#: Versions of configurations that this process has read, by their names, which are unique.
_CONFIGS: dict[str, StoredConfig] = {}
_MOST_CONFIGS = 64


def resolve_config(ref: CollectionRef, store: ObjectStore | None = None) -> StoredConfig:
    """Read the configuration a reference names, once in a process; through the collection's store if it is open."""
    found = _CONFIGS.get(ref.config)
    if found is None:
        found = load_config(store or resolve_store(ref.url, ref.options), ref.config)
        if len(_CONFIGS) >= _MOST_CONFIGS:
            _CONFIGS.clear()
        _CONFIGS[ref.config] = found
    return found


def config_document(config: CollectionConfig, commit: int) -> tuple[str, bytes]:
    """Key and bytes of the file that tells readers of the configuration, as of a commit."""
    if config.schema.zarr_format == 2:
        told = to_zcollection(config.schema, config.partitioning.to_json(), commit=commit)
        return zcollection1.CONFIG_KEY, dump_zcollection(told)
    body = {**config.to_json(), "commit": commit}
    return CONFIG_KEY, json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False).encode()
