"""One configured collection: opened, or founded by its first good granule."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial

import structlog

from daemon.compute import DaskCompute, DaskExecutor
from daemon.errors import SettingsError
from daemon.rules import drift_of, partitioning_of, precedence_of, strategy_of
from daemon.settings_data import CollectionSettings
from daemon.sources.base import ObjectRef
from daemon.tasks import Founding, ReadRequest
from zcollection_engine import (
    Collection,
    StorageOptions,
    WriterOptions,
    create_collection,
    open_collection,
)
from zcollection_engine.errors import BusyError, ConflictError, InvalidInputError, NotFoundError, SchemaMismatchError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.schema import PROVENANCE, Schema
from zcollection_engine.schema_json import load_schema_file
from zcollection_engine.stores.resolve import open_store, split_url

_log = structlog.get_logger(__name__)


class Target:
    """A collection as the daemon writes it.

    Parameters
    ----------
    settings
        The collection's section.
    storage
        How to reach S3.
    owner
        The daemon's stable name.
    """

    def __init__(self, settings: CollectionSettings, storage: StorageOptions, *, owner: str) -> None:
        self.settings = settings
        self.spec: GranuleSpec = settings.granule_spec
        self._storage = storage
        self._writer = WriterOptions(
            owner=owner,
            grant_seconds=settings.grant_ttl_seconds,
            reader_grace=timedelta(seconds=settings.reader_grace_seconds),
            eager_arrays=False,
            single_writer=settings.single_writer,
            block_nbytes=settings.rewrite_memory_mb * 1_000_000,
        )
        self._schema = _schema_of(settings)
        self._collection: Collection | None = None
        self._founding = asyncio.Lock()
        self._adding = asyncio.Lock()

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def collection(self) -> Collection | None:
        """The open collection; None before the first granule of one that does not exist yet."""
        return self._collection

    async def open(self) -> None:
        """Open the collection if it exists, completing what a crash left; create it if a schema file says all of it.

        Raises
        ------
        SettingsError
            If the collection was created with another axis, partitioning or merge strategy.
        """
        try:
            await self._open()
        except NotFoundError:
            if self._schema is None or self._schema.immutable_variables:
                _log.info("collection will be created from its first good granule", collection=self.name)
                return
            await self._create(self._schema, None)

    async def require(self, compute: DaskCompute, ref: ObjectRef) -> Collection:
        """Return the open collection; found it on this granule if there is none.

        Raises what reading the granule raises: then the next granule may try.
        """
        async with self._founding:
            if self._collection is not None:
                return self._collection
            proposal = await compute.propose(self.request(ref), _founding(self.settings))
            _log.info("creating the collection", collection=self.name, url=self.settings.url, granule=ref.key)
            return await self._create(self._schema or proposal.schema, proposal.granule)

    async def add(self, addition: Addition, ref: ObjectRef) -> None:
        """Add variables that a granule brings to the open collection; returns when it has them, whoever added them.

        Raises
        ------
        SchemaMismatchError
            If the collection cannot have them.
        BusyError
            If another writer holds a partition.
        """
        collection = self._collection
        if collection is None:
            raise RuntimeError(f"{self.name}: variables are added before the collection was opened")
        async with self._adding:
            missing = [v.path for v in addition.variables if v.path not in collection.schema.by_path]
            if not missing:
                return
            add = partial(collection.require_variables, addition.variables, addition.dimensions, timeout=0)
            try:
                await asyncio.to_thread(add)
            except InvalidInputError as error:
                raise SchemaMismatchError(f"{ref.key}: {error}", granule=ref.key, variable=missing[0]) from error
            _log.info("added variables", collection=self.name, variables=missing, granule=ref.key)

    def request(self, ref: ObjectRef) -> ReadRequest:
        return ReadRequest(ref, self.spec, self._storage)

    async def is_current(self, url: str, etag: str) -> bool:
        """Ask the store whether the object at ``url`` has this ETag now; raises `NotFoundError` if it is gone."""
        root, key = split_url(url)
        info = await asyncio.to_thread(open_store(root, self._storage).head, key)
        return info.etag == etag

    def executor(self, compute: DaskCompute, collection: Collection) -> DaskExecutor:
        return compute.executor(collection.ref, self.spec, self._storage)

    async def publish_arrays(self) -> None:
        """Bring the documents of single arrays up to date."""
        if self._collection is not None:
            await asyncio.to_thread(self._collection.publish_arrays)

    async def _create(self, schema: Schema, immutable: Granule | None) -> Collection:
        try:
            collection = await asyncio.to_thread(
                create_collection,
                self.settings.url,
                schema,
                partitioning_of(self.settings),
                strategy=strategy_of(self.settings),
                precedence=precedence_of(self.settings),
                drift=drift_of(self.settings),
                immutable=immutable,
                storage=self._storage,
                writer=self._writer,
            )
        except ConflictError:
            # Another daemon founded it at the same time; its decision stands.
            return await self._open()
        self._collection = collection
        return collection

    async def _open(self) -> Collection:
        collection = await asyncio.to_thread(
            open_collection, self.settings.url, mode="w", storage=self._storage, writer=self._writer
        )
        config = collection.config
        found = {
            "axis": config.schema.axis,
            "partitioning": config.partitioning.to_json(),
            "merge": config.strategy.to_json(),
            "precedence": config.precedence.to_json(),
            "provenance": config.schema.keeps_provenance,
            "zarr_format": config.schema.zarr_format,
        }
        wanted = {
            "axis": self.settings.axis,
            "partitioning": partitioning_of(self.settings).to_json(),
            "merge": strategy_of(self.settings).bound(config.schema).to_json(),
            "precedence": precedence_of(self.settings).to_json(),
            "provenance": self.settings.provenance,
            "zarr_format": self.settings.zarr_format or config.schema.zarr_format,
        }
        problems = [
            f"collections.{self.name}.{key}: {wanted[key]}, but {self.settings.url} was created with {found[key]};"
            " change the settings back, or name another url"
            for key in found
            if found[key] != wanted[key]
        ]
        if problems:
            raise SettingsError(*problems)
        await asyncio.to_thread(self._follow_settings, collection)
        await asyncio.to_thread(collection.state.ledger.warm)
        self._collection = collection
        return collection

    def _follow_settings(self, collection: Collection) -> None:
        """Give the collection the drift policy of the settings, the one rule that may change later."""
        drift = drift_of(self.settings)
        if collection.config.drift == drift:
            return
        _log.info("the drift policy changes", collection=self.name, policy=drift.to_json())
        try:
            collection.set_drift(drift, timeout=self.settings.grant_ttl_seconds)
        except BusyError as error:
            reason = f"{error}; the next start tries again"
            _log.warning("the drift policy stays as it was", collection=self.name, reason=reason)
        except InvalidInputError:
            if collection.refresh().config.drift != drift:
                raise


def _founding(settings: CollectionSettings) -> Founding:
    return Founding(settings.chunk_rows, settings.codecs, settings.provenance, settings.zarr_format or 3)


def _schema_of(settings: CollectionSettings) -> Schema | None:
    """Read the schema file, if there is one; what the settings say of the whole collection holds for it too."""
    if settings.schema_file is None:
        return None
    schema = load_schema_file(settings.schema_file, codecs=settings.codecs, zarr_format=settings.zarr_format)
    if settings.provenance and not schema.keeps_provenance:
        raise SettingsError(
            f"collections.{settings.name}.provenance: true, but {settings.schema_file} has provenance = false; set it"
            " to false here too, or take it out there"
        )
    if settings.provenance:
        return schema
    return replace(schema, variables=tuple(v for v in schema.variables if v.path != PROVENANCE))
