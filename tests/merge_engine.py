"""Collections for tests of merging: granules as in `tests.merge_ledger`, committed by the whole engine."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from tests.engine_support import DAY, DAY_16, DAY_17, START, FakeClock, S3LikeStore, small_schema
from tests.merge_ledger import EDGE, A, B, Content, Version
from tests.merge_oracles import Kept
from zcollection_engine import Collection, DatePartitioning, WriterOptions, create_collection
from zcollection_engine.granules.model import Granule
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.ingest import LocalExecutor, granule_from_dataset, prepare
from zcollection_engine.merging import Strategy
from zcollection_engine.schema import PROVENANCE, Schema, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.transaction import Offer, Outcome

SECOND = 10**9

#: The partitions of `tests.merge_ledger`, a day each.
PATHS = {A: DAY_16, B: DAY_17}


def schema(*, provenance: bool = True, chunk_rows: int = 4) -> Schema:
    """The rows of `tests.merge_ledger`: a time, a number, a text, and ``height``, which tells them apart."""
    extra = [
        Variable("x", "<f8", ("time",), (chunk_rows,), float("nan")),
        Variable("word", "string", ("time",), (chunk_rows,)),
    ]
    full = small_schema(chunk_rows=chunk_rows, extra=extra)
    return full if provenance else replace(full, variables=tuple(v for v in full.variables if v.path != PROVENANCE))


@contextmanager
def a_collection(strategy: Strategy, *, provenance: bool = True, block_nbytes: int = 2**28) -> Iterator[Collection]:
    """An empty collection in memory, partitioned by day."""
    clock = FakeClock()
    store = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    options = WriterOptions("me", block_nbytes=block_nbytes)
    try:
        yield create_collection(
            store,
            schema(provenance=provenance),
            DatePartitioning("time", "day"),
            strategy=strategy,
            writer=options,
            clock=clock,
        )
    finally:
        store.clear()


def nanoseconds(time: int) -> int:
    """An instant of `tests.merge_ledger`: seconds, the second partition being the next day."""
    day, second = divmod(time, EDGE)
    return START + day * DAY + second * SECOND


def mark(identity: int, place: int) -> int:
    """The stored height of a row: tells the granule, nearly always, and the place in it."""
    return (zlib.crc32(identity.to_bytes(8, "big")) & 0xFFFFFF) * 64 + place


def dataset(version: Version) -> xr.Dataset:
    time = np.array([nanoseconds(row[0]) for row in version.rows], np.int64).astype("datetime64[ns]")
    height = np.array([mark(version.id, place) for place in range(len(version.rows))], np.int32)
    return xr.Dataset(
        {
            "height": xr.Variable("time", height, {"scale_factor": 0.001, "units": "m"}),
            "x": ("time", np.array([row[1] for row in version.rows], np.float64)),
            "word": ("time", np.array([row[2] for row in version.rows], object)),
        },
        coords={"time": time},
    )


def offer(collection: Collection, version: Version) -> Offer:
    entry, conformed = prepare(
        granule_from_dataset(dataset(version), collection.schema, name=version.key),
        collection.config,
        identity=version.identity,
        url=f"s3://bucket/{version.key}",
        precedence=(version.precedence,),
        immutable=collection.immutable,
    )
    return Offer(entry, conformed)


class Sources(LocalExecutor):
    """Runs jobs here and reads granules again from what was delivered, unless it is gone."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.granules: dict[int, Granule] = {}
        self.versions: dict[int, Version] = {}
        self.reread_keys: list[str] = []

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Granule]:
        found = [e for e in entries if e.id in self.granules]
        self.reread_keys += [e.identity.key for e in found]
        return {e.id: self.granules[e.id] for e in found}


class Landing:
    """Delivers versions to a collection."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.sources = Sources(collection.store)

    def deliver(self, *versions: Version) -> Outcome:
        """Commit versions that have rows as one transaction."""
        offers = [offer(self.collection, v) for v in versions if v.rows]
        self.sources.granules.update({o.entry.id: o.payload for o in offers})
        self.sources.versions.update({v.id: v for v in versions})
        return self.collection.commit_offers(offers, self.sources)

    def retract(self, *granules: int | str) -> Outcome:
        return self.collection.retract(granules, executor=self.sources)

    def remove_source(self, version: Version) -> None:
        del self.sources.granules[version.id]

    def content(self) -> Content:
        """(id, place) of the rows by partition; all their values are those of the granule."""
        names = {path: name for name, path in PATHS.items()}
        return {names[p.path]: self._partition(p.path) for p in self.collection.partitions()}

    def _partition(self, path: str) -> list[Kept]:
        rows = self.collection.load([path], decode=False)
        assert isinstance(rows, xr.Dataset)
        marks = {mark(i, n): (i, n) for i, v in self.sources.versions.items() for n in range(len(v.rows))}
        kept = [marks[height] for height in rows["height"].values.tolist()]
        expected = [self.sources.versions[identity].rows[place] for identity, place in kept]
        assert rows["time"].values.tolist() == [nanoseconds(row[0]) for row in expected]
        assert rows["word"].values.tolist() == [row[2] for row in expected]
        np.testing.assert_array_equal(rows["x"].values, np.array([row[1] for row in expected], np.float64))
        if PROVENANCE in rows:
            assert rows[PROVENANCE].values.tolist() == [identity for identity, _ in kept]
        return kept


def heights_of(collection: Collection, partition: str) -> list[int]:
    """What `mark` gave each row."""
    rows = collection.load([partition], decode=False)
    assert isinstance(rows, xr.Dataset)
    heights: list[int] = rows["height"].values.tolist()
    return heights


def keys_of(collection: Collection, partition: str, rows: Any = slice(None)) -> list[str]:
    """Key of the granule of each row."""
    return [entry.identity.key for entry in collection.lineage(partition, rows)]


def present(collection: Collection) -> set[str]:
    return {entry.identity.key for entry in collection.granules()}


def one(key: str, precedence: int, *times: int) -> Version:
    """A version with a row at each time."""
    return Version(key, precedence, tuple((time, 0.5, "a") for time in times))


def ids(versions: Iterable[Version]) -> set[int]:
    return {version.id for version in versions}
