"""upsert: one row for each key."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.engine_support import small_schema
from tests.merge_ledger import (
    COLUMNS,
    A,
    MergeLedger,
    Model,
    Step,
    Version,
    check_history,
    check_history_with_sources_gone,
    deliveries,
    examples,
    histories,
    merged,
    versions,
)
from tests.merge_oracles import Given, Row
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.merging import Candidates, Rows, Upsert, select
from zcollection_engine.merging.keys import codes, outranked_within
from zcollection_engine.planning import Verdict
from zcollection_engine.schema import Variable

KEYS = [(), ("time",), ("time", "x"), ("word", "time"), ("x",), ("word",), ("word", "x")]
keys = st.sampled_from(KEYS)


def key_of(names: tuple[str, ...]) -> Callable[[Row], tuple[Any, ...]]:
    """The key of a row; NaN equals NaN."""
    places = [COLUMNS.index(name) for name in names or ("time",)]
    return lambda row: tuple("NaN" if row[p] != row[p] else row[p] for p in places)


def oracle_of(names: tuple[str, ...]) -> Callable[[Any], list[tuple[Any, int]]]:
    return partial(merge_oracles.upsert, key=key_of(names))


@examples(20)
@given(histories, keys, st.booleans())
def test_after_any_history_the_rows_are_those_of_the_definition(
    history: list[Step], key: tuple[str, ...], rewrite: bool
) -> None:
    check_history(history, Upsert(key, axis="time"), oracle_of(key), rewrite=rewrite)


@examples(5)
@given(histories, keys)
def test_with_sources_gone_no_row_is_there_twice_and_every_loser_is_named(
    history: list[Step], key: tuple[str, ...]
) -> None:
    check_history_with_sources_gone(history, Upsert(key, axis="time"), oracle_of(key), key=key_of(key))


@examples(10)
@given(deliveries, keys, st.booleans())
def test_without_provenance_the_later_arrival_wins(
    history: list[list[Version]], key: tuple[str, ...], rewrite: bool
) -> None:
    ledger = MergeLedger(Upsert(key, axis="time"), provenance=False, rewrite=rewrite)
    arrived: list[Version] = []
    for batch in history:
        plan = ledger.deliver(batch)
        taken = {v.id: v for v in batch if plan.verdicts[v.id] is Verdict.COMMITTED}
        arrived += sorted(taken.values(), key=lambda v: v.rank)
        assert ledger.content() == merged(as_they_came(arrived, key), arrived)


def as_they_came(arrived: list[Version], key: tuple[str, ...]) -> Callable[[Any], list[tuple[Any, int]]]:
    number = {version.id: place for place, version in enumerate(arrived)}
    return lambda given: oracle_of(key)(Given(g.name, (number[g.name],), g.rows) for g in given)


def test_without_provenance_rows_of_an_older_version_stay_where_the_newer_one_has_no_such_key() -> None:
    ledger = MergeLedger(Upsert(axis="time"), provenance=False)
    old, new = (Version("k", n, tuple((t, 0.5, "a") for t in times)) for n, times in ((1, (1, 2)), (2, (2, 3))))
    ledger.deliver([old])
    ledger.deliver([new])
    assert ledger.content() == {A: [(old.id, 0), (new.id, 0), (new.id, 1)]}


# Within a distance of the axis.

distances = st.sampled_from([1, 2, 0.5])


@examples(5)
@given(st.lists(versions, max_size=5, unique_by=lambda v: v.id), st.sampled_from(["", "x", "word"]), distances)
def test_one_merge_within_a_distance_keeps_from_the_highest_rank_down_what_is_not_near(
    found: list[Version], column: str, within: float
) -> None:
    names = (column,) if column else ()
    ranked = sorted(found, key=lambda v: v.rank)
    strategy = Upsert(("time", *names), within, "time")
    rows = [(version.id, place, row) for version in ranked for place, row in enumerate(version.rows)]
    columns = {n: np.array([row[COLUMNS.index(n)] for *_, row in rows], "O" if n == "word" else "f8") for n in names}
    candidates = Candidates(
        np.array([row[0] for *_, row in rows], np.int64), np.array([r[0] for r in rows], np.uint64), 0, columns
    )
    take = select(strategy, candidates, [(v.id, ()) for v in ranked]).take
    exact = key_of(names) if names else lambda row: ()
    given_rows = [Given(v.id, v.rank, v.rows) for v in found]
    assert [rows[i][:2] for i in take] == merge_oracles.upsert_within(given_rows, within, exact)


def one(key: str, precedence: int, *times: int) -> Version:
    return Version(key, precedence, tuple((time, 0.5, "a") for time in times))


def test_with_a_distance_the_result_depends_on_the_order_of_arrival() -> None:
    low, middle, high = one("low", 1, 0), one("middle", 2, 2), one("high", 3, 4)
    at_once, step_by_step = (MergeLedger(Upsert(within=2, axis="time")) for _ in range(2))
    at_once.deliver([low, middle, high])
    for version in (low, middle, high):
        step_by_step.deliver([version])
    # At once the highest beats the middle one, which then does not beat the lowest.
    assert at_once.content() == {A: [(low.id, 0), (high.id, 0)]}
    # One by one the lowest is gone by the time the middle one goes.
    assert step_by_step.content() == {A: [(high.id, 0)]}


def test_a_distance_is_closed_and_rows_of_one_granule_do_not_meet() -> None:
    low, high = one("low", 1, 1, 2, 3, 4), one("high", 2, 6, 7)
    ledger = MergeLedger(Upsert(within=3, axis="time"))
    ledger.deliver([low, high])
    assert ledger.content() == {A: [(low.id, 0), (low.id, 1), (high.id, 0), (high.id, 1)]}


def test_a_row_near_in_time_stays_if_another_column_of_the_key_differs() -> None:
    low = Version("low", 1, ((1, 0.5, "a"), (2, 0.5, "b")))
    high = Version("high", 2, ((3, 0.5, "a"),))
    ledger = MergeLedger(Upsert(("time", "word"), 5, "time"))
    ledger.deliver([low, high])
    assert ledger.content() == {A: [(low.id, 1), (high.id, 0)]}


@pytest.mark.parametrize(("low", "high"), [(np.int8(-100), np.int8(100)), (np.uint8(100), np.uint8(10))])
def test_distances_are_measured_right_whatever_the_type_of_the_axis(low: Any, high: Any) -> None:
    axis, rank = np.array([low, high]), np.array([0, 1])
    assert outranked_within([], axis, rank, 50).tolist() == [False, False]
    assert outranked_within([], axis, rank, 200).tolist() == [True, False]


# Keys.


@given(st.lists(st.tuples(st.sampled_from([0.0, -0.0, 1.5, math.nan]), st.text("a\0b", max_size=3)), min_size=1))
def test_rows_have_the_same_number_just_where_all_columns_are_equal(pairs: list[tuple[float, str]]) -> None:
    found = codes([np.array([x for x, _ in pairs]), np.array([w for _, w in pairs], object)])
    expected = [("NaN" if math.isnan(x) else x, word) for x, word in pairs]
    for mine, key in zip(found.tolist(), expected, strict=True):
        assert [n == mine for n in found.tolist()] == [other == key for other in expected]


def test_no_rows_have_no_keys() -> None:
    empty = np.empty(0)
    assert Upsert(("time", "x"), 1, "time").keep(Rows(empty, empty, {"x": empty}), []).shape == (0,)


def test_a_lower_granule_never_takes_a_row_from_a_higher_one_that_came_before() -> None:
    ledger, model = MergeLedger(Upsert(axis="time")), Model()
    for batch in ([one("high", 2, 1, 3)], [one("low", 1, 1, 2)]):
        ledger.deliver(batch)
        model.deliver(batch)
    assert ledger.content() == model.content(merge_oracles.upsert)
    assert len(ledger.content()[A]) == 3


@pytest.mark.parametrize("within", [0, -1, math.nan, math.inf])
def test_a_distance_that_is_none_is_refused(within: float) -> None:
    with pytest.raises(InvalidInputError, match="within"):
        Upsert(within=within)


@pytest.mark.parametrize("path", ["nothing", "spectrum"])
def test_a_key_of_no_row_variable_is_refused_by_its_name(path: str) -> None:
    schema = small_schema(extra=[Variable("spectrum", "<f4", ("time", "band"), (8, 3))])
    with pytest.raises(InvalidInputError, match=f"'{path}' cannot be in the key"):
        Upsert(("time", path)).bound(schema)


def test_a_distance_without_the_axis_in_the_key_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="put 'time' into the key"):
        Upsert(("height",), within=1).bound(small_schema())
    assert Upsert(within=1).bound(small_schema()) == Upsert((), 1, "time")
