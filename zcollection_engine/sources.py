"""Granules read from where they lie: a file, an archive or a Zarr directory becomes what a collection can merge."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, Self

from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import InvalidInputError, NotFoundError
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.opening import open_granule
from zcollection_engine.identity import GranuleEntry, GranuleIdentity, precedence_of
from zcollection_engine.ingest import Arrival, LocalExecutor
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, kept_store, locate, normalised_url, split_url

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """An object that holds a granule, or announces it: the marker of a Zarr directory.

    Attributes
    ----------
    url
        Where it can be read.
    bucket, key
        Of the granule's identity.
    """

    url: str
    bucket: str
    key: str

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the source at a URL or path, named as a daemon that finds the object there would name it."""
        absolute = normalised_url(url)
        return cls(absolute, *locate(absolute))

    @classmethod
    def of(cls, entry: GranuleEntry) -> Self:
        """Return the source of a granule that is in."""
        return cls(entry.url, entry.identity.bucket, entry.identity.key)


class Condition(StrEnum):
    """Whether a granule that is in can be read again."""

    THERE = "there"
    CHANGED = "changed"
    GONE = "gone"


def read_source(source: Source, spec: GranuleSpec, options: StorageOptions | None = None) -> Arrival:
    """Fetch and read a granule. A file or archive takes one GET.

    Raises
    ------
    NotFoundError, StorageError, InvalidInputError
        As `open_granule`; `InvalidGranuleError` among the last.
    """
    opened = open_granule(source.url, spec, options)
    identity = GranuleIdentity(source.bucket, source.key, opened.info.etag, opened.info.size)
    return Arrival(opened.granule, identity, source.url, precedence_of(opened.info.modified))


def read_again(
    entry: GranuleEntry,
    spec: GranuleSpec,
    config: CollectionConfig,
    immutable: Mapping[str, str],
    options: StorageOptions | None = None,
) -> Granule:
    """Read a granule that is in again, and fit it to its collection as it is now.

    Variables that the collection got since, and that the granule lacks, get fill values as its rows did then.

    Raises
    ------
    NotFoundError
        If its source is gone, has another version by now, or does not fit any more; the message tells which.
    StorageError
        If the environment failed.
    """
    if not entry.url:
        raise NotFoundError(f"{entry.identity.key} was inserted from memory: there is nothing to read it from again")
    try:
        arrival = read_source(Source.of(entry), spec, options)
        if arrival.identity != entry.identity:
            raise NotFoundError(f"{entry.url} was written again since the granule was taken from it")
        lenient = replace(config, drift=replace(config.drift, missing="fill", new="ignore"))
        return arrival.offer(lenient, immutable).payload  # type: ignore[no-any-return]
    except InvalidInputError as error:
        raise NotFoundError(f"{entry.url} cannot be read again: {error}") from error


def condition_of(entry: GranuleEntry, options: StorageOptions | None = None) -> Condition:
    """Ask the store of a granule that is in for its source, without reading it.

    Raises
    ------
    StorageError
        If the environment failed.
    """
    if not entry.url:
        return Condition.GONE
    root, key = split_url(entry.url)
    try:
        info = kept_store(root, options or StorageOptions()).head(key)
    except NotFoundError:
        return Condition.GONE
    found = (info.etag, info.size) == (entry.identity.etag, entry.identity.size)
    return Condition.THERE if found else Condition.CHANGED


class _Collection(Protocol):
    """What is asked of a collection; its configuration is the one of the moment."""

    @property
    def url(self) -> str: ...

    @property
    def store(self) -> ObjectStore: ...

    @property
    def config(self) -> CollectionConfig: ...

    @property
    def immutable(self) -> Mapping[str, str]: ...


class SourceExecutor(LocalExecutor):
    """Runs jobs in this process, and reads granules whose rows shall come back again from their sources.

    Parameters
    ----------
    collection
        Open for writing.
    spec
        How its granules are read; None if nobody can tell, then none of them is.
    options
        How to reach their stores.
    accept_losses
        Whether to go on without rows whose source is gone; else `reread` raises `InvalidInputError`, which names them.
    """

    def __init__(
        self,
        collection: _Collection,
        spec: GranuleSpec | None,
        options: StorageOptions | None = None,
        *,
        accept_losses: bool = True,
    ) -> None:
        super().__init__(collection.store)
        self._collection = collection
        self._spec = spec
        self._options = options
        self._accept_losses = accept_losses

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Granule]:
        """Return the granules whose sources still have just their version, by id; one after another."""
        found: dict[int, Granule] = {}
        lost: list[str] = []
        for entry in entries:
            try:
                found[entry.id] = self._read_again(entry)
            except NotFoundError as error:
                _log.warning("%s: rows do not come back: %s", self._collection.url, error)
                lost.append(str(error))
        if lost and not self._accept_losses:
            raise InvalidInputError(f"{self._collection.url}: rows would be lost: {'; '.join(lost)}")
        return found

    def _read_again(self, entry: GranuleEntry) -> Granule:
        if self._spec is None:
            raise NotFoundError(f"nothing tells how {entry.identity.key} is read")
        config, immutable = self._collection.config, self._collection.immutable
        return read_again(entry, self._spec, config, immutable, self._options)
