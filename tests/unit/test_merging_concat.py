"""concat: all rows of all granules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import merge_oracles
from tests.merge_ledger import (
    A,
    MergeLedger,
    Model,
    Step,
    Version,
    check_history,
    deliveries,
    examples,
    histories,
)
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.merging import Change, Concat
from zcollection_engine.planning import Verdict


@examples(20)
@given(histories, st.booleans())
def test_after_any_history_the_rows_are_those_of_the_definition(history: list[Step], rewrite: bool) -> None:
    check_history(history, Concat(), merge_oracles.concat, rewrite=rewrite)


@examples(10)
@given(deliveries, st.booleans())
def test_without_provenance_the_rows_are_the_same_and_those_of_equal_time_stand_as_they_came(
    history: list[list[Version]], rewrite: bool
) -> None:
    ledger, model = MergeLedger(Concat(), provenance=False, rewrite=rewrite), Model()
    for number, batch in enumerate(history):
        # One key a version: a newer one is refused.
        renamed = [Version(f"{v.key}{number}{place}", v.precedence, v.rows) for place, v in enumerate(batch)]
        model.deliver(renamed)
        ledger.deliver(renamed)
        content = model.content(merge_oracles.concat)
        assert {p: sorted(rows) for p, rows in ledger.content().items()} == {p: sorted(r) for p, r in content.items()}
        for path, table in ledger.tables.items():
            assert table["time"].tolist() == [time_of(model, row) for row in content.get(path, [])]


def time_of(model: Model, row: tuple[int, int]) -> int:
    (version,) = [v for v in model.present.values() if v.id == row[0]]
    time = version.rows[row[1]][0]
    assert isinstance(time, int)
    return time


ROW = (3, 0.5, "a")


def test_rows_of_equal_time_stand_by_rank_with_provenance_and_as_they_came_without() -> None:
    low, high = Version("low", 1, (ROW, ROW)), Version("high", 2, (ROW,))
    for provenance, expected in (
        (True, [(low.id, 0), (low.id, 1), (high.id, 0)]),
        (False, [(high.id, 0), (low.id, 0), (low.id, 1)]),
    ):
        ledger = MergeLedger(Concat(), provenance=provenance)
        ledger.deliver([high])
        ledger.deliver([low])
        assert ledger.content() == {A: expected}


def test_without_provenance_a_newer_version_is_refused_by_its_key_and_an_older_one_is_superseded() -> None:
    ledger = MergeLedger(Concat(), provenance=False)
    ledger.deliver([Version("k", 2, (ROW,))])
    before = ledger.content()
    with pytest.raises(InvalidGranuleError, match=r"'k'.*no provenance") as caught:
        ledger.deliver([Version("other", 9, (ROW,)), Version("k", 3, (ROW,))])
    assert caught.value.code == "no_provenance"
    assert ledger.content() == before
    old = Version("k", 1, (ROW,))
    assert ledger.deliver([old]).verdicts == {old.id: Verdict.SUPERSEDED}


def test_without_provenance_nothing_can_be_retracted() -> None:
    ledger = MergeLedger(Concat(), provenance=False)
    version = Version("k", 2, (ROW,))
    ledger.deliver([version])
    with pytest.raises(InvalidInputError, match="'k' cannot be retracted"):
        ledger.retract(version)


def test_rows_behind_all_others_are_appended_and_no_loser_is_read_again() -> None:
    ledger = MergeLedger(Concat())
    first, second = Version("a", 1, ((1, 0.5, "a"), (4, 0.5, "a"))), Version("b", 2, ((5, 0.5, "a"),))
    ledger.deliver([first])
    ledger.deliver([second])
    assert ledger.changes == {Change.APPEND}
    ledger.deliver([Version("c", 3, ((2, 0.5, "a"),))])
    assert ledger.changes == {Change.APPEND, Change.REWRITE}
    assert ledger.retract(second).restored == ()
