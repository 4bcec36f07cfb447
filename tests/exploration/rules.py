"""The rules of the protocol, each to be switched off, to show that the exploration sees what it is good for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock
from uuid import UUID

from tests.exploration.world import Settings, StoreFactory
from zcollection_engine import jobs
from zcollection_engine.commits.grants import GrantCheck
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.committing import Committer
from zcollection_engine.errors import NotFoundError
from zcollection_engine.layout import chunkstore
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter
from zcollection_engine.stores.base import ObjectStore, StoredObject
from zcollection_engine.testing.processes import Disturbances
from zcollection_engine.testing.scheduled import VirtualMemoryStore

#: Long pauses that outlive grants, no other trouble.
SLEEPY = Settings(
    disturbances=Disturbances(pause=0.006, slow=0.01, longest=40.0),
    lenient=True,
    weights=dict.fromkeys(("checkpoint", "garbage", "attributes", "arrays", "reopen"), 0),
)


def _mostly(*names: str) -> Settings:
    """Sleepy schedules in which some actions are frequent."""
    return replace(SLEEPY, actions=4, weights={**SLEEPY.weights, **dict.fromkeys(names, 20)})


#: Operations that take long now and then, so that requests of several attempts are on their way at once.
SLOW = replace(SLEEPY, disturbances=Disturbances(pause=0.004, slow=0.08, longest=40.0), actions=4)

#: Pauses that outlive whole transactions of others, and their garbage collection.
COMATOSE = Settings(
    disturbances=Disturbances(pause=0.006, slow=0.01, longest=150.0),
    lenient=True,
    weights={"garbage": 8, "late": 10},
)

_CLAIMS = re.compile("is said to be|goes back|instead of|does not exist|the root group shows")


@dataclass(frozen=True)
class Rule:
    """A rule of the protocol.

    Attributes
    ----------
    off
        Context in which the engine does not keep it.
    store
        A store that does not keep it.
    settings
        Of schedules in which that shows soon.
    shows
        What the first line of the report says.
    """

    off: Callable[[], AbstractContextManager[Any]] = nullcontext
    store: StoreFactory = VirtualMemoryStore
    settings: Settings = SLEEPY
    shows: re.Pattern[str] = re.compile("holds")


class UnconditionalChunks(VirtualMemoryStore):
    """Writes chunks whatever is there."""

    def create(self, key: str, data: bytes) -> str:
        return super().create(key, data) if _is_metadata(key) else self.put(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return super().replace(key, data, etag) if _is_metadata(key) else self.put(key, data)


class UnconditionalDocuments(VirtualMemoryStore):
    """Writes documents whatever is there."""

    def create(self, key: str, data: bytes) -> str:
        return self.put(key, data) if key.endswith("zarr.json") else super().create(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self.put(key, data) if key.endswith("zarr.json") else super().replace(key, data, etag)


class HashedETags(VirtualMemoryStore):
    """ETags are hashes of the content, as those of S3."""

    def _etag(self, data: bytes) -> str:
        return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _is_metadata(key: str) -> bool:
    return key.endswith(".json") or key.rpartition("/")[2].startswith(".z")


@contextmanager
def _check_first() -> Iterator[None]:
    """Look at the log before ETags are learnt instead of behind."""
    leftovers, prefetch = jobs._PartitionMerge._leftovers, ChunkStore.prefetch

    def leftovers_behind(self: Any) -> Mapping[str, str]:
        self._writer._check()
        return leftovers(self)

    def prefetch_behind(self: Any, keys: Any) -> None:
        self._writer._check()
        prefetch(self, keys)

    def observe(self: Any, etags: Mapping[str, str]) -> None:
        self._etags.update(etags)

    def create(self: Any, key: str, data: bytes) -> str:
        self._check()
        leftover = self._present(key)
        if leftover is None:
            return str(self._objects.create(key, data))
        return str(self._objects.replace(key, data, leftover.info.etag))

    with (
        mock.patch.object(jobs._PartitionMerge, "_leftovers", leftovers_behind),
        mock.patch.object(ChunkStore, "prefetch", prefetch_behind),
        mock.patch.object(ChunkWriter, "observe", observe),
        mock.patch.object(ChunkWriter, "_create", create),
    ):
        yield


@contextmanager
def _no_fence() -> Iterator[None]:
    """Nobody looks whether a grant was taken over."""
    with (
        mock.patch.object(GrantCheck, "_judge", return_value=None),
        mock.patch.object(Committer, "_require_held", return_value=None),
    ):
        yield


def _no_grace() -> AbstractContextManager[Any]:
    return mock.patch.object(Committer, "require_space", return_value=None)


@contextmanager
def _empty_chunks_left_out() -> Iterator[None]:
    """Chunks of fill values are not written, zarr-python's default, and a missing chunk is one of fill values."""
    opened = jobs.open_variable

    def open_variable(store: ChunkStore, path: str) -> Any:
        return opened(store, path).with_config({"write_empty_chunks": False})

    async def delete(self: Any, key: str) -> None:
        etag = self._writer._etags.pop(self._full(key), None)
        if etag is not None:
            self._objects.delete(self._full(key), etag)

    async def get(self: Any, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key in self._documents:
            return prototype.buffer.from_bytes(self._documents[key])
        stored = None if key.endswith(".json") else _present(self._objects, self._full(key))
        return None if stored is None else prototype.buffer.from_bytes(stored.data)

    def prefetch(self: Any, keys: Iterable[str]) -> None:
        found = [_present(self._objects, self._full(key)) for key in keys]
        self._writer.observe({stored.info.key: stored.info.etag for stored in found if stored is not None})

    with (
        mock.patch.object(jobs, "open_variable", open_variable),
        mock.patch.object(ChunkStore, "delete", delete),
        mock.patch.object(ChunkStore, "get", get),
        mock.patch.object(ChunkStore, "prefetch", prefetch),
    ):
        yield


def _present(store: ObjectStore, key: str) -> StoredObject | None:
    try:
        return store.get(key)
    except NotFoundError:
        return None


def _late_records_count() -> AbstractContextManager[Any]:
    """Nobody looks whether the log was trimmed beyond a record that was just made."""
    return mock.patch.object(CommitLog, "_counts", return_value=True)


def _same_attempt() -> AbstractContextManager[Any]:
    frame = chunkstore.attempt_frame(UUID(int=1))
    return mock.patch.object(chunkstore, "attempt_frame", return_value=frame)


RULES: dict[str, Rule] = {
    "chunk_cas": Rule(store=UnconditionalChunks),
    "etags_first": Rule(_check_first),
    "fence": Rule(_no_fence, shows=re.compile("holds|instead of|in already")),
    "flip_cas": Rule(store=UnconditionalDocuments, shows=re.compile("goes back")),
    "grace": Rule(
        _no_grace,
        settings=replace(_mostly("late", "overlap"), grace=30.0),
        shows=re.compile("retired .* holds|plain reader"),
    ),
    "full_shape": Rule(_empty_chunks_left_out, settings=_mostly("append", "empty")),
    "void_records": Rule(_late_records_count, settings=COMATOSE, shows=_CLAIMS),
    "unique_etags": Rule(_same_attempt, store=HashedETags, settings=SLOW),
}
