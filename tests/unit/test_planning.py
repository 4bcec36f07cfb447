"""Planning: the cheapest change is chosen, and the choice never changes the result."""

from __future__ import annotations

import uuid
from collections.abc import Collection as Members
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import entry
from zcollection_engine.commits.records import Commit, Creation, PartitionChange
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Candidates, Change, Share, TimeSeries, select
from zcollection_engine.planning import MergeRules, PartitionPlan, Plan, Verdict
from zcollection_engine.planning import make_plan as plan_for

NOW = datetime(2024, 1, 1, tzinfo=UTC)
A, B = "cycle=1", "cycle=2"


def make_plan(state: CollectionState, offered: Sequence[GranuleEntry], gone: Members[int] = ()) -> Plan:
    return plan_for(state, MergeRules(TimeSeries()), offered, gone=gone)


def empty_state() -> CollectionState:
    state = CollectionState()
    state.apply(0, Creation("t", NOW))
    return state


def commit(state: CollectionState, plan: Plan) -> None:
    changes = {
        p.path: PartitionChange(1, state.partition(p.path).generation, (0, 0))
        for p in plan.partitions
        if p.change is not Change.NONE
    }
    state.apply(state.number + 1, Commit("t", NOW, 0, changes, plan.accepted, plan.replaced))


def state_with(*entries: GranuleEntry) -> CollectionState:
    state = empty_state()
    for known in entries:
        commit(state, make_plan(state, [known]))
    return state


def only(plan: Plan) -> PartitionPlan:
    (partition,) = plan.partitions
    return partition


def test_the_first_granules_of_a_partition_are_appended() -> None:
    plan = make_plan(empty_state(), [entry("k2", 1, {A: [5, 9]}), entry("k1", 1, {A: [1, 3]})])
    assert only(plan).change is Change.APPEND
    assert [e.identity.key for e in only(plan).inserted] == ["k1", "k2"]
    assert plan.number == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([11, 20], Change.APPEND),
        ([10, 20], Change.REWRITE),
        ([5, 20], Change.REWRITE),
        ([2, 3], Change.REWRITE),
        ([-5, -1], Change.REWRITE),
    ],
)
def test_only_rows_strictly_behind_the_last_are_appended(values: list[int], expected: Change) -> None:
    plan = make_plan(state_with(entry("k1", 1, {A: [0, 10]})), [entry("k2", 2, {A: values})])
    assert only(plan).change is expected


def test_a_granule_covered_by_higher_ones_changes_no_rows_and_yet_is_recorded() -> None:
    state = state_with(entry("high1", 9, {A: [0, 10]}), entry("high2", 8, {A: [10, 20]}))
    low = entry("low", 1, {A: [3, 18]})
    plan = make_plan(state, [low])
    assert only(plan).change is Change.NONE
    assert plan.accepted == (low,)
    assert plan.verdicts == {low.id: Verdict.COMMITTED}


def test_a_granule_covered_at_both_ends_but_not_between_is_merged() -> None:
    state = state_with(entry("high1", 9, {A: [0, 10]}), entry("high2", 8, {A: [11, 20]}))
    assert only(make_plan(state, [entry("low", 1, {A: [3, 18]})])).change is Change.REWRITE


def test_a_covered_granule_does_not_turn_the_append_of_its_batch_into_none() -> None:
    state = state_with(entry("high", 9, {A: [0, 10]}))
    covered, behind = entry("low", 1, {A: [3, 4]}), entry("new", 10, {A: [11, 12]})
    assert only(make_plan(state, [covered, behind])).change is Change.REWRITE
    assert only(make_plan(state, [behind])).change is Change.APPEND


def test_a_granule_over_two_partitions_is_planned_for_each() -> None:
    state = state_with(entry("k1", 1, {A: [0, 10], B: [0, 1]}))
    plan = make_plan(state, [entry("k2", 2, {A: [5], B: [7]})])
    assert {p.path: p.change for p in plan.partitions} == {A: Change.REWRITE, B: Change.APPEND}
    assert plan.paths == (A, B)


def test_a_known_granule_is_left_alone() -> None:
    known = entry("k", 1, {A: [0, 10]})
    plan = make_plan(state_with(known), [known, known])
    assert plan.verdicts == {known.id: Verdict.KNOWN}
    assert (plan.accepted, plan.partitions, plan.replaced) == ((), (), ())


def test_the_same_granule_twice_in_a_batch_is_taken_once() -> None:
    new = entry("k", 1, {A: [0, 10]})
    plan = make_plan(empty_state(), [new, new])
    assert plan.accepted == (new,)
    assert only(plan).inserted == (new,)


def test_a_newer_version_of_a_key_replaces_the_older() -> None:
    old, new = entry("k", 1, {A: [0, 10], B: [3]}), entry("k", 2, {A: [0, 10]})
    plan = make_plan(state_with(old), [new])
    assert (plan.accepted, plan.replaced) == ((new,), (old,))
    assert {p.path: (p.change, p.removed, p.inserted) for p in plan.partitions} == {
        A: (Change.REWRITE, (old.id,), (new,)),
        B: (Change.REWRITE, (old.id,), ()),
    }


def test_an_older_version_of_a_key_is_superseded_by_the_one_that_is_in() -> None:
    old, new = entry("k", 1, {A: [0, 10]}), entry("k", 2, {A: [0, 10]})
    plan = make_plan(state_with(new), [old])
    assert plan.verdicts == {old.id: Verdict.SUPERSEDED}
    assert not plan.partitions


@pytest.mark.parametrize("order", [1, -1])
def test_within_a_batch_only_the_newest_version_of_a_key_is_taken(order: int) -> None:
    versions = [entry("k", n, {A: [0, n]}) for n in (1, 2, 3)]
    plan = make_plan(empty_state(), versions[::order])
    assert plan.accepted == (versions[2],)
    assert plan.verdicts == {
        versions[0].id: Verdict.SUPERSEDED,
        versions[1].id: Verdict.SUPERSEDED,
        versions[2].id: Verdict.COMMITTED,
    }


def test_a_known_version_next_to_a_newer_one_stays_known() -> None:
    old, new = entry("k", 1, {A: [0]}), entry("k", 2, {A: [0]})
    plan = make_plan(state_with(old), [old, new])
    assert plan.verdicts == {old.id: Verdict.KNOWN, new.id: Verdict.COMMITTED}
    assert plan.replaced == (old,)


def test_the_same_key_in_another_bucket_is_another_granule() -> None:
    here = entry("k", 1, {A: [0]})
    there = GranuleEntry(replace(here.identity, bucket="other"), "", (2,), here.shares)
    assert make_plan(state_with(here), [there]).replaced == ()


def test_granules_that_lost_rows_to_a_replaced_one_are_read_again() -> None:
    loser, winner = entry("low", 1, {A: [0, 5, 10]}), entry("high", 2, {A: [4, 6]})
    plan = make_plan(state_with(loser, winner), [entry("high", 3, {A: [20, 21]})])
    assert plan.restored == (loser,)
    assert plan.lost == ()
    assert only(plan).inserted[0] == loser
    assert set(only(plan).removed) == {winner.id, loser.id}


def test_a_granule_whose_loss_is_taken_over_by_another_is_not_read_again() -> None:
    loser, winner, other = (
        entry("low", 1, {A: [0, 5, 10]}),
        entry("high", 3, {A: [4, 6]}),
        entry("middle", 2, {A: [3, 7]}),
    )
    plan = make_plan(state_with(loser, winner, other), [entry("high", 4, {A: [20]})])
    assert plan.restored == (other,)


def test_a_granule_whose_rows_the_new_version_takes_again_is_not_read_again() -> None:
    loser, winner = entry("low", 1, {A: [0, 5, 10]}), entry("high", 2, {A: [4, 6]})
    assert make_plan(state_with(loser, winner), [entry("high", 3, {A: [3, 6]})]).restored == ()


def test_a_granule_that_is_gone_is_reported_as_lost_and_keeps_the_rows_it_has() -> None:
    loser, winner = entry("low", 1, {A: [0, 5, 10]}), entry("high", 2, {A: [4, 6]})
    plan = make_plan(state_with(loser, winner), [entry("high", 3, {A: [20]})], gone=[loser.id])
    assert (plan.restored, plan.lost) == ((), (loser,))
    assert loser.id not in only(plan).removed
    assert loser in only(plan).owners
    assert loser not in only(plan).inserted


def test_two_granules_with_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = entry("k1", 1, {A: [0]}), entry("k2", 1, {A: [5]})
    state = empty_state()
    monkeypatch.setattr(GranuleIdentity, "id", property(lambda _: 42))
    commit(state, make_plan(state, [first]))
    with pytest.raises(InvalidInputError, match=r"k2.*k1|k1.*k2"):
        make_plan(state, [second])
    with pytest.raises(InvalidInputError, match=r"k2.*k1|k1.*k2"):
        make_plan(empty_state(), [first, second])


# The result of any history of commits, against the definition.

versions = st.builds(
    lambda key, precedence, values: (key, precedence, values),
    st.sampled_from("pqrst"),
    st.integers(0, 3),
    st.lists(st.integers(0, 19), min_size=1, max_size=5),
)
histories = st.lists(st.lists(versions, min_size=1, max_size=4), min_size=1, max_size=6)


@dataclass(frozen=True)
class Version:
    entry: GranuleEntry
    values: tuple[int, ...]


def partition_of(value: int) -> str:
    return A if value < 10 else B


def version_of(key: str, precedence: int, values: Sequence[int], strategy: TimeSeries) -> Version:
    shares = {path: [v for v in values if partition_of(v) == path] for path in {partition_of(v) for v in values}}
    etag = f"{precedence} {values}"
    made = entry(key, precedence, shares, etag=etag, strategy=strategy)
    return Version(made, tuple(values))


Columns = tuple[Any, Any, Any]


class Ledger:
    """Runs plans as the jobs do, on plain arrays of (axis, origin, position)."""

    def __init__(self, strategy: TimeSeries) -> None:
        self.strategy = strategy
        self.state = empty_state()
        self.sources: dict[int, Version] = {}
        self.partitions: dict[str, Columns] = {}
        self.changes: list[Change] = []

    def offer(self, batch: Sequence[Version], gone: Members[int] = ()) -> Plan:
        self.sources.update({v.entry.id: v for v in batch})
        plan = plan_for(self.state, MergeRules(self.strategy), [v.entry for v in batch], gone=gone)
        changes = {}
        for part in plan.partitions:
            self.changes.append(part.change)
            if part.change is Change.NONE:
                continue
            merged = self._merge(part)
            self.partitions[part.path] = merged
            bounds = (int(merged[0].min()), int(merged[0].max())) if merged[0].size else None
            changes[part.path] = PartitionChange(merged[0].size, 0, bounds)
        self.state.apply(self.state.number + 1, Commit("t", NOW, 0, changes, plan.accepted, plan.replaced))
        return plan

    def _merge(self, part: PartitionPlan) -> Columns:
        present = self.partitions.get(part.path, self._columns([], part.path))
        inserted = self._columns([self.sources[e.id] for e in part.inserted], part.path)
        base = self._columns([], part.path) if part.change is Change.APPEND else present
        axis, origin, position = (np.concatenate(pair) for pair in zip(base, inserted, strict=True))
        owners = [(e.id, e.shares[part.path].intervals) for e in part.owners]
        take = select(self.strategy, Candidates(axis, origin, base[0].size), owners, removed=part.removed).take
        kept = (axis[take], origin[take], position[take])
        if part.change is Change.REWRITE:
            return kept
        return tuple(np.concatenate(pair) for pair in zip(present, kept, strict=True))  # type: ignore[return-value]

    @staticmethod
    def _columns(granules: Sequence[Version], path: str) -> Columns:
        rows = [(v, g.entry.id, i) for g in granules for i, v in enumerate(g.values) if partition_of(v) == path]
        return (
            np.array([r[0] for r in rows], np.int64),
            np.array([r[1] for r in rows], np.uint64),
            np.array([r[2] for r in rows], np.int64),
        )

    def content(self) -> dict[str, list[tuple[int, int, int]]]:
        tables = {p: list(zip(*(c.tolist() for c in columns), strict=True)) for p, columns in self.partitions.items()}
        return {path: rows for path, rows in tables.items() if rows}


def newest(offered: Sequence[Version]) -> list[Version]:
    by_key: dict[str, Version] = {}
    for version in sorted(offered, key=lambda v: v.entry.rank):
        by_key[version.entry.identity.key] = version
    return sorted(by_key.values(), key=lambda v: v.entry.rank)


def definition(offered: Sequence[Version]) -> dict[str, list[tuple[int, int, int]]]:
    """What a partition is: the newest version of each key; no row that a higher granule owns."""
    ranked = newest(offered)
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for rank, version in enumerate(ranked):
        for position, value in enumerate(version.values):
            path = partition_of(value)
            shares = [h.entry.shares.get(path, Share(0, ())) for h in ranked[rank + 1 :]]
            if not any(low <= value <= high for share in shares for low, high in share.intervals):
                found.setdefault(path, []).append((value, rank, position, version.entry.id))
    return {path: [(v, i, p) for v, _, p, i in sorted(rows)] for path, rows in found.items()}


@settings(max_examples=400, deadline=None)
@given(histories, st.sampled_from([None, 1, 3]))
def test_after_any_history_partitions_hold_what_the_set_of_granules_defines(
    history: list[list[tuple[str, int, list[int]]]], tolerance: int | None
) -> None:
    strategy = TimeSeries(tolerance)
    ledger = Ledger(strategy)
    offered: list[Version] = []
    for batch in history:
        made = [version_of(*v, strategy) for v in batch]
        offered += made
        plan = ledger.offer(made)
        assert ledger.content() == definition(offered)
        assert {e.id for e in ledger.state.ledger} == {v.entry.id for v in newest(offered)}
        assert set(plan.verdicts) == {v.entry.id for v in made}


@settings(max_examples=100, deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_order_or_batching(
    history: list[list[tuple[str, int, list[int]]]], random: Any
) -> None:
    strategy = TimeSeries()
    every = [version_of(*v, strategy) for batch in history for v in batch]
    at_once, one_by_one = Ledger(strategy), Ledger(strategy)
    at_once.offer(every)
    shuffled = list(every)
    random.shuffle(shuffled)
    for version in shuffled:
        one_by_one.offer([version])
    assert at_once.content() == one_by_one.content()


@settings(max_examples=200, deadline=None)
@given(histories)
def test_after_any_history_with_sources_gone_no_row_is_there_twice_and_every_lost_one_is_reported(
    history: list[list[tuple[str, int, list[int]]]],
) -> None:
    strategy = TimeSeries()
    ledger = Ledger(strategy)
    offered: list[Version] = []
    lost: set[int] = set()
    for batch in history:
        made = [version_of(*v, strategy) for v in batch]
        offered += made
        plan = ledger.offer(made, gone={v.entry.id for v in offered} - {v.entry.id for v in made})
        lost |= {e.id for e in plan.lost}
        content, expected = ledger.content(), definition(offered)
        for path, rows in content.items():
            assert len(set(rows)) == len(rows)
            assert rows == [r for r in expected.get(path, []) if r in set(rows)]
        missing = {r[1] for path, rows in expected.items() for r in rows if r not in content.get(path, [])}
        assert missing <= lost


def test_the_choice_of_histories_reaches_every_kind_of_change() -> None:
    strategy = TimeSeries()
    ledger = Ledger(strategy)
    for version in [("p", 3, [0, 5]), ("q", 1, [1, 4]), ("r", 2, [7, 9]), ("s", 3, [4, 8])]:
        ledger.offer([version_of(*version, strategy)])
    assert ledger.changes == [Change.APPEND, Change.NONE, Change.APPEND, Change.REWRITE]


def test_a_plan_names_the_record_it_stands_on() -> None:
    state = state_with(entry("k", 1, {A: [0]}))
    assert make_plan(state, [entry(uuid.uuid4().hex, 1, {A: [1]})]).number == state.number == 1
