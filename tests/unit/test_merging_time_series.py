"""time_series: a granule owns the interval of its axis, and rows of lower granules inside it go."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.merge_ledger import (
    Step,
    check_history,
    check_history_with_sources_gone,
    examples,
    histories,
)
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.merging import Candidates, Rows, Selection, TimeSeries, origins, select

tolerances = st.sampled_from([None, 0, 1, 3])


@examples(20)
@given(histories, tolerances, st.booleans())
def test_after_any_history_the_rows_are_those_of_the_definition(
    history: list[Step], tolerance: int | None, rewrite: bool
) -> None:
    oracle = partial(merge_oracles.time_series, tolerance=tolerance)
    check_history(history, TimeSeries(tolerance), oracle, rewrite=rewrite)


@examples(10)
@given(histories, tolerances, st.booleans())
def test_without_provenance_the_rows_are_the_same(history: list[Step], tolerance: int | None, rewrite: bool) -> None:
    oracle = partial(merge_oracles.time_series, tolerance=tolerance)
    check_history(history, TimeSeries(tolerance), oracle, provenance=False, rewrite=rewrite)


@examples(5)
@given(histories, tolerances)
def test_with_sources_gone_no_row_is_there_twice_and_every_loser_is_named(
    history: list[Step], tolerance: int | None
) -> None:
    oracle = partial(merge_oracles.time_series, tolerance=tolerance)
    check_history_with_sources_gone(history, TimeSeries(tolerance), oracle)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=8), st.sampled_from([None, 0, 1, 100, 200, 300]))
def test_gaps_are_measured_right_whatever_the_type_of_the_axis(values: list[int], tolerance: int | None) -> None:
    expected = tuple(merge_oracles.intervals(values, tolerance))
    for dtype in (np.int8, np.int16, np.int64, np.float32, np.float64):
        assert TimeSeries(tolerance).intervals(np.array(values, dtype)) == expected
    shifted = tuple((low + 128, high + 128) for low, high in expected)
    assert TimeSeries(tolerance).intervals(np.array(values, np.int64).astype(np.int16) + np.int16(128)) == shifted
    assert TimeSeries(tolerance).intervals((np.array(values) + 128).astype(np.uint8)) == shifted


def test_a_gap_as_long_as_all_of_int64_is_a_gap() -> None:
    ends = np.array([2**63 - 1, -(2**63) + 1])
    assert TimeSeries(10**9).intervals(ends) == ((-(2**63) + 1,) * 2, (2**63 - 1,) * 2)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_values_beyond_the_integers_of_a_float_are_told_apart(dtype: type) -> None:
    axis = np.array([2**60 + 1, 2**60 + 2, 2**60 + 3], dtype)
    owners = [((2**60 + 1, 2**60 + 3),), ((2**60 + 2, 2**60 + 2),)]
    kept = TimeSeries().keep(Rows(axis, np.array([0, 0, 0])), owners)
    assert kept.tolist() == [True, False, True]
    assert origins(TimeSeries(), axis, [(7, owners[0]), (9, owners[1])]).tolist() == [7, 9, 7]


@pytest.mark.parametrize("tolerance", [-1, -0.5, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(InvalidInputError, match="tolerance"):
        TimeSeries(tolerance)


def chosen(strategy: TimeSeries, granules: list[tuple[int, list[int]]]) -> Selection:
    """Merge granules, in ascending rank."""
    axis: npt.NDArray[np.int64] = np.array([v for _, values in granules for v in values])
    origin = np.array([identity for identity, values in granules for _ in values], np.uint64)
    owners = [(identity, strategy.intervals(np.array(values))) for identity, values in granules]
    return select(strategy, Candidates(axis, origin, 0), owners)


def test_a_shared_boundary_value_is_kept_once_from_the_higher_rank() -> None:
    assert chosen(TimeSeries(), [(1, [0, 10, 20]), (2, [20, 30])]).take.tolist() == [0, 1, 3, 4]


def test_rows_in_a_gap_longer_than_the_tolerance_are_of_the_granule_that_has_them() -> None:
    granules = [(1, [4, 5, 6]), (2, [0, 1, 9, 10])]
    assert chosen(TimeSeries(7), granules).take.tolist() == [3, 4, 0, 1, 2, 5, 6]
    assert chosen(TimeSeries(8), granules).take.tolist() == [3, 4, 5, 6]


def test_times_that_repeat_in_a_granule_all_stay() -> None:
    assert chosen(TimeSeries(), [(1, [5, 5, 1]), (2, [9, 9])]).take.tolist() == [2, 0, 1, 3, 4]
