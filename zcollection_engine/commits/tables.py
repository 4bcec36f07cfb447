"""The granules of a checkpoint, looked up in its pieces when asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from zcollection_engine.commits.granule_index import GranuleIndex, IndexRow, Presence, key_hash
from zcollection_engine.commits.ledger import Dated
from zcollection_engine.commits.pieces import LedgerRefs, Pieces, Table
from zcollection_engine.errors import SnapshotExpiredError
from zcollection_engine.identity import GranuleEntry

_KEPT_TABLES = 64


class LedgerTables:
    """The ledger's base. Thread-safe.

    A lookup raises `SnapshotExpiredError` when garbage collection has removed the checkpoint's pieces; ``is_expired``
    says so from then on.

    The index is read when the first granule is looked up, and kept; of the tables the last ones used are.

    Parameters
    ----------
    pieces
        Reads them.
    refs
        Where the granules are.
    index
        The index, if it is known already.
    """

    def __init__(self, pieces: Pieces, refs: LedgerRefs, index: GranuleIndex | None = None) -> None:
        self.refs = refs
        self.index = index
        self.is_expired = False
        self._pieces = pieces
        self._paths = list(refs.tables)
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return self.refs.size

    def __iter__(self) -> Iterator[GranuleEntry]:
        for number, path in enumerate(self._paths):
            for identity, (_, entry) in self._table(path).rows.items():
                found = self._find(identity)
                if found is not None and found.home == number:
                    yield entry

    def get(self, identity: int) -> GranuleEntry | None:
        found = self._find(identity)
        return self._table(self._paths[found.home]).rows[identity][1] if found is not None else None

    def latest(self, bucket: str, key: str) -> GranuleEntry | None:
        for identity, row in self._load_index().with_key(key_hash(bucket, key)):
            entry = self.get(identity) if row.presence is Presence.IN else None
            if entry is not None and (entry.identity.bucket, entry.identity.key) == (bucket, key):
                return entry
        return None

    def is_in(self, identity: int) -> bool:
        return self._find(identity) is not None

    def was_removed(self, identity: int) -> bool:
        found = self._load_index().get(identity)
        return found is not None and found.presence is not Presence.IN

    def was_withdrawn(self, identity: int) -> bool:
        found = self._load_index().get(identity)
        return found is not None and found.presence is Presence.WITHDRAWN

    def members(self, path: str) -> Iterator[Dated]:
        ref = self.refs.tables.get(path)
        if ref is not None and ref.members:
            yield from (row for row in self._table(path).rows.values() if row[0] > ref.dropped)

    def count(self, path: str) -> int:
        ref = self.refs.tables.get(path)
        return ref.members if ref is not None else 0

    def _find(self, identity: int) -> IndexRow | None:
        found = self._load_index().get(identity)
        return found if found is not None and found.presence is Presence.IN else None

    def _table(self, path: str) -> Table:
        with self._lock:
            found = self._tables.pop(path, None)
            if found is None:
                with self._noticing():
                    found = self._pieces.read_table(self.refs.tables[path].pieces)
            self._tables[path] = found
            if len(self._tables) > _KEPT_TABLES:
                self._tables.popitem(last=False)
            return found

    def _load_index(self) -> GranuleIndex:
        with self._lock:
            if self.index is None:
                with self._noticing():
                    self.index = GranuleIndex(self._pieces.read_index(self.refs.index))
            return self.index

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except SnapshotExpiredError:
            self.is_expired = True
            raise
