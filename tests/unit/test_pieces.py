"""Pieces of tables and of the index: what is read is what was written; few pieces, and little written twice."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import entry
from zcollection_engine.commits.granule_index import GranuleIndex, Presence, make_rows
from zcollection_engine.commits.ledger import Dated
from zcollection_engine.commits.pieces import (
    LEDGER,
    LedgerRefs,
    Piece,
    Pieces,
    Table,
    TableRef,
    home_of,
    packed,
    run_parallel,
    unpacked,
)
from zcollection_engine.errors import FormatError, SnapshotExpiredError
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore

A, B = "cycle=1", "cycle=2"

ENTRIES = [entry(f"k{n}", n, {A: [n], B: [n, n + 1]}, etag="e") for n in range(8)]
BY_ID = {e.id: e for e in ENTRIES}


@pytest.fixture
def store() -> Iterator[CountingStore]:
    memory = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield CountingStore(memory)
    memory.clear()


def table(*numbers: int, commit: int = 1, gone: tuple[int, ...] = ()) -> Table:
    return Table({ENTRIES[n].id: (commit, ENTRIES[n]) for n in numbers}, {ENTRIES[n].id for n in gone})


changes = st.tuples(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))


@settings(max_examples=60)
@given(st.lists(changes, min_size=1, max_size=8))
def test_a_table_is_what_its_additions_and_removals_come_to(series: list[tuple[set[int], set[int]]]) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    pieces = Pieces(store)
    refs: tuple[Piece, ...] = ()
    expected: dict[int, Dated] = {}
    for commit, (added, gone) in enumerate(series):
        refs = pieces.extend_table(A, refs, table(*added, commit=commit, gone=tuple(gone)), f"{commit}.json.gz")
        for number in gone:
            expected.pop(ENTRIES[number].id, None)
        expected |= {ENTRIES[n].id: (commit, ENTRIES[n]) for n in added}
        assert pieces.read_table(refs).rows == expected
        assert pieces.read_table(refs[:1]).gone == set()
    store.clear()


@settings(max_examples=40)
@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(Presence)), max_size=6), max_size=8))
def test_an_index_is_what_its_pieces_come_to(series: list[list[tuple[int, Presence]]]) -> None:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    pieces = Pieces(store)
    refs: tuple[Piece, ...] = ()
    expected = {}
    for number, rows in enumerate(series):
        refs = pieces.extend_index(refs, make_rows((i, 5, number, p) for i, p in rows), f"{number}.npy")
        expected |= {i: (number, p) for i, p in rows}
        index = GranuleIndex(pieces.read_index(refs))
        found = {i: (row.home, row.presence) for i in range(21) if (row := index.get(i)) is not None}
        assert found == expected
    store.clear()


@pytest.mark.parametrize("new", [1, 10, 37])
def test_the_number_of_pieces_stays_logarithmic_and_a_row_is_written_that_often_at_most(
    store: CountingStore, new: int
) -> None:
    pieces = Pieces(store)
    refs: tuple[Piece, ...] = ()
    written = 0
    steps = 300
    for step in range(steps):
        rows = make_rows((step * new + n, 0, 0, Presence.IN) for n in range(new))
        refs = pieces.extend_index(refs, rows, f"{step}.npy")
        written += refs[-1].rows
        assert len(refs) <= math.log2(step + 1) + 1
        assert sum(piece.rows for piece in refs) == (step + 1) * new
    assert written <= steps * new * (math.log2(steps) + 2)


def test_a_small_change_of_a_great_table_writes_a_small_piece(store: CountingStore) -> None:
    pieces = Pieces(store)
    many = {e.id: (1, e) for e in (entry(f"many{n}", 1, {A: [n]}) for n in range(2000))}
    great = pieces.extend_table(A, (), Table(dict(many)), "great.json.gz")
    store.reset()
    both = pieces.extend_table(A, great, table(3, gone=(4,)), "small.json.gz")
    assert [(p.name, p.rows) for p in both] == [("great.json.gz", 2000), ("small.json.gz", 2)]
    assert dict(store.requests) == {"create": 1}
    assert store.bytes_sent < 500
    assert len(pieces.read_table(both).rows) == 2001


def test_small_pieces_are_melted_into_what_is_new_and_the_great_ones_stay(store: CountingStore) -> None:
    pieces = Pieces(store)
    for name in ("a", "b", "c"):
        store.create(f"{LEDGER}{name}", packed({"format_version": 1, "partition": A, "granules": [], "gone": []}))
    refs = (Piece("a", 100), Piece("b", 13), Piece("c", 4))
    assert [p.name for p in pieces.extend_table(A, refs, table(0), "w")] == ["a", "b", "c", "w"]
    assert [p.name for p in pieces.extend_table(A, refs, table(0, 1), "x")] == ["a", "b", "x"]
    # The last one is melted in, and with its rows the one before is small enough.
    assert [p.name for p in pieces.extend_table(A, refs, table(0, 1, 2), "y")] == ["a", "y"]
    assert [p.name for p in pieces.extend_table(A, (Piece("a", 6),), table(0, 1, 2), "z")] == ["z"]


def test_what_is_gone_is_forgotten_once_no_earlier_piece_can_have_it(store: CountingStore) -> None:
    pieces = Pieces(store)
    first = pieces.extend_table(A, (), table(0, 1, gone=(5,)), "1")
    assert pieces.read_table(first).gone == set()
    second = pieces.extend_table(A, first, table(gone=(0, 1)), "2")
    assert second == (Piece("2", 0),)
    assert pieces.read_table(second) == Table()


def test_an_entry_has_all_shares_at_home_and_one_elsewhere(store: CountingStore) -> None:
    pieces = Pieces(store)
    assert home_of(ENTRIES[0]) == A
    at_home = pieces.read_table(pieces.extend_table(A, (), table(0), "a")).rows[ENTRIES[0].id]
    elsewhere = pieces.read_table(pieces.extend_table(B, (), table(0), "b")).rows[ENTRIES[0].id]
    assert at_home == (1, ENTRIES[0])
    assert elsewhere[1].shares == {B: ENTRIES[0].shares[B]}
    assert elsewhere[1].identity == ENTRIES[0].identity


def test_a_piece_is_gzipped_json_with_ids_as_text(store: CountingStore) -> None:
    Pieces(store).extend_table(A, (Piece("x", 100),), table(0, gone=(1,)), "a")
    body = json.loads(gzip.decompress(store.get(f"{LEDGER}a").data))
    assert (body["format_version"], body["partition"]) == (1, A)
    assert body["gone"] == [str(ENTRIES[1].id)]
    assert body["granules"] == [{**ENTRIES[0].to_json(), "commit": 1}]


def test_the_same_content_gives_the_same_bytes() -> None:
    assert packed({"a": 1}) == packed({"a": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        gzip.compress(b""),
        gzip.compress(b"{}"),
        gzip.compress(b"[1]"),
        packed({"format_version": 1, "granules": [], "gone": [], "partition": A})[:-4],
        packed({"format_version": 1, "granules": [], "gone": [], "partition": A})[:-12] + b"\0" * 12,
        gzip.compress(b"{}" * 99)[:10] + b"\xff" * 30,
        packed({"format_version": 1, "granules": [], "partition": A}),
        packed({"format_version": 1, "granules": [{"commit": 1}], "gone": [], "partition": A}),
        packed({"format_version": 1, "granules": [], "gone": ["x"], "partition": A}),
        packed({"format_version": 1, "granules": 5, "gone": [], "partition": A}),
    ],
    ids=range(12),
)
def test_a_damaged_piece_is_refused_by_name(store: CountingStore, data: bytes) -> None:
    store.create(f"{LEDGER}piece.json.gz", data)
    with pytest.raises(FormatError, match=f"{store.url}/{LEDGER}piece.json.gz"):
        Pieces(store).read_table([Piece("piece.json.gz", 1)])


def test_a_piece_of_a_newer_format_is_refused(store: CountingStore) -> None:
    store.create(f"{LEDGER}p", packed({"format_version": 2, "granules": [], "gone": [], "partition": A}))
    with pytest.raises(FormatError, match="format version 2"):
        Pieces(store).read_table([Piece("p", 1)])


def test_a_piece_that_is_missing_was_collected(store: CountingStore) -> None:
    with pytest.raises(SnapshotExpiredError, match=f"{LEDGER}p was collected"):
        Pieces(store).read_table([Piece("p", 1)])
    with pytest.raises(SnapshotExpiredError, match=f"{LEDGER}p was collected"):
        Pieces(store).read_index([Piece("p", 1)])


def test_unpacking_names_what_is_damaged() -> None:
    with pytest.raises(FormatError, match="thing"):
        unpacked(b"x", name="thing")


def test_references_name_every_piece() -> None:
    refs = LedgerRefs(3, (Piece("i", 3),), {A: TableRef((Piece("a", 1), Piece("b", 1))), B: TableRef()})
    assert refs.names == {"i", "a", "b"}


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_running_in_parallel_keeps_the_order_and_raises_what_was_raised(count: int) -> None:
    assert run_parallel(lambda n: n * n, range(count)) == [n * n for n in range(count)]
    if count:
        with pytest.raises(ZeroDivisionError):
            run_parallel(lambda n: 1 // n, range(count))
