"""Merging: the rows a partition keeps are a function of the set of granules and their ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import merge_oracles
from tests.merge_oracles import Given
from zcollection_engine.errors import FormatError
from zcollection_engine.merging import (
    Candidates,
    Concat,
    Custom,
    Interval,
    Replace,
    Share,
    Strategy,
    TimeSeries,
    Upsert,
    overlap,
    select,
    strategy_from_json,
    uncovered,
)

# An id is a hash: it may have any of the 64 bits.
IDS = [2**64 - 1, 3, 2**63, 2**63 + 1, 17, 2**62, 9, 2**64 - 2]

axes = st.lists(st.lists(st.integers(-30, 30), min_size=1, max_size=12), min_size=1, max_size=6)
tolerances = st.one_of(st.none(), st.integers(0, 12))

Row = tuple[int, int, int]


@dataclass
class Rows:
    """Rows as (axis, granule id, position in the granule) columns."""

    axis: npt.NDArray[np.int64]
    origin: npt.NDArray[np.uint64]
    position: npt.NDArray[np.int64]

    @classmethod
    def of(cls, granules: Sequence[tuple[int, Sequence[int]]]) -> Rows:
        return cls(
            np.array([v for _, values in granules for v in values], np.int64),
            np.array([identity for identity, values in granules for _ in values], np.uint64),
            np.array([i for _, values in granules for i in range(len(values))], np.int64),
        )

    def __add__(self, other: Rows) -> Rows:
        pairs = [(self.axis, other.axis), (self.origin, other.origin), (self.position, other.position)]
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def __getitem__(self, take: npt.NDArray[np.intp]) -> Rows:
        return Rows(self.axis[take], self.origin[take], self.position[take])

    def tuples(self) -> list[Row]:
        return list(zip(self.axis.tolist(), self.origin.tolist(), self.position.tolist(), strict=True))


def oracle(ranked: Sequence[tuple[int, Sequence[int]]], tolerance: int | None) -> list[Row]:
    """Rows that no granule of higher rank owns, by axis, rank and position."""
    given_rows = [Given(name, (rank,), [(v,) for v in values]) for rank, (name, values) in enumerate(ranked)]
    values = dict(ranked)
    return [(values[name][place], name, place) for name, place in merge_oracles.time_series(given_rows, tolerance)]


def ranked_granules(pieces: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    return list(zip(IDS, pieces, strict=False))


def owners_of(ranked: Sequence[tuple[int, Sequence[int]]], strategy: TimeSeries) -> list[tuple[int, Any]]:
    return [(identity, strategy.intervals(np.array(values, np.int64))) for identity, values in ranked]


@given(axes, tolerances, st.randoms(use_true_random=False))
def test_select_keeps_just_the_rows_of_the_oracle_in_whatever_order_granules_come(
    pieces: list[list[int]], tolerance: int | None, random: Any
) -> None:
    ranked = ranked_granules(pieces)
    strategy = TimeSeries(tolerance)
    offered = list(ranked)
    random.shuffle(offered)
    rows = Rows.of(offered)
    selection = select(strategy, Candidates(rows.axis, rows.origin, 0), owners_of(ranked, strategy))
    assert rows[selection.take].tuples() == oracle(ranked, tolerance)


@settings(max_examples=200)
@given(axes, tolerances, st.randoms(use_true_random=False))
def test_merging_in_batches_in_any_order_equals_merging_all_at_once(
    pieces: list[list[int]], tolerance: int | None, random: Any
) -> None:
    ranked = ranked_granules(pieces)
    rank = {identity: number for number, (identity, _) in enumerate(ranked)}
    strategy = TimeSeries(tolerance)
    waiting = list(ranked)
    random.shuffle(waiting)
    present = Rows.of([])
    known: list[tuple[int, Sequence[int]]] = []
    while waiting:
        size = random.randint(1, len(waiting))
        batch, waiting = waiting[:size], waiting[size:]
        known = sorted([*known, *batch], key=lambda granule: rank[granule[0]])
        rows = present + Rows.of(batch)
        selection = select(
            strategy, Candidates(rows.axis, rows.origin, len(present.tuples())), owners_of(known, strategy)
        )
        present = rows[selection.take]
    assert present.tuples() == oracle(ranked, tolerance)


@given(axes, tolerances)
def test_merging_the_same_rows_again_changes_nothing(pieces: list[list[int]], tolerance: int | None) -> None:
    ranked = ranked_granules(pieces)
    strategy = TimeSeries(tolerance)
    owners = owners_of(ranked, strategy)
    rows = Rows.of(ranked)
    merged = rows[select(strategy, Candidates(rows.axis, rows.origin, 0), owners).take]
    again = select(strategy, Candidates(merged.axis, merged.origin, merged.axis.size), owners)
    assert again.is_identity


@given(axes, tolerances, st.data())
def test_rows_of_removed_granules_go_but_rows_inserted_under_their_id_stay(
    pieces: list[list[int]], tolerance: int | None, data: st.DataObject
) -> None:
    ranked = ranked_granules(pieces)
    removed = data.draw(st.sets(st.sampled_from([identity for identity, _ in ranked])))
    strategy = TimeSeries(tolerance)
    owners = owners_of(ranked, strategy)
    present = Rows.of(ranked)
    rows = present + Rows.of([granule for granule in ranked if granule[0] in removed])
    selection = select(strategy, Candidates(rows.axis, rows.origin, present.axis.size), owners, removed=removed)
    assert rows[selection.take].tuples() == oracle(ranked, tolerance)


def test_rows_of_granules_that_own_nothing_any_more_are_dropped() -> None:
    rows = Rows.of([(5, [1, 2]), (6, [3])])
    selection = select(TimeSeries(), Candidates(rows.axis, rows.origin, 3), [(6, ((3, 3),))])
    assert rows[selection.take].tuples() == [(3, 6, 0)]


def test_equal_axis_values_keep_the_order_of_rank_then_of_the_granule() -> None:
    low, high = (7, [5, 5, 1]), (2, [9, 9])
    strategy = TimeSeries()
    rows = Rows.of([high, low])
    selection = select(strategy, Candidates(rows.axis, rows.origin, 0), owners_of([low, high], strategy))
    assert rows[selection.take].tuples() == [(1, 7, 2), (5, 7, 0), (5, 7, 1), (9, 2, 0), (9, 2, 1)]


def test_nothing_merged_with_nothing_is_nothing() -> None:
    empty = Rows.of([])
    selection = select(TimeSeries(), Candidates(empty.axis, empty.origin, 0), [])
    assert selection.take.size == 0
    assert selection.is_identity


def test_a_merge_that_reorders_existing_rows_is_not_the_identity() -> None:
    rows = Rows.of([(1, [2, 1])])
    selection = select(TimeSeries(), Candidates(rows.axis, rows.origin, 2), [(1, ((1, 2),))])
    assert rows[selection.take].axis.tolist() == [1, 2]
    assert not selection.is_identity


def test_a_merge_that_keeps_fewer_rows_is_not_the_identity() -> None:
    rows = Rows.of([(1, [1]), (2, [5])])
    selection = select(TimeSeries(), Candidates(rows.axis, rows.origin, 2), [(1, ((1, 1),))])
    assert not selection.is_identity


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int16, np.uint64])
def test_the_axis_may_have_any_numeric_type(dtype: type) -> None:
    low, high = (1, [0, 10, 20, 30]), (2, [10, 20])
    ranked = [low, high]
    strategy = TimeSeries(15)
    rows = Rows.of(ranked)
    axis: npt.NDArray[Any] = rows.axis.astype(dtype)
    owners = [(identity, strategy.intervals(np.array(values, dtype))) for identity, values in ranked]
    selection = select(strategy, Candidates(axis, rows.origin, 0), owners)
    assert axis[selection.take].tolist() == [0, 10, 20, 30]
    assert rows[selection.take].origin.tolist() == [1, 2, 2, 1]


def test_intervals_survive_json_without_losing_a_nanosecond() -> None:
    instants = np.array([1_702_684_800_123_456_789, 1_702_684_800_123_456_791])
    share = Share(2, TimeSeries(1).intervals(instants))
    assert share.intervals == ((1_702_684_800_123_456_789,) * 2, (1_702_684_800_123_456_791,) * 2)
    assert Share.from_json(share.to_json()) == share
    assert (share.first, share.last) == (1_702_684_800_123_456_789, 1_702_684_800_123_456_791)


bounds = st.tuples(st.integers(-6, 6), st.integers(-6, 6)).map(lambda pair: (min(pair), max(pair)))
interval_sets = st.lists(bounds, max_size=5)


def points(intervals: Sequence[Interval]) -> set[float]:
    """The integers and the points half-way between them that the intervals contain."""
    return {i / 2 for i in range(-14, 15) if any(low <= i / 2 <= high for low, high in intervals)}


@settings(max_examples=500)
@given(interval_sets, interval_sets)
def test_uncovered_agrees_with_trying_every_point(pieces: list[Interval], covers: list[Interval]) -> None:
    assert uncovered(pieces, covers) == bool(points(pieces) - points(covers))


@settings(max_examples=500)
@given(interval_sets, interval_sets)
def test_overlap_agrees_with_trying_every_point(a: list[Interval], b: list[Interval]) -> None:
    assert points(overlap(a, b)) == points(a) & points(b)
    assert all(low <= high for low, high in overlap(a, b))


@pytest.mark.parametrize(
    "strategy",
    [
        *(TimeSeries(tolerance) for tolerance in (None, 0, 10**9)),
        Replace(),
        Concat(),
        Upsert(),
        Upsert(("time", "ku/beam"), 10**6, "time"),
        Custom("package.module:function"),
    ],
    ids=str,
)
def test_a_strategy_survives_json(strategy: Strategy) -> None:
    assert strategy_from_json(json.loads(json.dumps(strategy.to_json(), allow_nan=False))) == strategy


@pytest.mark.parametrize("data", [{"strategy": "newest_first"}, {}])
def test_an_unknown_strategy_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="time_series"):
        strategy_from_json(data)


@pytest.mark.parametrize("strategy", [TimeSeries(), Concat(), Upsert()], ids=str)
def test_rows_of_unknown_origin_stay_and_rank_below_all_others(strategy: Strategy) -> None:
    rows = Rows.of([(0, [1, 2, 9]), (5, [2, 3])])
    selection = select(strategy, Candidates(rows.axis, rows.origin, 3), [(5, ((2, 3),))])
    kept = [(1, 0, 0), (2, 5, 0), (3, 5, 1), (9, 0, 2)]
    assert rows[selection.take].tuples() == (kept if strategy != Concat() else [kept[0], (2, 0, 1), *kept[1:]])


def test_rows_of_unknown_origin_are_replaced_by_any_granule_and_stay_where_there_is_none() -> None:
    rows = Rows.of([(0, [1, 2]), (5, [3])])
    for owners, kept in (([(5, ((3, 3),))], [(3, 5, 0)]), ([], [(1, 0, 0), (2, 0, 1)])):
        selection = select(Replace(), Candidates(rows.axis, rows.origin, 2), owners)
        assert rows[selection.take].tuples() == kept
