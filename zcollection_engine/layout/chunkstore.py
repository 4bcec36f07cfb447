"""A Zarr store for one partition: metadata from memory, chunks through the object store, writes conditional.

zarr-python encodes and decodes; this store decides under which condition each chunk may be written. With zstd as the
last codec every written chunk ends in a skippable frame that holds the attempt's id, so that the ETag of a chunk never
recurs although the same rows may be written twice. Source: RFC 8878, section 3.1.2, "Skippable Frames".
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Lock
from typing import Any
from uuid import UUID

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import ZarrFormat

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.errors import NotFoundError, PreconditionFailedError, ReadOnlyError, SnapshotExpiredError
from zcollection_engine.stores.base import ObjectInfo, ObjectStore, StoredObject

_FRAME_START = struct.pack("<II", 0x184D2A5E, 16)
TOMBSTONE_SIZE = 24

PARALLEL_REQUESTS = 16


def with_frame(chunk: bytes, attempt: UUID) -> bytes:
    """Return an encoded chunk with the mark of the attempt that writes it behind it."""
    return chunk + attempt_frame(attempt)


def attempt_frame(attempt: UUID) -> bytes:
    """The 24 bytes that mark a chunk as written by one attempt."""
    return _FRAME_START + attempt.bytes


def tombstone(attempt: UUID) -> bytes:
    """What garbage collection leaves of a chunk on a store that cannot delete conditionally.

    A frame without content: no reader can take it for values, and its key stays guarded by an ETag.
    """
    return attempt_frame(attempt)


def is_tombstone(chunk: bytes) -> bool:
    """Tell whether a stored chunk is what garbage collection left."""
    return len(chunk) == TOMBSTONE_SIZE and chunk.startswith(_FRAME_START)


class ChunkWriter:
    """Writes chunks so that a writer which lost its grant cannot damage anything.

    Parameters
    ----------
    objects
        The collection's store.
    attempt
        Id of the attempt; unique for each try of each job.
    check
        Raises `FencedError` when the grant was taken over. Called between learning an ETag and using it: in the other
        order a writer could learn the ETag of its successor's chunk and overwrite it.
    check_every
        Seconds after which a write calls it again, so that a long job that was fenced ends early.
    seal
        Marks an encoded chunk with the attempt.
    """

    def __init__(
        self,
        objects: ObjectStore,
        attempt: UUID,
        check: Callable[[], None],
        *,
        check_every: float = math.inf,
        clock: Clock | None = None,
        seal: Callable[[bytes, UUID], bytes] = with_frame,
    ) -> None:
        self._objects = objects
        self._attempt = attempt
        self._seal = seal
        self._granted = check
        self._check_every = check_every
        self._clock = clock or SystemClock()
        self._checked = self._clock.monotonic()
        self._etags: dict[str, str] = {}
        self._lock = Lock()

    def observe(self, etags: Mapping[str, str]) -> None:
        """Take the ETags on which writes shall depend, then check the grant."""
        with self._lock:
            self._etags.update(etags)
        self._check()

    def write(self, key: str, chunk: bytes) -> None:
        """Write one chunk: create it, or replace just the version that was observed.

        Raises
        ------
        FencedError
            If another writer took over.
        PreconditionFailedError
            If the chunk is another one than the one observed.
        """
        data = self._seal(chunk, self._attempt)
        if self._clock.monotonic() - self._checked > self._check_every:
            self._check()
        with self._lock:
            etag = self._etags.get(key)
        try:
            new = self._create(key, data) if etag is None else self._objects.replace(key, data, etag)
        except PreconditionFailedError:
            # A transparently retried request fails on its own first success.
            stored = self._present(key)
            if stored is None or stored.data != data:
                raise
            new = stored.info.etag
        with self._lock:
            self._etags[key] = new

    def _check(self) -> None:
        self._granted()
        self._checked = self._clock.monotonic()

    def _create(self, key: str, data: bytes) -> str:
        try:
            return self._objects.create(key, data)
        except PreconditionFailedError:
            leftover = self._present(key)
            if leftover is None:
                raise
            if leftover.data == data:
                return leftover.info.etag
            self._check()
            return self._objects.replace(key, data, leftover.info.etag)

    def _present(self, key: str) -> StoredObject | None:
        try:
            return self._objects.get(key)
        except NotFoundError:
            return None


class ChunkStore(Store):
    """A partition as zarr-python sees it.

    Parameters
    ----------
    objects
        The collection's store.
    prefix
        Path of the partition in it.
    documents
        Metadata documents by path in the partition; they are served from here and never written.
    writer
        Writes chunks; None for a read-only store.
    guard
        Called with every chunk that was read; raises `SnapshotExpiredError` when it may be another generation's.
    folder
        Where the chunks lie below ``prefix``, if not there.
    absent
        Keys of chunks that are known not to be there and to stand for the fill value.
    """

    supports_writes: bool = True
    supports_deletes: bool = False
    supports_listing: bool = True

    def __init__(
        self,
        objects: ObjectStore,
        prefix: str,
        documents: Mapping[str, bytes],
        writer: ChunkWriter | None = None,
        *,
        guard: Callable[[ObjectInfo], None] | None = None,
        folder: str = "",
        absent: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(read_only=writer is None)
        self._objects = objects
        self._prefix = prefix
        self._documents = dict(documents)
        self._writer = writer
        self._guard = guard
        self._folder = folder
        self._absent = absent
        self._place = "/".join(part for part in (prefix, folder) if part)
        self._fetched: dict[str, bytes] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkStore) and (self._objects.url, self._prefix, self._documents) == (
            other._objects.url,
            other._prefix,
            other._documents,
        )

    def __hash__(self) -> int:
        return hash((self._objects.url, self._prefix))

    def __str__(self) -> str:
        return f"{self._objects.url}/{self._prefix}"

    def with_read_only(self, read_only: bool = False) -> ChunkStore:
        if not read_only and self._writer is None:
            raise ReadOnlyError(f"{self} was opened for reading")
        return ChunkStore(
            self._objects,
            self._prefix,
            self._documents,
            None if read_only else self._writer,
            guard=self._guard,
            folder=self._folder,
            absent=self._absent,
        )

    @property
    def zarr_format(self) -> ZarrFormat:
        """Of the documents."""
        return 2 if ".zmetadata" in self._documents else 3

    def prefetch(self, keys: Iterable[str]) -> None:
        """Fetch the chunks that will be written partly, all before the first write, and observe their ETags."""
        if self._writer is None:
            raise ReadOnlyError(f"{self} was opened for reading")
        wanted = list(keys)
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            found = list(pool.map(lambda key: self._objects.get(self._full(key)), wanted))
        self._fetched.update({key: stored.data for key, stored in zip(wanted, found, strict=True)})
        self._writer.observe({stored.info.key: stored.info.etag for stored in found})

    def _full(self, key: str) -> str:
        return f"{self._place}/{key}" if self._place else key

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        data = self._documents.get(key)
        if data is None:
            if key.endswith((".json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")):
                return None
            if key in self._absent:
                await asyncio.to_thread(self._check_absent, key)
                return None
            fetched = self._fetched.pop(key, None)
            data = await asyncio.to_thread(self._read_chunk, key) if fetched is None else fetched
        return prototype.buffer.from_bytes(_cut(data, byte_range))

    def _check_absent(self, key: str) -> None:
        """Raise `SnapshotExpiredError` if a later generation took the place of this one."""
        if self._guard is not None:
            self._guard(ObjectInfo(self._full(key), 0, "", datetime.max.replace(tzinfo=UTC)))

    def _read_chunk(self, key: str) -> bytes:
        try:
            stored = self._objects.get(self._full(key))
        except NotFoundError as error:
            raise SnapshotExpiredError(
                f"{self}: chunk {key} is gone; the partition was rewritten since it was opened: refresh and read again",
                partition=self._prefix,
            ) from error
        if is_tombstone(stored.data):
            raise SnapshotExpiredError(
                f"{self}: chunk {key} was collected as garbage since it was opened: refresh and read again",
                partition=self._prefix,
            )
        if self._guard is not None:
            self._guard(stored.info)
        return stored.data

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        if key in self._documents:
            return True
        try:
            await asyncio.to_thread(self._objects.head, self._full(key))
        except NotFoundError:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        if self._writer is None:
            raise ReadOnlyError(f"{self} was opened for reading")
        await asyncio.to_thread(self._writer.write, self._full(key), value.to_bytes())

    async def delete(self, key: str) -> None:
        raise ReadOnlyError(f"{self}: a chunk is never deleted here ({key})")

    async def list(self) -> AsyncIterator[str]:
        for key in self._documents:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._documents:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        names = {k.removeprefix(start).split("/", 1)[0] for k in self._documents if k.startswith(start)}
        for name in sorted(names):
            yield name

    def __getstate__(self) -> dict[str, Any]:
        if self._writer is not None:
            raise ReadOnlyError(f"{self}: a store that writes stays in the process that holds the grant")
        return {**self.__dict__, "_fetched": {}}


def open_variable(store: ChunkStore, path: str) -> zarr.Array[Any]:
    """Open one array. Chunks that hold only fill values are written, too: an absent chunk means that data are lost."""
    array = zarr.open_array(store, path=path, mode="r" if store.read_only else "r+", zarr_format=store.zarr_format)
    return array.with_config({"write_empty_chunks": True})


def _cut(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case RangeByteRequest(start, end):
            return data[start:end]
        case OffsetByteRequest(offset):
            return data[offset:]
        case SuffixByteRequest(suffix):
            return data[-suffix:]
        case _:
            return data
