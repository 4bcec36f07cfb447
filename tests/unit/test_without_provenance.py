"""Collections whose rows do not tell their granule: what stays the same, and what is not possible."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import DAY_16
from tests.merge_engine import Landing, a_collection, offer, one, present
from tests.merge_ledger import A, B
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.merging import Concat, Custom, Replace, Strategy, TimeSeries, Upsert
from zcollection_engine.planning import Verdict
from zcollection_engine.verification.verifying import verify

OLD, NEW = one("k", 1, 1, 2, 9), one("k", 2, 2, 3, 9)
FUNCTION = Custom("tests.merge_functions:keep_all")


@pytest.mark.parametrize("strategy", [TimeSeries(), Replace(), Concat(), Upsert()], ids=str)
def test_the_row_variable_is_not_stored_and_lineage_is_refused(strategy: Strategy) -> None:
    with a_collection(strategy, provenance=False) as collection:
        Landing(collection).deliver(OLD)
        rows = collection.load()
        assert isinstance(rows, xr.Dataset)
        assert "granule" not in rows
        with pytest.raises(InvalidInputError, match="keeps no provenance"):
            collection.lineage(DAY_16)
        assert verify(collection).findings == ()


@pytest.mark.parametrize("strategy", [TimeSeries(), Replace()], ids=str)
def test_where_intervals_tell_the_granule_versions_are_replaced_and_granules_retracted(strategy: Strategy) -> None:
    with a_collection(strategy, provenance=False) as collection:
        landing = Landing(collection)
        low = one("low", 0, 0, 2, 5)
        landing.deliver(low, OLD)
        landing.deliver(NEW)
        landing.retract("k")
        assert landing.content() == {A: [(low.id, 0), (low.id, 1), (low.id, 2)]}
        assert landing.deliver(NEW).verdicts == {NEW.id: Verdict.WITHDRAWN}


@pytest.mark.parametrize("strategy", [Upsert(), Concat(), FUNCTION], ids=str)
def test_where_nothing_tells_the_granule_a_retraction_is_refused_and_changes_nothing(strategy: Strategy) -> None:
    with a_collection(strategy, provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(OLD)
        before = collection.commit
        with pytest.raises(InvalidInputError, match=r"'k' cannot be retracted.*no provenance"):
            landing.retract("k")
        assert (collection.commit, present(collection)) == (before, {"k"})


def test_concat_refuses_a_newer_version_with_its_reason_and_takes_it_under_another_name() -> None:
    with a_collection(Concat(), provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(OLD)
        before = landing.content()
        with pytest.raises(InvalidGranuleError, match=r"'k' is in already") as caught:
            landing.deliver(NEW)
        assert caught.value.code == "no_provenance"
        assert landing.content() == before
        landing.deliver(one("k2", 2, 2, 3, 9))
        assert {path: len(rows) for path, rows in landing.content().items()} == {A: 4, B: 2}


def test_upsert_overwrites_keys_of_an_older_version_and_keeps_its_other_rows() -> None:
    with a_collection(Upsert(), provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(OLD)
        landing.deliver(NEW)
        assert landing.content() == {A: [(OLD.id, 0), (NEW.id, 0), (NEW.id, 1)], B: [(NEW.id, 2)]}
        assert present(collection) == {"k"}


def test_upsert_lets_the_later_arrival_win_whatever_its_rank() -> None:
    high, low = one("high", 2, 1, 2), one("low", 1, 2, 3)
    with a_collection(Upsert(), provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(high)
        landing.deliver(low)
        assert landing.content() == {A: [(high.id, 0), (low.id, 0), (low.id, 1)]}
    with a_collection(Upsert(), provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(high, low)
        assert landing.content() == {A: [(high.id, 0), (high.id, 1), (low.id, 1)]}


def test_a_function_of_the_users_gets_the_rows_of_the_older_version_too() -> None:
    with a_collection(FUNCTION, provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(OLD)
        landing.deliver(NEW)
        assert landing.content()[A] == [(OLD.id, 0), (OLD.id, 1), (NEW.id, 0), (NEW.id, 1)]
        assert collection.partitions()[0].generation == 1


def test_a_reader_keeps_its_rows_while_a_function_merges_a_newer_version() -> None:
    with a_collection(Custom("tests.merge_functions:keep_newcomers"), provenance=False) as collection:
        landing = Landing(collection)
        landing.deliver(OLD)
        rows = collection.load([DAY_16], decode=False)
        landing.deliver(NEW)
        assert isinstance(rows, xr.Dataset)
        stored = offer(collection, OLD).payload.variables["height"].values
        np.testing.assert_array_equal(rows["height"].values, stored[:2])
