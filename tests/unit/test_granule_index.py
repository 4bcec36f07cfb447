"""The index of granules: small, exact by id, by key as far as its hash goes."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcollection_engine.commits.granule_index import (
    GranuleIndex,
    IndexRow,
    Presence,
    from_bytes,
    key_hash,
    make_rows,
    melt,
    to_bytes,
)
from zcollection_engine.errors import FormatError

IN, REMOVED = Presence.IN, Presence.REMOVED
ids = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]))
hashes = st.one_of(st.sampled_from([0, 5, 2**64 - 1]), st.integers(0, 2**64 - 1))
rows = st.lists(st.tuples(ids, hashes, st.integers(0, 2**32 - 1), st.sampled_from(Presence)), max_size=12)
Row = tuple[int, int, int, Presence]


def newest(pieces: list[list[Row]]) -> dict[int, Row]:
    return {row[0]: row for piece in pieces for row in piece}


@given(st.lists(rows, max_size=4), st.booleans())
def test_any_pieces_answer_as_the_latest_row_of_each_id(pieces: list[list[Row]], one_by_one: bool) -> None:
    arrays = [make_rows(piece) for piece in pieces]
    index = GranuleIndex([] if one_by_one else arrays)
    for array in arrays if one_by_one else ():
        index = index.extended(array)
    expected = newest(pieces)
    for identity in {*expected, 0, 7, 2**64 - 1}:
        row = expected.get(identity)
        assert index.get(identity) == (IndexRow(row[2], row[3]) if row else None)
    for hashed in {row[1] for row in expected.values()} | {6}:
        found = dict(index.with_key(hashed))
        assert found == {i: IndexRow(r[2], r[3]) for i, r in expected.items() if r[1] == hashed}


@given(st.lists(rows, max_size=4))
def test_melting_is_sorted_by_id_without_repetition_and_survives_its_bytes(pieces: list[list[Row]]) -> None:
    melted = melt([make_rows(piece) for piece in pieces])
    assert melted["id"].tolist() == sorted(newest(pieces))
    again = from_bytes(to_bytes(melted), name="x")
    np.testing.assert_array_equal(again, melted)


def test_a_granule_takes_twenty_one_bytes() -> None:
    few, many = (to_bytes(make_rows([(n, n, 0, IN) for n in range(count)])) for count in (10, 1010))
    assert len(many) - len(few) == 21 * 1000


def test_no_pieces_know_nothing() -> None:
    index = GranuleIndex([])
    assert index.get(0) is None
    assert list(index.with_key(0)) == []


def test_the_hash_of_a_key_is_fixed_and_tells_buckets_apart() -> None:
    assert key_hash("b", "k/é") == int.from_bytes(hashlib.sha256("b\0k/é".encode()).digest()[:8], "big")
    assert len({key_hash("b", "k"), key_hash("", "k"), key_hash("b", ""), key_hash("", "bk")}) == 4


def saved(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        to_bytes(make_rows([(1, 2, 3, IN)]))[:-1],
        to_bytes(make_rows([(1, 2, 3, REMOVED)]))[:9],
        saved(np.arange(5)),
        saved(np.array([{"a": 1}], object), allow_pickle=True),
    ],
    ids=["nothing", "text", "cut short", "only a start", "another array", "python objects"],
)
def test_garbage_is_refused_by_the_name_of_its_object(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"memory://c/ledger/1\.npy"):
        from_bytes(data, name="memory://c/ledger/1.npy")
