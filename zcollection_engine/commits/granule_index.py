"""The index of a checkpoint's granules: by id and by key, 21 bytes a granule."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import FormatError

_ROW = np.dtype([("id", "<u8"), ("key", "<u8"), ("home", "<u4"), ("state", "u1")])

Rows = npt.NDArray[Any]


class Presence(IntEnum):
    """Whether a granule of the index is in, was replaced by a newer version, or was rolled back."""

    IN = 0
    REMOVED = 1
    WITHDRAWN = 2


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index tells of a granule.

    Attributes
    ----------
    home
        Number of the partition whose table has the granule's whole entry.
    presence
        Whether it is in.
    """

    home: int
    presence: Presence


def key_hash(bucket: str, key: str) -> int:
    """Hash of an object's name: 8 bytes, big endian, of the SHA-256 of bucket, NUL, key."""
    return int.from_bytes(hashlib.sha256(f"{bucket}\0{key}".encode()).digest()[:8], "big")


def make_rows(rows: Iterable[tuple[int, int, int, Presence]]) -> Rows:
    """Rows (id, hash of the key, home, presence) as an array."""
    return np.array(list(rows), _ROW)


def melt(pieces: Sequence[Rows]) -> Rows:
    """One piece that says what several say together: a later row is right about its id. Sorted by id."""
    rows = np.concatenate([np.empty(0, _ROW), *pieces])[::-1]
    return rows[np.unique(rows["id"], return_index=True)[1]]


def to_bytes(rows: Rows) -> bytes:
    """A piece in numpy's own format (``.npy``, version 1.0)."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def from_bytes(data: bytes, *, name: str) -> Rows:
    """Read a piece; raises `FormatError`, which names ``name``."""
    try:
        rows: Rows = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{name} is no piece of a granule index: {error}") from error
    if rows.dtype != _ROW:
        raise FormatError(f"{name} is no piece of a granule index: its rows are {rows.dtype}")
    return rows


class GranuleIndex:
    """All pieces together, in memory."""

    def __init__(self, pieces: Sequence[Rows]) -> None:
        self._rows = melt(pieces)
        # A search in one column of an array of rows would copy the column each time.
        self._ids = np.ascontiguousarray(self._rows["id"])

    def extended(self, rows: Rows) -> GranuleIndex:
        """The index with one more piece."""
        return GranuleIndex([self._rows, rows])

    def get(self, identity: int) -> IndexRow | None:
        """What is known of a granule id."""
        at = int(np.searchsorted(self._ids, np.uint64(identity)))
        if at == self._ids.size or int(self._ids[at]) != identity:
            return None
        row = self._rows[at]
        return IndexRow(int(row["home"]), Presence(int(row["state"])))

    def with_key(self, hashed: int) -> Iterator[tuple[int, IndexRow]]:
        """Ids of the granules whose key has this hash, and what is known of them."""
        keys, order = self._by_key
        first, last = (
            np.searchsorted(keys, np.uint64(hashed), "left"),
            np.searchsorted(keys, np.uint64(hashed), "right"),
        )
        for row in self._rows[order[first:last]]:
            yield int(row["id"]), IndexRow(int(row["home"]), Presence(int(row["state"])))

    @cached_property
    def _by_key(self) -> tuple[Rows, Rows]:
        order = np.argsort(self._rows["key"], kind="stable").astype(np.uint32)
        return self._rows["key"][order], order
