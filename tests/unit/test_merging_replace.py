"""replace: a partition holds the rows of its highest granule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.merge_ledger import A, B, MergeLedger, Step, Version, check_history, examples, histories
from tests.merge_ledger import check_history_with_sources_gone as check_gone
from zcollection_engine.merging import Change, Replace


@examples(20)
@given(histories, st.booleans())
def test_after_any_history_the_rows_are_those_of_the_definition(history: list[Step], rewrite: bool) -> None:
    check_history(history, Replace(), merge_oracles.replace, rewrite=rewrite)


@examples(10)
@given(histories, st.booleans())
def test_without_provenance_the_rows_are_the_same(history: list[Step], rewrite: bool) -> None:
    check_history(history, Replace(), merge_oracles.replace, provenance=False, rewrite=rewrite)


@examples(5)
@given(histories)
def test_with_sources_gone_no_row_is_there_twice_and_every_loser_is_named(history: list[Step]) -> None:
    check_gone(history, Replace(), merge_oracles.replace)


def test_a_lower_granule_is_recorded_and_changes_nothing() -> None:
    ledger = MergeLedger(Replace())
    low, high = Version("low", 1, ((3, 0.5, "a"),)), Version("high", 2, ((5, 0.5, "a"),))
    ledger.deliver([high])
    ledger.deliver([low])
    assert ledger.content() == {A: [(high.id, 0)]}
    assert ledger.changes == {Change.APPEND, Change.NONE}
    assert low.id in ledger.state.ledger


def test_each_partition_has_a_winner_of_its_own() -> None:
    ledger = MergeLedger(Replace())
    low, high = Version("low", 1, ((3, 0.5, "a"), (9, 0.5, "a"))), Version("high", 2, ((5, 0.5, "a"),))
    ledger.deliver([low, high])
    assert ledger.content() == {A: [(high.id, 0)], B: [(low.id, 1)]}


def test_when_the_winner_goes_only_the_next_one_is_read_again() -> None:
    ledger = MergeLedger(Replace())
    versions = [Version(key, n, ((n, 0.5, "a"),)) for n, key in enumerate(["lowest", "middle", "highest"])]
    ledger.deliver(versions)
    plan = ledger.retract(versions[2])
    assert [e.identity.key for e in plan.restored] == ["middle"]
    assert ledger.content() == {A: [(versions[1].id, 0)]}
