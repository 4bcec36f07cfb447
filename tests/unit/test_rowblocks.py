"""A rewrite goes through a partition by blocks: their size changes nothing but the memory it takes."""

from __future__ import annotations

import tracemalloc
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.engine_support import DAY_16, FakeClock, S3LikeStore, time_variable, times
from tests.merge_engine import Landing, a_collection, one, schema
from tests.merge_ledger import Version, merged
from zcollection_engine import Collection, DatePartitioning, WriterOptions, create_collection, jobs
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.layout.chunkstore import ChunkStore, ChunkWriter, open_variable
from zcollection_engine.layout.documents import Version as Stored
from zcollection_engine.layout.documents import render
from zcollection_engine.merging import Concat, TimeSeries
from zcollection_engine.rowblocks import ExistingRows, InsertedRows, MergedRows, block_rows
from zcollection_engine.schema import Dimension, Schema, Variable

EXISTING = 11


@pytest.fixture(scope="module")
def existing() -> ExistingRows:
    """Eleven rows in chunks of four; ``height`` is the number of the row."""
    objects = S3LikeStore(f"memory://{uuid.uuid4().hex}", FakeClock())
    documents = render(schema(), Stored(0, 0, EXISTING))
    store = ChunkStore(objects, DAY_16, documents, ChunkWriter(objects, uuid.uuid4(), lambda: None))
    numbers = np.arange(EXISTING)
    for path, values in columns(numbers).items():
        open_variable(store, path)[:] = values
    return ExistingRows(schema(), store.with_read_only(True), EXISTING)


def columns(numbers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return {
        "time": numbers.astype(np.int64) * 10,
        "height": numbers.astype(np.int32),
        "x": numbers.astype(np.float64),
        "word": np.array([f"row {n}" for n in numbers], object),
        "granule": np.full(numbers.size, 3, np.uint64),
    }


def inserted(*numbers: int) -> InsertedRows:
    """Rows with these numbers as heights, of two granules whose rows are not in order."""
    halves = np.array_split(np.array(numbers, np.int64), 2)
    pieces = []
    for identity, half in zip((8, 9), halves, strict=True):
        found = {path: v[::-1] for path, v in columns(half).items() if path != "granule"}
        variables = {path: GranuleVariable(("time",), values) for path, values in found.items()}
        pieces.append((identity, Granule("g", "time", "time", variables), np.arange(half.size)[::-1]))
    return InsertedRows(schema(), pieces)


takes = st.lists(st.integers(0, EXISTING + 6), max_size=25, unique=True)


@given(takes, st.integers(1, 30))
def test_blocks_of_any_size_hold_the_chosen_rows_in_their_order(
    existing: ExistingRows, take: list[int], rows: int
) -> None:
    merged = MergedRows(existing, inserted(*range(100, 107)), np.array(take, np.intp))
    numbers = np.array([*range(EXISTING), *range(100, 107)])[np.array(take, np.intp)]
    for path, values in columns(numbers).items():
        blocks = list(merged.blocks(schema()[path], rows))
        assert [place.start for place, _ in blocks] == list(range(0, len(take), rows))
        assert all(0 < len(v) == place.stop - place.start <= rows for place, v in blocks)
        found = np.concatenate([values[:0], *(v for _, v in blocks)])
        expected = origins_of(take) if path == "granule" else values
        assert found.tolist() == expected.tolist()
        assert merged.column(path).tolist() == expected.tolist()


def origins_of(take: list[int]) -> npt.NDArray[np.uint64]:
    return np.array([3 if n < EXISTING else 8 if n < EXISTING + 4 else 9 for n in take], np.uint64)


def test_rows_that_lie_far_apart_are_read_alone(existing: ExistingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = zarr.Array.__getitem__

    def spy(array: Any, selection: Any) -> Any:
        found = original(array, selection)
        read.append(np.asarray(found).size)
        return found

    monkeypatch.setattr(zarr.Array, "__getitem__", spy)
    merged = MergedRows(existing, inserted(), np.array([0, 1, 3, 0, 10], np.intp))
    blocks = [values.tolist() for _, values in merged.blocks(schema()["height"], 3)]
    assert blocks == [[0, 1, 3], [0, 10]]
    assert read == [4]


@pytest.mark.parametrize(
    ("path", "nbytes", "rows"),
    [
        ("height", 0, 4),
        ("height", 1, 4),
        ("height", 31, 4),
        ("height", 32, 8),
        ("height", 100, 24),
        ("time", 100, 12),
        ("word", 128, 8),
        ("spectrum", 4 * 3 * 8 * 5, 20),
        ("spectrum", 10, 4),
    ],
)
def test_a_block_is_of_whole_chunks_within_its_bytes_and_at_least_one(path: str, nbytes: int, rows: int) -> None:
    wide = schema().with_variables([Variable("spectrum", "<f8", ("time", "band"), (4, 2))])
    known = Schema("time", "time", (*wide.dimensions, Dimension("band", 3)), wide.variables)
    assert block_rows(known, known[path], nbytes) == rows


HISTORY = [
    one("a", 2, 0, 2, 4, 6, 7),
    one("b", 1, 1, 3, 5),
    Version("c", 3, tuple((n % 7, 1.5, f"{n}") for n in range(9))),
]


@pytest.mark.parametrize(("block_nbytes", "longest"), [(1, 4), (8 * 16, 4), (8 * 32, 8), (8 * 64, 16), (2**28, 17)])
def test_a_collection_is_the_same_for_any_size_of_blocks(
    block_nbytes: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[str, int, int]] = []
    monkeypatch.setattr(jobs, "open_variable", lambda store, path: Recorded(open_variable(store, path), path, writes))
    with a_collection(Concat(), block_nbytes=block_nbytes) as collection:
        landing = Landing(collection)
        landing.deliver(HISTORY[0])
        writes.clear()
        landing.deliver(*HISTORY[1:])
        assert collection.partitions()[0].generation == 1
        assert landing.content() == merged(merge_oracles.concat, HISTORY)
        known = collection.schema
    assert {path for path, *_ in writes} == {v.path for v in known.variables}
    # Eight arrays are written side by side.
    for path, start, rows in writes:
        assert start % 4 == 0
        assert rows <= max(4, block_nbytes // 8 // known[path].numpy_dtype.itemsize)
    assert max(rows for _, _, rows in writes) == longest


class Recorded:
    """An array that tells what is written to it."""

    def __init__(self, array: zarr.Array[Any], path: str, writes: list[tuple[str, int, int]]) -> None:
        self._array = array
        self._path = path
        self._writes = writes

    def __setitem__(self, place: slice, values: npt.NDArray[Any]) -> None:
        self._writes.append((self._path, place.start, len(values)))
        self._array[place] = values

    def __getitem__(self, place: Any) -> Any:
        return self._array[place]


def wide_collection(store: S3LikeStore, block_nbytes: int) -> Collection:
    variables = (
        time_variable(chunk_rows=16),
        Variable("spectrum", "<f8", ("time", "band"), (16, 1000)),
        provenance_variable("time", 16),
    )
    known = Schema("time", "time", (Dimension("time", None), Dimension("band", 1000)), variables)
    options = WriterOptions("me", block_nbytes=block_nbytes)
    rules = DatePartitioning("time", "day")
    return create_collection(store, known, rules, strategy=TimeSeries(), writer=options, clock=FakeClock())


def wide(seconds: range) -> xr.Dataset:
    values = np.repeat(np.arange(len(seconds), dtype=np.float64)[:, None], 1000, axis=1)
    return xr.Dataset({"spectrum": (("time", "band"), values)}, coords={"time": times(seconds)})


def peak_of_a_rewrite(block_nbytes: int) -> int:
    """Bytes that a rewrite of 24 MB takes at most, the stored chunks apart."""
    store = S3LikeStore(f"memory://{uuid.uuid4().hex}", FakeClock())
    collection = wide_collection(store, block_nbytes)
    collection.insert(wide(range(0, 6000, 2)), granule="old", precedence=2)
    late = wide(range(1, 3, 2))
    tracemalloc.start()
    try:
        collection.insert(late, granule="late", precedence=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert collection.partitions()[0].generation == 1
    assert collection.partitions()[0].rows == 3001
    store.clear()
    return peak


def test_the_memory_of_a_rewrite_follows_the_size_of_a_block() -> None:
    small, large = peak_of_a_rewrite(2**20), peak_of_a_rewrite(2**30)
    assert large > 24e6
    assert small < 8e6
