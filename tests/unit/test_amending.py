"""Dropping partitions, rolling back, changing attributes: seen alike by the engine and by plain readers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import zarr

from tests.engine_support import (
    DAY_16,
    DAY_17,
    FakeClock,
    Rows,
    S3LikeStore,
    engine_rows,
    heights,
    offer_of,
    plain_columns,
    plain_rows,
    rows_of,
    small_schema,
)
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.log import CommitLog, record_key
from zcollection_engine.commits.records import EVERYTHING, Commit, Grant
from zcollection_engine.committing import Committer
from zcollection_engine.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    SnapshotExpiredError,
    StorageError,
)
from zcollection_engine.ingest import LocalExecutor
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.planning import Verdict
from zcollection_engine.schema import PROVENANCE
from zcollection_engine.testing.stores import Fault, FaultStore, fail_before
from zcollection_engine.transaction import Offer, Outcome, WriterOptions

DAY = 86_400


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[S3LikeStore]:
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    yield made
    made.clear()


@pytest.fixture(params=[1000, 1], ids=["from the log", "from checkpoints"])
def collection(request: pytest.FixtureRequest, store: S3LikeStore, clock: FakeClock) -> Collection:
    """Every story is told with the ledger in memory, and with a checkpoint behind each commit."""
    return create_collection(
        store,
        small_schema(chunk_rows=4),
        DatePartitioning("time", "day"),
        writer=WriterOptions("me", checkpoint_records=request.param),
        clock=clock,
    )


def deliver(collection: Collection, key: str, *seconds: int, precedence: int = 1, offset: int = 0) -> Outcome:
    offer = offer_of(collection, heights(seconds, offset=offset), key, precedence=precedence)
    return collection.commit_offers([offer])


def verdict(outcome: Outcome) -> Verdict:
    (found,) = outcome.verdicts.values()
    return found


def plus(*seconds: int, offset: int = 0) -> Rows:
    return [(s, s + offset) for s in seconds]


def keys(collection: Collection) -> list[str]:
    return sorted(e.identity.key for e in collection.granules())


def check(collection: Collection, expected: dict[str, Rows]) -> None:
    """All readers see the same: by the log, by the documents, by the documents of single arrays, after a restart."""
    store = collection.store
    assert engine_rows(store) == expected
    assert plain_rows(store) == expected
    columns = {path: values for path, values in plain_columns(store, "height").items() if values}
    assert columns == {path: [h for _, h in rows] for path, rows in expected.items()}
    again = open_collection(store)
    for view in (collection, again):
        assert {p.path: p.rows for p in view.partitions()} == {path: len(rows) for path, rows in expected.items()}
        assert {p.path: p.granules for p in view.partitions()} == {
            path: len(view.state.ledger.owners(path)) for path in expected
        }
    assert keys(again) == keys(collection)
    assert len(again.state.ledger) == len(keys(again))
    root = json.loads(store.get("zarr.json").data)["attributes"]
    assert root["zcollection_rows"] == sum(len(rows) for rows in expected.values())
    assert root["zcollection_granules"] == len(keys(collection))


# Dropping.


def test_a_dropped_partition_has_no_rows_and_no_granules_and_the_others_stay(collection: Collection) -> None:
    deliver(collection, "a", 1, 2, DAY)
    deliver(collection, "b", DAY + 5)
    number = collection.drop_partitions([DAY_17])
    assert number == collection.commit
    check(collection, {DAY_16: plus(1, 2)})
    assert keys(collection) == ["a", "b"]
    with pytest.raises(NotFoundError, match="day=17"):
        collection.load([DAY_17])
    assert collection.state.held == {}


def test_granules_of_a_dropped_partition_are_known_when_they_are_delivered_again(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY)
    deliver(collection, "b", DAY + 5)
    collection.drop_partitions([DAY_17])
    assert verdict(deliver(collection, "a", 1, DAY)) is Verdict.KNOWN
    assert verdict(deliver(collection, "b", DAY + 5)) is Verdict.KNOWN
    check(collection, {DAY_16: plus(1)})


def test_a_dropped_partition_fills_again_with_what_is_new_even_below_what_was_dropped(collection: Collection) -> None:
    deliver(collection, "a", 1, 9, precedence=9)
    collection.drop_partitions([DAY_16])
    deliver(collection, "b", 3, 4, precedence=1)
    check(collection, {DAY_16: plus(3, 4)})
    deliver(collection, "c", 5)
    deliver(collection, "d", 4, precedence=5, offset=100)
    check(collection, {DAY_16: [*plus(3), (4, 104), *plus(5)]})


def test_a_newer_version_of_a_key_of_a_dropped_partition_goes_in(collection: Collection) -> None:
    deliver(collection, "a", 1, 2, DAY)
    collection.drop_partitions([DAY_16])
    assert verdict(deliver(collection, "a", 2, 3, precedence=2, offset=10)) is Verdict.COMMITTED
    check(collection, {DAY_16: plus(2, 3, offset=10)})
    assert keys(collection) == ["a"]
    assert verdict(deliver(collection, "a", 1, 2, DAY)) is Verdict.SUPERSEDED


def test_a_partition_can_be_dropped_again_and_again(collection: Collection) -> None:
    for turn in range(5):
        deliver(collection, f"g{turn}", turn, turn + 3, offset=turn)
        check(collection, {DAY_16: plus(turn, turn + 3, offset=turn)})
        collection.drop_partitions([DAY_16])
        check(collection, {})
    assert keys(collection) == [f"g{n}" for n in range(5)]


def test_several_partitions_are_dropped_by_one_commit(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY)
    before = len(list(collection.history()))
    collection.drop_partitions([DAY_17, DAY_16, DAY_17])
    (info,) = list(collection.history())[before:]
    assert (info.operation, info.rows) == ("drop", {DAY_16: 0, DAY_17: 0})
    check(collection, {})


@pytest.mark.parametrize("path", ["year=2023/month=12/day=18", "", "x"])
def test_a_partition_without_rows_cannot_be_dropped(collection: Collection, path: str) -> None:
    deliver(collection, "a", 1)
    before = {i.key: i.etag for i in collection.store.list()}
    with pytest.raises(NotFoundError, match=r"partitions\(\) lists them"):
        collection.drop_partitions([DAY_16, path])
    assert {i.key: i.etag for i in collection.store.list()} == before


def test_dropping_nothing_is_refused(collection: Collection) -> None:
    deliver(collection, "a", 1)
    before = engine_rows(collection.store)
    with pytest.raises(InvalidInputError):
        collection.drop_partitions([])
    assert engine_rows(collection.store) == before


def test_a_partition_that_another_holds_is_not_dropped(
    collection: Collection, store: S3LikeStore, clock: FakeClock
) -> None:
    deliver(collection, "a", 1)
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    log = CommitLog(store)
    grant = Grant(uuid.uuid4().hex, clock.now(), "holder", "s", 60.0, (DAY_16,))
    log.append(other.state.number + 1, grant)
    with pytest.raises(BusyError, match="holder"):
        other.drop_partitions([DAY_16], timeout=0)
    other.drop_partitions([DAY_16])
    assert sum(clock.slept) >= 59
    check(other, {})


def test_a_drop_waits_for_the_readers_of_the_key_space_it_goes_to(store: S3LikeStore, clock: FakeClock) -> None:
    collection = create_collection(
        store,
        small_schema(chunk_rows=4),
        DatePartitioning("time", "day"),
        writer=WriterOptions("me", reader_grace=timedelta(seconds=30)),
        clock=clock,
    )
    for turn in range(3):
        clock.advance(5)
        deliver(collection, "a", 1, 2, precedence=turn, offset=turn)
    assert collection.partitions()[0].generation == 2
    with pytest.raises(BusyError, match="reader_grace"):
        collection.drop_partitions([DAY_16], timeout=0)
    collection.drop_partitions([DAY_16])
    check(collection, {})


# Rolling back.


def test_a_rollback_brings_rows_and_ledger_back_and_the_redelivery_stays_out(collection: Collection) -> None:
    first = deliver(collection, "a", 1, 2).commit
    deliver(collection, "b", 2, DAY, precedence=5, offset=50)
    assert first is not None
    number = collection.rollback(first)
    assert number == collection.commit
    check(collection, {DAY_16: plus(1, 2)})
    assert keys(collection) == ["a"]
    assert verdict(deliver(collection, "b", 2, DAY, precedence=5, offset=50)) is Verdict.WITHDRAWN
    assert verdict(deliver(collection, "a", 1, 2)) is Verdict.KNOWN
    check(collection, {DAY_16: plus(1, 2)})


def test_a_rollback_of_appends_copies_the_rows_that_were_there(collection: Collection) -> None:
    first = deliver(collection, "a", 1, 2, 3, 4, 5).commit
    for turn in range(6, 12):
        deliver(collection, f"g{turn}", turn)
    assert first is not None
    collection.rollback(first)
    check(collection, {DAY_16: plus(1, 2, 3, 4, 5)})
    deliver(collection, "new", 7, offset=1)
    check(collection, {DAY_16: [*plus(1, 2, 3, 4, 5), (7, 8)]})


def test_a_rollback_by_time_takes_the_last_commit_up_to_it(collection: Collection, clock: FakeClock) -> None:
    deliver(collection, "a", 1)
    clock.advance(60)
    moment = clock.now()
    clock.advance(60)
    deliver(collection, "b", 2)
    collection.rollback(moment)
    check(collection, {DAY_16: plus(1)})


def test_a_newer_granule_goes_in_after_a_rollback(collection: Collection) -> None:
    first = deliver(collection, "a", 1).commit
    deliver(collection, "b", 3)
    assert first is not None
    collection.rollback(first)
    assert verdict(deliver(collection, "b", 3, precedence=2, offset=1)) is Verdict.COMMITTED
    check(collection, {DAY_16: [(1, 1), (3, 4)]})


def test_a_rollback_over_a_replaced_granule_brings_the_older_version_back_and_keeps_the_newer_one_out(
    collection: Collection,
) -> None:
    first = deliver(collection, "a", 1, 2).commit
    deliver(collection, "a", 2, DAY, precedence=2, offset=10)
    check(collection, {DAY_16: [(2, 12)], DAY_17: [(DAY, DAY + 10)]})
    assert first is not None
    collection.rollback(first)
    check(collection, {DAY_16: plus(1, 2)})
    assert [e.precedence for e in collection.granules()] == [(1,)]
    assert verdict(deliver(collection, "a", 2, DAY, precedence=2, offset=10)) is Verdict.WITHDRAWN
    assert verdict(deliver(collection, "a", 4, precedence=3)) is Verdict.COMMITTED
    check(collection, {DAY_16: plus(4)})
    assert verdict(deliver(collection, "a", 2, DAY, precedence=2, offset=10)) is Verdict.SUPERSEDED


def test_a_rollback_of_a_rollback_brings_back_what_it_took_out(collection: Collection) -> None:
    first = deliver(collection, "a", 1, 2).commit
    second = deliver(collection, "b", 4, DAY).commit
    assert first is not None
    assert second is not None
    collection.rollback(first)
    collection.rollback(second)
    check(collection, {DAY_16: plus(1, 2, 4), DAY_17: plus(DAY)})
    assert keys(collection) == ["a", "b"]
    assert verdict(deliver(collection, "b", 4, DAY)) is Verdict.KNOWN


def test_a_rollback_over_a_drop_brings_rows_and_shares_back(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY)
    before = deliver(collection, "b", DAY + 3, precedence=5).commit
    assert before is not None
    collection.drop_partitions([DAY_17])
    deliver(collection, "c", DAY + 2, offset=7)
    collection.rollback(before)
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY, DAY + 3)})
    assert [e.identity.key for e in collection.state.ledger.owners(DAY_17)] == ["a", "b"]
    # The shares count again: a granule below them gets no rows.
    deliver(collection, "d", DAY + 3, precedence=2, offset=99)
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY, DAY + 3)})


def test_a_rollback_of_a_rollback_over_a_drop_takes_the_shares_out_again(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY, DAY + 9, precedence=9)
    full = collection.commit
    collection.drop_partitions([DAY_17])
    dropped = collection.commit
    collection.rollback(full)
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY, DAY + 9)})
    collection.rollback(dropped)
    check(collection, {DAY_16: plus(1)})
    assert collection.state.ledger.owners(DAY_17) == []
    deliver(collection, "b", DAY + 3)
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY + 3)})


def test_a_rollback_to_a_partition_that_had_filled_again_leaves_the_dropped_shares_out(collection: Collection) -> None:
    deliver(collection, "a", DAY, DAY + 9, precedence=9)
    full = collection.commit
    collection.drop_partitions([DAY_17])
    deliver(collection, "b", DAY + 3, offset=5)
    filled = collection.commit
    collection.rollback(full)
    check(collection, {DAY_17: plus(DAY, DAY + 9)})
    collection.rollback(filled)
    check(collection, {DAY_17: plus(DAY + 3, offset=5)})
    assert [e.identity.key for e in collection.state.ledger.owners(DAY_17)] == ["b"]
    deliver(collection, "c", DAY + 4)
    check(collection, {DAY_17: [(DAY + 3, DAY + 8), (DAY + 4, DAY + 4)]})


def test_a_replaced_granule_comes_back_without_its_share_in_a_partition_dropped_before(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY, DAY + 9, precedence=3)
    collection.drop_partitions([DAY_17])
    dropped = collection.commit
    deliver(collection, "a", 2, precedence=4, offset=10)
    collection.rollback(dropped)
    check(collection, {DAY_16: plus(1)})
    assert collection.state.ledger.owners(DAY_17) == []
    deliver(collection, "b", DAY + 3)
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY + 3)})


def test_a_granule_that_had_lost_all_its_partitions_comes_back_as_known(collection: Collection) -> None:
    deliver(collection, "a", 1)
    collection.drop_partitions([DAY_16])
    dropped = collection.commit
    deliver(collection, "a", 2, precedence=4)
    collection.rollback(dropped)
    check(collection, {})
    assert keys(collection) == ["a"]
    assert verdict(deliver(collection, "a", 1)) is Verdict.KNOWN
    assert verdict(deliver(collection, "a", 2, precedence=4)) is Verdict.WITHDRAWN


def test_a_rollback_to_the_creation_empties_the_collection(collection: Collection) -> None:
    deliver(collection, "a", 1, DAY)
    deliver(collection, "b", 3)
    collection.rollback(0)
    check(collection, {})
    assert keys(collection) == []
    assert verdict(deliver(collection, "a", 1, DAY)) is Verdict.WITHDRAWN
    deliver(collection, "c", 1)
    check(collection, {DAY_16: plus(1)})


def test_a_rollback_to_the_present_content_is_refused(collection: Collection) -> None:
    number = deliver(collection, "a", 1).commit
    assert number is not None
    before = {i.key: i.etag for i in collection.store.list()}
    for to in (number, collection.state.number):
        with pytest.raises(InvalidInputError, match="content of the last commit already"):
            collection.rollback(to)
    assert {i.key: i.etag for i in collection.store.list()} == before


def test_a_rollback_to_a_record_that_does_not_exist_is_refused(collection: Collection) -> None:
    deliver(collection, "a", 1)
    with pytest.raises(InvalidInputError, match="no record 99"):
        collection.rollback(99)


def test_a_rollback_over_two_rewrites_of_a_partition_is_refused_and_changes_nothing(collection: Collection) -> None:
    first = deliver(collection, "a", 1, 5, DAY).commit
    for turn in (2, 3):
        deliver(collection, "a", 1, 5, DAY, precedence=turn, offset=turn)
    before = {i.key: i.etag for i in collection.store.list()}
    assert first is not None
    with pytest.raises(SnapshotExpiredError, match="rewritten 2 times"):
        collection.rollback(first)
    assert {i.key: i.etag for i in collection.store.list()} == before
    assert collection.state.held == {}


def test_a_rollback_whose_chunks_are_gone_is_refused_and_gives_its_grant_back(
    collection: Collection, store: S3LikeStore
) -> None:
    first = deliver(collection, "a", 1, 5).commit
    deliver(collection, "a", 1, 5, precedence=2, offset=2)
    before = engine_rows(store)
    for info in list(store.list(f"{DAY_16}/height/c/")):
        store.delete(info.key)
    assert first is not None
    with pytest.raises(SnapshotExpiredError):
        collection.rollback(first)
    assert engine_rows(store) == before
    assert open_collection(store).state.held == {}


def test_a_rollback_behind_a_trimmed_log_is_refused(collection: Collection, store: S3LikeStore) -> None:
    deliver(collection, "a", 1)
    deliver(collection, "b", 2)
    collection.checkpoint()
    newest = Checkpoints(store).numbers()[-1]
    for info in list(store.list(".zcommits/checkpoints/"))[:-1]:
        store.delete(info.key)
    for number in range(newest):
        store.delete(record_key(number))
    with pytest.raises(SnapshotExpiredError, match="no longer reaches back"):
        collection.rollback(2)


def test_a_commit_that_comes_between_is_taken_back_too(
    collection: Collection, store: S3LikeStore, clock: FakeClock
) -> None:
    first = deliver(collection, "a", 1).commit
    deliver(collection, "b", 3)
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    assert first is not None
    number = collection.state.number + 1
    overtaken = FaultStore(
        store, [Fault("create", record_key(number), before=lambda *_: void(deliver(other, "c", 4, DAY)))]
    )
    late = open_collection(overtaken, mode="w", writer=WriterOptions("late"), clock=clock)
    late.rollback(first)
    assert overtaken.untriggered == ()
    check(late, {DAY_16: plus(1)})
    assert verdict(deliver(late, "c", 4, DAY)) is Verdict.WITHDRAWN


def void(_: object) -> None:
    return None


def test_a_rollback_that_is_overtaken_at_its_commit_begins_again(
    collection: Collection, store: S3LikeStore, clock: FakeClock
) -> None:
    first = deliver(collection, "a", 1).commit
    deliver(collection, "b", 3)
    assert first is not None
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    number = collection.state.number + 2
    overtaken = FaultStore(
        store, [Fault("create", record_key(number), before=lambda *_: void(other.insert(heights([4]), granule="c")))]
    )
    late = open_collection(overtaken, mode="w", writer=WriterOptions("late", grant_seconds=5), clock=clock)
    late.rollback(first)
    assert overtaken.untriggered == ()
    check(late, {DAY_16: plus(1)})


# Attributes.


def attributes_of(store: S3LikeStore) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Those of the root, and those of the height in consolidated and in single documents of every partition."""
    found = []
    root = json.loads(store.get("zarr.json").data)["attributes"]
    for info in store.list():
        if info.key.endswith("day=16/zarr.json") or info.key.endswith("day=17/zarr.json"):
            document = json.loads(store.get(info.key).data)
            inside = document["consolidated_metadata"]["metadata"]["height"]["attributes"]
            single = json.loads(store.get(info.key.replace("zarr.json", "height/zarr.json")).data)["attributes"]
            found.append((root, inside, single))
    return found


def test_attributes_of_a_variable_are_seen_by_all_readers(collection: Collection, store: S3LikeStore) -> None:
    deliver(collection, "a", 1, DAY)
    collection.set_attributes({"long_name": "height of the sea", "flags": [1, 2]}, variable="height")
    wanted = {"long_name": "height of the sea", "flags": [1, 2]}
    seen = attributes_of(store)
    assert len(seen) == 2
    for _, inside, single in seen:
        assert wanted.items() <= inside.items()
        assert wanted.items() <= single.items()
        assert inside["scale_factor"] == 0.001
    for view in (collection, open_collection(store)):
        assert view.schema["height"].attributes["long_name"] == "height of the sea"
        found = view.load(decode=False)
        assert found["height"].attrs["long_name"] == "height of the sea"
    assert json.loads(store.get("_zcollection.json").data)["commit"] == collection.commit
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY)})


def test_attributes_of_the_collection_are_seen_in_the_root(collection: Collection, store: S3LikeStore) -> None:
    deliver(collection, "a", 1)
    collection.set_attributes({"title": "another title", "doi": "10.1/x"})
    ((root, _, _),) = attributes_of(store)
    assert (root["title"], root["doi"]) == ("another title", "10.1/x")
    collection.set_attributes({"doi": None})
    ((root, _, _),) = attributes_of(store)
    assert (root["title"], "doi" in root) == ("another title", False)
    assert open_collection(store).load(decode=False).attrs == {"title": "another title"}


def test_partitions_that_come_later_have_the_new_attributes(collection: Collection, store: S3LikeStore) -> None:
    collection.set_attributes({"long_name": "h"}, variable="height")
    deliver(collection, "a", 1, DAY)
    deliver(collection, "b", 3)
    assert [(i["long_name"], s["long_name"]) for _, i, s in attributes_of(store)] == [("h", "h")] * 2


def test_a_reader_sees_new_attributes_after_a_refresh(collection: Collection, store: S3LikeStore) -> None:
    deliver(collection, "a", 1)
    reader = open_collection(store)
    collection.set_attributes({"long_name": "h"}, variable="height")
    assert "long_name" not in reader.schema["height"].attributes
    assert reader.refresh().schema["height"].attributes["long_name"] == "h"
    assert reader.load(decode=False)["height"].attrs["long_name"] == "h"


def test_another_writer_takes_new_attributes_over(collection: Collection, store: S3LikeStore, clock: FakeClock) -> None:
    deliver(collection, "a", 1)
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    collection.set_attributes({"long_name": "h"}, variable="height")
    deliver(other, "b", 2)
    assert other.schema["height"].attributes["long_name"] == "h"
    assert [(i["long_name"], s["long_name"]) for _, i, s in attributes_of(store)] == [("h", "h")]
    check(other, {DAY_16: plus(1, 2)})


def test_an_older_commit_has_its_attributes(collection: Collection, store: S3LikeStore) -> None:
    number = deliver(collection, "a", 1).commit
    collection.set_attributes({"long_name": "h"}, variable="height")
    assert "long_name" not in open_collection(store, at=number).load(decode=False)["height"].attrs


def test_a_rollback_over_a_change_of_attributes_brings_the_old_ones_back(
    collection: Collection, store: S3LikeStore
) -> None:
    number = deliver(collection, "a", 1, DAY).commit
    collection.set_attributes({"long_name": "h"}, variable="height")
    deliver(collection, "b", 3)
    assert number is not None
    collection.rollback(number)
    assert all("long_name" not in i and "long_name" not in s for _, i, s in attributes_of(store))
    assert "long_name" not in open_collection(store).schema["height"].attributes
    check(collection, {DAY_16: plus(1), DAY_17: plus(DAY)})


def test_a_rollback_of_attributes_alone_copies_no_rows(collection: Collection, store: S3LikeStore) -> None:
    number = deliver(collection, "a", 1).commit
    collection.set_attributes({"long_name": "h"}, variable="height")
    assert number is not None
    collection.rollback(number)
    assert collection.partitions()[0].generation == 0
    assert all("long_name" not in s for _, _, s in attributes_of(store))


@pytest.mark.parametrize("name", ["units", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned"])
def test_attributes_that_say_what_numbers_mean_cannot_be_changed(collection: Collection, name: str) -> None:
    before = {i.key: i.etag for i in collection.store.list()}
    with pytest.raises(InvalidInputError, match=f"{name!r} of 'height'"):
        collection.set_attributes({name: 1}, variable="height")
    assert {i.key: i.etag for i in collection.store.list()} == before


@pytest.mark.parametrize("name", ["depth", PROVENANCE])
def test_attributes_of_a_variable_that_is_not_there_are_refused(collection: Collection, name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        collection.set_attributes({"long_name": "x"}, variable=name)


@pytest.mark.parametrize(
    ("value", "seen"),
    [(float("nan"), "NaN"), (np.float32(2.5), 2.5), (np.arange(3), [0, 1, 2]), ((1, "a"), [1, "a"]), (b"x", "x")],
    ids=["nan", "scalar", "array", "tuple", "bytes"],
)
def test_attributes_of_any_kind_become_strict_json(
    collection: Collection, store: S3LikeStore, value: Any, seen: Any
) -> None:
    deliver(collection, "a", 1)
    collection.set_attributes({"x": value})
    collection.set_attributes({"x": value}, variable="height")
    ((root, inside, single),) = attributes_of(store)
    assert root["x"] == inside["x"] == single["x"] == seen
    assert open_collection(store).schema.attributes["x"] == seen


def test_everything_is_granted_for_new_attributes_and_given_back(collection: Collection, store: S3LikeStore) -> None:
    deliver(collection, "a", 1)
    collection.set_attributes({"x": 1})
    records = [r for _, r in CommitLog(store).follow(collection.commit - 2)]
    assert [r.kind for r in records[:2]] == ["grant", "commit"]
    assert isinstance(records[0], Grant)
    assert records[0].partitions == (EVERYTHING,)
    assert isinstance(records[1], Commit)
    assert (records[1].operation, records[1].partitions) == ("attributes", {})
    assert collection.state.held == {}


def test_a_granule_waits_while_everything_is_granted(
    collection: Collection, store: S3LikeStore, clock: FakeClock
) -> None:
    deliver(collection, "a", 1)
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    grant = Grant(uuid.uuid4().hex, clock.now(), "holder", "s", 60.0, (EVERYTHING,))
    CommitLog(store).append(other.state.number + 1, grant)
    with pytest.raises(BusyError, match="holder"):
        other.insert(heights([DAY * 5]), timeout=0)


def test_rows_written_by_a_fresh_process_under_new_attributes_are_right(
    collection: Collection, store: S3LikeStore
) -> None:
    collection.set_attributes({"long_name": "h"}, variable="height")
    outcome = collection.commit_offers([offer_of(collection, heights([1, 2]), "a")], LocalExecutor(store))
    assert outcome.commit is not None
    assert rows_of(open_collection(store).load(decode=False)) == plus(1, 2)  # type: ignore[arg-type]


def test_zarr_reads_new_attributes_with_and_without_consolidated_metadata(
    collection: Collection, store: S3LikeStore
) -> None:
    deliver(collection, "a", 1)
    collection.set_attributes({"long_name": "h"}, variable="height")
    make = zarr.core.buffer.cpu.Buffer.from_bytes
    folder = zarr.storage.MemoryStore({i.key: make(store.get(i.key).data) for i in store.list()})
    for consolidated in (True, False):
        group = zarr.open_group(folder, path=DAY_16, mode="r", use_consolidated=consolidated)
        assert group["height"].attrs["long_name"] == "h"


def test_an_object_that_got_its_earlier_content_back_comes_in_again(collection: Collection) -> None:
    first = offer_of(collection, heights(range(3)), "k", precedence=1)
    collection.commit_offers([first])
    deliver(collection, "k", 0, 1, 2, precedence=2, offset=50)
    restored = Offer(replace(first.entry, precedence=(3,)), first.payload)
    assert verdict(collection.commit_offers([restored])) is Verdict.COMMITTED
    check(collection, {DAY_16: plus(0, 1, 2)})


def test_a_version_that_came_and_was_replaced_since_stays_out_after_a_rollback(collection: Collection) -> None:
    before = deliver(collection, "k", 0, 1, precedence=1).commit
    assert before is not None
    deliver(collection, "k", DAY, precedence=2)
    deliver(collection, "k", DAY, precedence=3, offset=70)
    collection.rollback(before)
    for version in (2, 3):
        assert verdict(deliver(collection, "k", DAY, precedence=version)) is Verdict.WITHDRAWN
    check(collection, {DAY_16: plus(0, 1)})


def test_a_rollback_of_granules_without_shares_gives_way_to_a_newer_version_that_comes_meanwhile(
    store: S3LikeStore, clock: FakeClock
) -> None:
    create_collection(store, small_schema(), DatePartitioning("time", "day"), clock=clock)
    other = open_collection(store, mode="w", clock=clock)

    def deliver_again(_method: str, _key: str) -> None:
        deliver(other, "k", DAY, precedence=2)

    # Granule, drop, and the grant of the rollback: two records each for the first two, then 5; its commit would be 6.
    disturbed = FaultStore(store, [Fault("create", record_key(6), before=deliver_again)])
    collection = open_collection(disturbed, mode="w", clock=clock)
    deliver(collection, "k", 0)
    collection.drop_partitions([DAY_16])
    collection.rollback(0)
    assert not disturbed.untriggered
    check(collection, {})
    for version in (1, 2):
        assert verdict(deliver(collection, "k", 0, precedence=version)) is Verdict.WITHDRAWN


def test_a_writer_that_failed_to_read_a_new_configuration_reads_it_at_the_next_step(
    store: S3LikeStore, clock: FakeClock
) -> None:
    create_collection(store, small_schema(), DatePartitioning("time", "day"), clock=clock)
    disturbed = FaultStore(store, [fail_before("get", ".zcommits/configs/*", nth=2)])
    late = open_collection(disturbed, mode="w", clock=clock)
    open_collection(store, mode="w", clock=clock).set_attributes({"title": "new"})
    with pytest.raises(StorageError):
        late.refresh()
    deliver(late, "k", 0)
    assert not disturbed.untriggered
    assert json.loads(store.get(f"{DAY_16}/zarr.json").data)["attributes"]["title"] == "new"
    assert json.loads(store.get("zarr.json").data)["attributes"]["title"] == "new"


# A granule whose partitions were dropped, and come back while it leaves.


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What other writers do once, right behind the next grant of no partition."""
    todo: list[Callable[[], object]] = []
    prepare = Committer.prepare

    def disturbed(self: Committer, granted: Granted, rewritten: Any) -> None:
        prepare(self, granted, rewritten)
        if todo and not granted.grant.partitions:
            todo.pop()()

    monkeypatch.setattr(Committer, "prepare", disturbed)
    return todo


def test_a_granule_that_is_retracted_while_a_rollback_brings_its_rows_back_leaves_with_them(
    collection: Collection, store: S3LikeStore, clock: FakeClock, meanwhile: list[Callable[[], object]]
) -> None:
    deliver(collection, "a", 1, 2)
    filled = collection.commit
    collection.drop_partitions([DAY_16])
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    meanwhile.append(lambda: other.rollback(filled))
    (entry,) = collection.granules()
    collection.retract([entry.id])
    assert meanwhile == []
    assert (engine_rows(store), list(collection.granules())) == ({}, [])


def test_a_version_that_is_replaced_while_a_rollback_brings_its_rows_back_leaves_with_them(
    collection: Collection, store: S3LikeStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(collection, "a", 1, 2)
    filled = collection.commit
    collection.drop_partitions([DAY_16])
    other = open_collection(store, mode="w", writer=WriterOptions("other"), clock=clock)
    prepare, todo = Committer.prepare, [lambda: other.rollback(filled)]

    def disturbed(self: Committer, granted: Granted, rewritten: Any) -> None:
        prepare(self, granted, rewritten)
        if todo and granted.grant.partitions == (DAY_17,):
            todo.pop()()

    monkeypatch.setattr(Committer, "prepare", disturbed)
    deliver(collection, "a", DAY, precedence=2)
    assert todo == []
    assert engine_rows(store) == {DAY_17: [(DAY, DAY)]}
