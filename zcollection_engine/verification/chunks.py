"""Is every chunk inside a shape there, and does it decode?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from zcollection_engine.errors import EngineError, NotFoundError, SnapshotExpiredError
from zcollection_engine.layout.chunkstore import ChunkStore, open_variable
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.inventory import array_shape, chunk_grid
from zcollection_engine.layout.partitionstore import partition_store
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.verification.report import Code, Finding

Values = npt.NDArray[Any]

#: What zarr and its codecs raise for bytes that they cannot decode.
_UNDECODABLE = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)

#: Bytes of the frame that ends every chunk; a chunk that is not longer holds nothing.
_FRAME = 24


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk inside the shape of its array.

    Attributes
    ----------
    variable
        Its array.
    index
        Place in the chunk grid.
    name
        Key below the group.
    shown
        Key below the group at which readers find it.
    region
        Part of the array that it holds.
    """

    variable: Variable
    index: tuple[int, ...]
    name: str
    shown: str
    region: tuple[slice, ...]


def expected_chunks(schema: Schema, variable: Variable, version: Version) -> Iterator[Chunk]:
    """Yield the chunks inside the shape of one array, the rows' order first."""
    layout, shape = format_of(schema), array_shape(schema, variable, version.rows)
    for index in itertools.product(*map(range, chunk_grid(variable, shape))):
        region = tuple(
            slice(i * step, min((i + 1) * step, size))
            for i, step, size in zip(index, variable.chunks, shape, strict=True)
        )
        key = layout.chunk_key(variable.path, version.generation, index)
        folder = layout.folder(version.generation)
        yield Chunk(variable, index, f"{folder}/{key}" if folder else key, key, region)


class ChunkReader:
    """Decodes the chunks of one group.

    Parameters
    ----------
    chunks
        The group, with its metadata as the log says they are; those that are stored are not looked at.
    path
        Of the group.
    """

    def __init__(self, chunks: ChunkStore, path: str) -> None:
        self._path = path
        self._chunks = chunks
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def open(self, variables: Sequence[Variable]) -> None:
        """Open arrays, before threads share this reader."""
        self._arrays.update({v.path: open_variable(self._chunks, v.path) for v in variables})

    def read(self, chunk: Chunk) -> Values | Finding:
        """Return what the chunk holds inside the shape; it is decoded whole, to its full shape.

        A finding tells that it is gone or cannot be decoded.
        """
        try:
            return np.asarray(self._arrays[chunk.variable.path][chunk.region], dtype=chunk.variable.numpy_dtype)
        except (NotFoundError, SnapshotExpiredError):
            return missing(self._path, chunk)
        except EngineError:
            raise
        except _UNDECODABLE as error:
            return damaged(self._path, chunk, f"does not decode ({type(error).__name__}: {error})")

    def whole(self, variable: Variable) -> Values:
        """Return all of an opened array."""
        return np.asarray(self._arrays[variable.path][...], dtype=variable.numpy_dtype)


def missing(path: str, chunk: Chunk) -> Finding:
    """A chunk inside the shape is not there."""
    return _lost(Code.MISSING_CHUNK, path, chunk, "is gone")


def damaged(path: str, chunk: Chunk, what: str) -> Finding:
    """A chunk inside the shape cannot be read."""
    return _lost(Code.DAMAGED_CHUNK, path, chunk, what)


def _lost(code: Code, path: str, chunk: Chunk, what: str) -> Finding:
    place = ", ".join(f"{s.start}:{s.stop}" for s in chunk.region)
    return Finding(
        code,
        path,
        f"{path}/{chunk.name}",
        f"chunk {chunk.name} of {path} (values [{place}] of {chunk.variable.path}) {what}; put it back from a backup;"
        " repair names the granules whose rows it held",
    )


class CopyCheck:
    """Compares the copies that readers are shown with the chunks that they are copies of.

    Parameters
    ----------
    store, schema, path, version
        The partition.
    listed
        Its objects.
    decode
        Whether to look at what they hold, not only at sizes.
    """

    def __init__(
        self,
        store: ObjectStore,
        schema: Schema,
        path: str,
        version: Version,
        *,
        listed: Mapping[str, ObjectInfo],
        decode: bool,
    ) -> None:
        self._store = store
        self._path = path
        self._listed = listed
        self._decode = decode
        shown = Version(version.commit, 0, version.rows)  # copies lie where the first generation does
        self._readers = [ChunkReader(partition_store(store, path, schema, v), path) for v in (version, shown)]
        for reader in self._readers:
            reader.open(schema.row_variables)

    def __call__(self, chunk: Chunk) -> Finding | None:
        """Return what is wrong with the copy of a chunk that is there."""
        target = self._listed.get(f"{self._path}/{chunk.shown}")
        if target is not None and self._is_same(chunk, target):
            return None
        what = "is not there" if target is None else "is another one"
        return Finding(
            Code.BAD_COPY,
            self._path,
            f"{self._path}/{chunk.shown}",
            f"the copy of chunk {chunk.name} of {self._path} that readers are shown {what}; repair copies it again",
        )

    def _is_same(self, chunk: Chunk, target: ObjectInfo) -> bool:
        source = self._listed[f"{self._path}/{chunk.name}"]
        rows = chunk.region[0]
        is_full = rows.stop - rows.start == chunk.variable.chunks[0]
        if not self._decode:
            return source.size == target.size if is_full else target.size > _FRAME
        try:
            if self._store.get(source.key).data == self._store.get(target.key).data:
                return True
        except NotFoundError:
            return False
        # What an attempt wrote behind the last row that never came to a commit is not copied.
        return not is_full and self._holds_same(chunk)

    def _holds_same(self, chunk: Chunk) -> bool:
        source, target = (reader.read(chunk) for reader in self._readers)
        if isinstance(source, Finding) or isinstance(target, Finding):
            return isinstance(source, Finding)  # which is told on its own
        if chunk.variable.is_text:
            return bool(np.array_equal(source, target))
        return source.tobytes() == target.tobytes()


def absent(
    path: str, chunks: Sequence[Chunk], listed: Mapping[str, ObjectInfo], *, marked: bool = True
) -> Iterator[Finding]:
    """Yield findings for the chunks that a listing lacks, or, if they bear our mark, shows as too short for it."""
    for chunk in chunks:
        info = listed.get(f"{path}/{chunk.name}")
        if info is None:
            yield missing(path, chunk)
        elif marked and info.size <= _FRAME:
            yield damaged(path, chunk, f"has only {info.size} bytes")
