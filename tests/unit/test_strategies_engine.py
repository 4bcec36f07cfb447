"""The whole engine under each strategy: any order, any batching, equal to the oracle in every array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.merge_engine import (
    PATHS,
    SECOND,
    Landing,
    a_collection,
    dataset,
    heights_of,
    keys_of,
    mark,
    offer,
    one,
    present,
)
from tests.merge_ledger import (
    Model,
    Oracle,
    Retract,
    Step,
    Version,
    examples,
    histories,
    merged,
    versions,
)
from tests.merge_oracles import Row
from zcollection_engine import planning
from zcollection_engine.errors import EmptyGranuleError
from zcollection_engine.merging import Change, Concat, Replace, Strategy, TimeSeries, Upsert

blocks = st.sampled_from([1, 2**28])


def by_x(row: Row) -> tuple[Any, ...]:
    return ("NaN" if math.isnan(row[1]) else row[1],)


def by_time_and_word(row: Row) -> tuple[Any, ...]:
    return (row[0], row[2])


def by_x_and_word(row: Row) -> tuple[Any, ...]:
    return (*by_x(row), row[2])


CASES: dict[str, list[tuple[Strategy, Oracle]]] = {
    "replace": [(Replace(), merge_oracles.replace)],
    "concat": [(Concat(), merge_oracles.concat)],
    "time_series": [
        (TimeSeries(), merge_oracles.time_series),
        (TimeSeries(2 * SECOND), partial(merge_oracles.time_series, tolerance=2)),
    ],
    "upsert": [
        (Upsert(), merge_oracles.upsert),
        (Upsert(("x",)), partial(merge_oracles.upsert, key=by_x)),
        (Upsert(("time", "word")), partial(merge_oracles.upsert, key=by_time_and_word)),
        (Upsert(("word", "x")), partial(merge_oracles.upsert, key=by_x_and_word)),
    ],
}

EVERY = [case for cases in CASES.values() for case in cases]
OF_SETS = [*CASES["replace"], *CASES["time_series"]]


def check(history: Sequence[Step], case: tuple[Strategy, Oracle], *, provenance: bool = True, block: int = 1) -> None:
    """Run a history and compare all that is stored at its end."""
    strategy, oracle = case
    model = Model()
    with a_collection(strategy, provenance=provenance, block_nbytes=block) as collection:
        landing = Landing(collection)
        for step in history:
            if isinstance(step, Retract):
                if (version := model.retract(step.key)) is not None:
                    landing.retract(version.key)
            elif with_rows := [v for v in step if v.rows]:
                model.deliver(with_rows)
                landing.deliver(*with_rows)
        assert landing.content() == model.content(oracle)
        assert present(collection) == model.present.keys()


@examples(1)
@given(histories, st.sampled_from(CASES["replace"]), blocks)
def test_replace_holds_what_the_set_of_granules_defines(history: list[Step], case: Any, block: int) -> None:
    check(history, case, block=block)


@examples(1)
@given(histories, st.sampled_from(CASES["concat"]), blocks)
def test_concat_holds_what_the_set_of_granules_defines(history: list[Step], case: Any, block: int) -> None:
    check(history, case, block=block)


@examples(1)
@given(histories, st.sampled_from(CASES["time_series"]), blocks)
def test_time_series_holds_what_the_set_of_granules_defines(history: list[Step], case: Any, block: int) -> None:
    check(history, case, block=block)


@examples(1)
@given(histories, st.sampled_from(CASES["upsert"]), blocks)
def test_upsert_holds_what_the_set_of_granules_defines(history: list[Step], case: Any, block: int) -> None:
    check(history, case, block=block)


@examples(0.4)
@given(histories, st.sampled_from(OF_SETS))
def test_without_provenance_replace_and_time_series_hold_the_same(history: list[Step], case: Any) -> None:
    check(history, case, provenance=False)


@examples(0.4)
@given(histories, st.sampled_from(EVERY))
def test_a_rewrite_in_place_of_an_append_or_of_nothing_gives_the_same(history: list[Step], case: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_change", lambda *_, **__: Change.REWRITE)
        check(history, case)


granule_sets = st.lists(versions.filter(lambda v: bool(v.rows)), min_size=1, max_size=5, unique_by=lambda v: v.key)


@examples(0.4)
@given(granule_sets, st.sampled_from(EVERY))
def test_datasets_inserted_one_by_one_in_any_order_give_what_their_set_defines(
    found: list[Version], case: tuple[Strategy, Oracle]
) -> None:
    names = {version.id: version.key for version in found}
    with a_collection(case[0]) as collection:
        for version in found:
            collection.insert(dataset(version), granule=version.key, precedence=version.precedence)
        stored = {p.path: heights_of(collection, p.path) for p in collection.partitions()}
        origins = {p.path: keys_of(collection, p.path) for p in collection.partitions()}
    expected = merged(case[1], found)
    assert stored == {PATHS[path]: [mark(*row) for row in kept] for path, kept in expected.items()}
    assert origins == {PATHS[path]: [names[i] for i, _ in kept] for path, kept in expected.items()}


def test_a_granule_without_rows_is_refused_and_changes_nothing() -> None:
    with a_collection(Concat()) as collection:
        landing = Landing(collection)
        landing.deliver(one("k", 1, 1))
        with pytest.raises(EmptyGranuleError, match="empty"):
            offer(collection, Version("empty", 1, ()))
        assert present(collection) == {"k"}


def test_the_cases_reach_every_kind_of_change_and_rows_that_come_back() -> None:
    changes: list[Change] = []
    original = planning._change

    def spy(*arguments: Any) -> Change:
        changes.append(original(*arguments))
        return changes[-1]

    with pytest.MonkeyPatch.context() as patch, a_collection(TimeSeries()) as collection:
        patch.setattr(planning, "_change", spy)
        landing = Landing(collection)
        for version in (one("p", 3, 0, 5), one("q", 1, 1, 4), one("r", 2, 6, 7), one("s", 4, 4, 6)):
            landing.deliver(version)
        assert changes == [Change.APPEND, Change.NONE, Change.APPEND, Change.REWRITE]
        landing.retract("s")
        assert sorted(landing.sources.reread_keys) == ["p", "r"]
