"""Taking granules out: rows that they had taken come back, and they stay out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.engine_support import DAY_16, DAY_17, FakeClock, S3LikeStore
from tests.merge_engine import Landing, a_collection, keys_of, offer, one, present, schema
from tests.merge_ledger import A, B
from zcollection_engine import DatePartitioning, WriterOptions, create_collection, open_collection
from zcollection_engine.errors import InvalidInputError, NotFoundError, ReadOnlyError
from zcollection_engine.merging import Concat, Custom, Replace, Strategy, TimeSeries, Upsert
from zcollection_engine.planning import Verdict
from zcollection_engine.transaction import Offer
from zcollection_engine.verification.verifying import verify

LOW = one("low", 1, 0, 2, 4, 8)
HIGH = one("high", 2, 1, 2, 3, 9)


@pytest.fixture
def landing() -> Iterator[Landing]:
    """Two granules in a time series, one of which has taken a row from the other."""
    with a_collection(TimeSeries()) as collection:
        made = Landing(collection)
        made.deliver(LOW, HIGH)
        yield made


@pytest.mark.parametrize(
    ("strategy", "before"),
    [
        (TimeSeries(), {A: [(LOW.id, 0), (HIGH.id, 0), (HIGH.id, 1), (HIGH.id, 2), (LOW.id, 2)]}),
        (Upsert(), {A: [(LOW.id, 0), (HIGH.id, 0), (HIGH.id, 1), (HIGH.id, 2), (LOW.id, 2)]}),
        (Replace(), {A: [(HIGH.id, 0), (HIGH.id, 1), (HIGH.id, 2)]}),
        (Concat(), {A: [(LOW.id, 0), (HIGH.id, 0), (LOW.id, 1), (HIGH.id, 1), (HIGH.id, 2), (LOW.id, 2)]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_that_a_granule_had_taken_come_back_when_it_goes(strategy: Strategy, before: dict[str, Any]) -> None:
    with a_collection(strategy) as collection:
        landing = Landing(collection)
        landing.deliver(LOW, HIGH)
        assert landing.content()[A] == before[A]
        outcome = landing.retract("high")
        assert landing.content() == {A: [(LOW.id, 0), (LOW.id, 1), (LOW.id, 2)], B: [(LOW.id, 3)]}
        assert (outcome.lost, outcome.verdicts) == ((), {})
        assert {p.path for p in outcome.partitions} == {DAY_16, DAY_17}
        assert verify(collection).findings == ()


def test_of_rows_whose_source_is_gone_the_granule_is_named_and_keeps_what_it_has(landing: Landing) -> None:
    landing.remove_source(LOW)
    outcome = landing.retract("high")
    assert [entry.identity.key for entry in outcome.lost] == ["low"]
    assert landing.content() == {A: [(LOW.id, 0), (LOW.id, 2)], B: [(LOW.id, 3)]}
    last = list(landing.collection.history())[-1]
    assert last.lost == (LOW.id,)
    assert [finding.code.value for finding in verify(landing.collection).findings] == ["lost_granule"]


def test_the_same_version_stays_out_when_it_is_delivered_again(landing: Landing) -> None:
    landing.retract("high")
    before = landing.content()
    outcome = landing.deliver(HIGH)
    assert (outcome.commit, outcome.verdicts) == (None, {HIGH.id: Verdict.WITHDRAWN})
    assert landing.content() == before


def test_a_newer_version_comes_in_after_a_retraction(landing: Landing) -> None:
    landing.retract("high")
    newer = one("high", 3, 3, 4)
    assert landing.deliver(newer).verdicts == {newer.id: Verdict.COMMITTED}
    assert landing.content()[A] == [(LOW.id, 0), (LOW.id, 1), (newer.id, 0), (newer.id, 1)]
    assert landing.deliver(HIGH).verdicts == {HIGH.id: Verdict.SUPERSEDED}


def test_an_older_version_that_comes_after_a_retraction_comes_in(landing: Landing) -> None:
    landing.retract("high")
    older = one("high", 0, 1)
    assert landing.deliver(older).verdicts == {older.id: Verdict.COMMITTED}


def test_a_replaced_version_does_not_come_back_when_its_successor_goes(landing: Landing) -> None:
    landing.deliver(one("high", 3, 3, 4))
    landing.retract("high")
    assert present(landing.collection) == {"low"}
    assert landing.content() == {A: [(LOW.id, 0), (LOW.id, 1), (LOW.id, 2)], B: [(LOW.id, 3)]}


def test_history_and_difference_tell_what_went(landing: Landing) -> None:
    before = landing.collection.commit
    outcome = landing.retract("high")
    last = list(landing.collection.history())[-1]
    assert (last.number, last.operation, last.granules, last.removed) == (outcome.commit, "retract", (), ("high",))
    assert last.rows == {DAY_16: 3, DAY_17: 1}
    difference = landing.collection.diff(before, landing.collection.commit)
    assert [e.identity.key for e in difference.removed] == ["high"]
    assert difference.granules == ()
    assert difference.partitions.keys() == {DAY_16, DAY_17}


def test_a_rollback_over_a_retraction_brings_the_granule_back(landing: Landing) -> None:
    before, number = landing.content(), landing.collection.commit
    landing.retract("high")
    landing.collection.rollback(number)
    assert landing.content() == before
    assert present(landing.collection) == {"low", "high"}
    assert landing.deliver(HIGH).verdicts == {HIGH.id: Verdict.KNOWN}
    assert verify(landing.collection).findings == ()


def test_a_granule_that_a_rollback_brought_back_can_be_retracted_again(landing: Landing) -> None:
    number = landing.collection.commit
    landing.retract("high")
    after = landing.content()
    landing.collection.rollback(number)
    landing.retract("high")
    assert landing.content() == after
    assert landing.deliver(HIGH).verdicts == {HIGH.id: Verdict.WITHDRAWN}


def test_a_granule_is_named_by_its_key_or_its_id(landing: Landing) -> None:
    landing.retract(LOW.id)
    assert present(landing.collection) == {"high"}
    landing.retract("high")
    assert landing.content() == {}
    assert landing.collection.partitions() == []


def test_a_granule_named_twice_goes_once(landing: Landing) -> None:
    landing.retract("high", HIGH.id, "high")
    assert present(landing.collection) == {"low"}
    assert len(landing.collection.state.ledger) == 1
    assert list(landing.collection.history())[-1].removed == ("high",)


def test_a_granule_and_its_loser_go_in_one_transaction_without_reading_either_again(landing: Landing) -> None:
    landing.deliver(one("middle", 1, 4, 6))
    landing.retract("high", "low")
    assert landing.sources.reread_keys == []
    assert present(landing.collection) == {"middle"}
    assert keys_of(landing.collection, DAY_16) == ["middle", "middle"]


@pytest.mark.parametrize("granule", ["nothing", 42])
def test_a_granule_that_is_not_in_is_refused_by_its_name(landing: Landing, granule: int | str) -> None:
    before = landing.collection.commit
    with pytest.raises(NotFoundError, match=f"no granule {granule!r} is in"):
        landing.retract("high", granule)
    assert landing.collection.commit == before


def test_nothing_cannot_be_retracted(landing: Landing) -> None:
    with pytest.raises(InvalidInputError, match="name the granules"):
        landing.retract()


def test_a_key_that_is_in_from_two_buckets_must_be_named_by_its_id(landing: Landing) -> None:
    made = offer(landing.collection, HIGH)
    other = replace(made.entry, identity=replace(made.entry.identity, bucket="other"))
    landing.collection.commit_offers([Offer(other, made.payload)], landing.sources)
    with pytest.raises(InvalidInputError, match=r"bucket, other.*by its id"):
        landing.retract("high")
    landing.retract(other.id)
    assert len(landing.collection.state.ledger) == 2


def test_a_granule_whose_partitions_were_dropped_can_go(landing: Landing) -> None:
    landing.collection.drop_partitions([DAY_16, DAY_17])
    outcome = landing.retract("high")
    assert outcome.partitions == ()
    assert present(landing.collection) == {"low"}
    assert landing.deliver(HIGH).verdicts == {HIGH.id: Verdict.WITHDRAWN}


def test_a_granule_goes_from_the_partitions_that_are_left_to_it(landing: Landing) -> None:
    landing.collection.drop_partitions([DAY_16])
    landing.retract("high")
    assert landing.content() == {B: [(LOW.id, 3)]}


def test_a_collection_opened_for_reading_retracts_nothing(landing: Landing) -> None:
    with pytest.raises(ReadOnlyError):
        open_collection(landing.collection.store).retract(["high"])


@pytest.mark.parametrize("records", [1000, 1], ids=["from the log", "from checkpoints"])
def test_a_reopened_collection_knows_what_was_retracted(records: int) -> None:
    clock = FakeClock()
    store = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    options = WriterOptions("me", checkpoint_records=records)
    rules = DatePartitioning("time", "day")
    landing = Landing(create_collection(store, schema(), rules, writer=options, clock=clock))
    landing.deliver(LOW, HIGH)
    landing.retract("high")
    again = Landing(open_collection(store, mode="w", writer=options, clock=clock))
    assert present(again.collection) == {"low"}
    assert again.deliver(HIGH).verdicts == {HIGH.id: Verdict.WITHDRAWN}
    store.clear()


def test_under_a_function_of_the_users_only_the_granules_own_rows_go() -> None:
    with a_collection(Custom("tests.merge_functions:keep_newcomers")) as collection:
        landing = Landing(collection)
        landing.deliver(LOW)
        landing.deliver(HIGH)
        assert landing.content()[A] == [(LOW.id, 0), (HIGH.id, 0), (HIGH.id, 1), (HIGH.id, 2), (LOW.id, 2)]
        outcome = landing.retract("high")
        assert outcome.lost == ()
        assert landing.content()[A] == [(LOW.id, 0), (LOW.id, 2)]


def test_each_row_tells_its_granule_through_all_of_it(landing: Landing) -> None:
    collection = landing.collection
    assert keys_of(collection, DAY_16) == ["low", "high", "high", "high", "low"]
    assert keys_of(collection, DAY_16, slice(1, 3)) == ["high", "high"]
    assert keys_of(collection, DAY_16, [4, 0, 1]) == ["low", "low", "high"]
    landing.deliver(one("high", 3, 4))
    assert keys_of(collection, DAY_16) == ["low", "low", "high"]
    landing.retract("low")
    assert keys_of(collection, DAY_16) == ["high"]
    with pytest.raises(NotFoundError, match="no partition"):
        collection.lineage(DAY_17)
