"""The objects in which checkpoints keep granules: pieces of a table for each partition, and of an index of them all.

A piece is written once. A checkpoint adds what is new as a piece of its own and melts small pieces into it, so that
what it writes follows what has changed, and a lookup meets few pieces.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from zcollection_engine.commits import granule_index
from zcollection_engine.commits.granule_index import Rows
from zcollection_engine.commits.ledger import Dated
from zcollection_engine.commits.log import FOLDER
from zcollection_engine.commits.records import FORMAT_VERSION, dump, parse
from zcollection_engine.errors import FormatError, NotFoundError, SnapshotExpiredError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.stores.base import ObjectStore

LEDGER = f"{FOLDER}ledger/"

_PARALLEL = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """Name of a piece below `LEDGER`, and its number of rows."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class TableRef:
    """One partition's table.

    Attributes
    ----------
    pieces
        Oldest first; a later one corrects an earlier one.
    members
        Number of granules with a share in the partition.
    dropped
        Number of the commit that last dropped the partition: what came in up to it has no share any more.
    """

    pieces: tuple[Piece, ...] = ()
    members: int = 0
    dropped: int = -1


@dataclass(frozen=True, slots=True)
class LedgerRefs:
    """Where a checkpoint's granules are.

    Attributes
    ----------
    size
        Number of granules that are in.
    index
        Pieces of the index.
    tables
        By partition; a partition's position is its number in the index.
    """

    size: int = 0
    index: tuple[Piece, ...] = ()
    tables: Mapping[str, TableRef] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Names of all pieces."""
        return {piece.name for piece in (*self.index, *(p for t in self.tables.values() for p in t.pieces))}


@dataclass
class Table:
    """Rows of one partition by granule id, and ids whose rows in earlier pieces no longer hold.

    An entry has all its shares in the table of its home, elsewhere only the one in that partition.
    """

    rows: dict[int, Dated] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows) + len(self.gone)

    def corrected(self, later: Table) -> Table:
        """What both say together."""
        kept = {identity: row for identity, row in self.rows.items() if identity not in later.gone}
        return Table({**kept, **later.rows}, self.gone | later.gone)


def home_of(entry: GranuleEntry) -> str:
    """The partition whose table has the whole entry; "" for an entry without shares."""
    return min(entry.shares, default="")


class Pieces:
    """Reads and writes pieces.

    Parameters
    ----------
    store
        The collection's store.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read_table(self, pieces: Sequence[Piece]) -> Table:
        """Read a whole table."""
        table = Table()
        for later in self._read(pieces, self._decode_table):
            table = table.corrected(later)
        return table

    def read_index(self, pieces: Sequence[Piece]) -> list[Rows]:
        """Read pieces of the index."""
        return self._read(pieces, self._decode_index)

    def extend_table(self, path: str, pieces: Sequence[Piece], new: Table, name: str) -> tuple[Piece, ...]:
        """Write what is new in a table, with the small pieces before it melted in; return the pieces from now on."""
        kept, small = _split(pieces, len(new))
        table = self.read_table(small).corrected(new)
        if not kept:
            table.gone.clear()
        self._store.create(f"{LEDGER}{name}", _encode_table(path, table))
        return (*kept, Piece(name, len(table)))

    def extend_index(self, pieces: Sequence[Piece], new: Rows, name: str) -> tuple[Piece, ...]:
        """The same for the index."""
        kept, small = _split(pieces, new.size)
        rows = granule_index.melt([*self.read_index(small), new])
        self._store.create(f"{LEDGER}{name}", granule_index.to_bytes(rows))
        return (*kept, Piece(name, rows.size))

    def _read(self, pieces: Sequence[Piece], decode: Callable[[bytes, str], T]) -> list[T]:
        return run_parallel(lambda piece: self._decode(piece, decode), pieces)

    def _decode(self, piece: Piece, decode: Callable[[bytes, str], T]) -> T:
        key = f"{LEDGER}{piece.name}"
        name = f"{self._store.url}/{key}"
        try:
            data = self._store.get(key).data
        except NotFoundError as error:
            raise SnapshotExpiredError(f"{name} was collected as garbage: refresh and look again") from error
        return decode(data, name)

    @staticmethod
    def _decode_index(data: bytes, name: str) -> Rows:
        return granule_index.from_bytes(data, name=name)

    @staticmethod
    def _decode_table(data: bytes, name: str) -> Table:
        body = parse(unpacked(data, name=name), name=name)
        try:
            rows = [(row["commit"], GranuleEntry.from_json(row)) for row in body["granules"]]
            return Table({row[1].id: row for row in rows}, {int(i) for i in body["gone"]})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{name} is no piece of a table: {error!r}") from error


def run_parallel(function: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Apply a function that waits for the store to all items, several at a time."""
    found = list(items)
    if len(found) < 2:
        return [function(item) for item in found]
    with ThreadPoolExecutor(min(_PARALLEL, len(found))) as pool:
        return list(pool.map(function, found))


def packed(body: Mapping[str, Any]) -> bytes:
    """A JSON document, compressed (gzip, RFC 1952)."""
    return gzip.compress(dump(body), compresslevel=5, mtime=0)


def unpacked(data: bytes, *, name: str) -> bytes:
    """The reverse; raises `FormatError`, which names ``name``."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{name} is damaged: {error}") from error


def _split(pieces: Sequence[Piece], rows: int) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Pieces that stay, and those at the end that are so small that they are written again with ``rows`` new rows."""
    kept = list(pieces)
    while kept and kept[-1].rows <= 2 * rows:
        rows += kept.pop().rows
    return tuple(kept), tuple(pieces[len(kept) :])


def _encode_table(path: str, table: Table) -> bytes:
    granules = []
    for commit, entry in table.rows.values():
        row = entry.to_json()
        if path != home_of(entry):
            row["partitions"] = {path: row["partitions"][path]}
        granules.append({**row, "commit": commit})
    gone = [str(identity) for identity in sorted(table.gone)]
    return packed({"format_version": FORMAT_VERSION, "partition": path, "granules": granules, "gone": gone})
