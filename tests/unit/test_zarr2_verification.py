"""Verification, repair and garbage collection of Zarr v2: clean in every phase, each damage found and undone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.engine_support import DAY_16, DAY_17, FakeClock, S3LikeStore
from tests.verification_support import codes, copy_of, deaths, flip, overwrite
from tests.zarr2_support import (
    DAY,
    HIDDEN,
    check_copies,
    check_readers,
    created,
    engine_columns,
    filled,
    keys,
    opened,
    private,
    public,
    rows,
    shown,
)
from zcollection_engine import Collection, open_collection
from zcollection_engine.errors import SnapshotExpiredError
from zcollection_engine.layout.chunkstore import is_tombstone, tombstone
from zcollection_engine.repairing import repair
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import Fault, FaultStore
from zcollection_engine.verification.report import Chunks
from zcollection_engine.verification.verifying import verify

NOTHING = timedelta(0)
DOCUMENTS = (
    f"{DAY_16}/.zmetadata",
    f"{DAY_16}/.zattrs",
    f"{DAY_16}/.zgroup",
    f"{DAY_16}/height/.zarray",
    f"{DAY_16}/label/.zattrs",
    ".zattrs",
    ".zgroup",
    ".zcollection",
    ".immutable/.zmetadata",
    ".immutable/band/.zarray",
)


def check(store: ObjectStore, chunks: Chunks = "decode") -> dict[str, set[str]]:
    return codes(verify(open_collection(store), chunks=chunks, store=store))


@pytest.fixture
def damaged(original_v2: MemoryStore) -> Iterator[MemoryStore]:
    """A collection to be damaged: rewritten and appended to in its first partition."""
    made = copy_of(original_v2)
    yield made
    made.clear()


# Clean phases.


def test_every_phase_of_a_collection_verifies_clean(store: ObjectStore) -> None:
    collection = created(store)
    assert check(store) == {}
    for turn in range(5):
        collection.insert(rows([turn, 20 * turn, 20 * turn + 1], offset=turn), granule=f"g{turn}")
        assert check(store) == {}
    collection.insert(rows([400, DAY]), granule="behind")
    assert check(store) == {}
    collection.drop_partitions([DAY_17])
    collection.set_attributes({"title": "new"})
    collection.retract(["behind"])
    assert check(store) == {}
    assert check(store, "present") == {}
    assert verify(collection).counts.foreign == 0


@pytest.mark.parametrize("values", [[30, 31], [DAY + 30], [DAY + 1]], ids=["to a rewrite", "to the first", "a rewrite"])
def test_what_a_death_leaves_is_no_fault(original_v2: MemoryStore, values: list[int]) -> None:
    """Also the rows that an append without a commit left behind the last ones, of which readers are shown no copy."""
    for number, (left, _) in enumerate(deaths(original_v2, lambda s: opened(s).insert(rows(values), granule="new"))):
        assert verify(open_collection(left), chunks="present").ok
        if number % 4 == 0:
            report = verify(open_collection(left))
            assert report.ok, report.faults


def test_a_rewrite_whose_copy_was_not_made_is_a_note(damaged: MemoryStore) -> None:
    for left, _ in deaths(damaged, lambda s: opened(s).insert(rows([DAY + 1], offset=5), granule="late")):
        state = open_collection(left).state.partitions[DAY_17]
        if state.generation == 1 and shown(left, DAY_17)[0] == 0:
            assert f"{DAY_17}/.zmetadata" in check(left)["unpublished"]
            assert repair(opened(left)).ok
            assert check(left) == {}
            check_copies(left)
            return
    pytest.fail("no death came between commit and flip")


# Damage.


@pytest.mark.parametrize("key", DOCUMENTS)
@pytest.mark.parametrize("how", ["gone", "cut", "empty"])
def test_a_damaged_document_is_found_and_written_again(damaged: MemoryStore, key: str, how: str) -> None:
    before = damaged.get(key).data
    if how == "gone":
        damaged.delete(key)
    else:
        overwrite(damaged, key, before[:-7] if how == "cut" else b"")
    found = check(damaged, "none")
    assert {code: found_keys & {key} for code, found_keys in found.items()} == {
        "missing_document" if how == "gone" else "damaged_document": {key}
    }
    assert repair(opened(damaged), store=damaged).ok
    assert damaged.get(key).data == before
    assert check(damaged) == {}


def test_every_private_chunk_that_is_gone_or_damaged_is_told(damaged: MemoryStore) -> None:
    chunks = private(damaged, DAY_16, 1)
    for number, key in enumerate(chunks):
        if number % 2:
            damaged.delete(key)
        else:
            flip(damaged, key, 40)
    found = check(damaged)
    assert found["missing_chunk"] == set(chunks[1::2])
    # A mark's byte may have been hit, which is no value: then just the copy is another one.
    assert found.get("damaged_chunk", set()) <= set(chunks[::2])
    assert len(found.get("damaged_chunk", set()) | found.get("bad_copy", set())) >= len(chunks[::2])


@pytest.mark.parametrize("how", ["gone", "flipped", "cut", "a tombstone", "of another chunk"])
def test_every_copy_that_is_not_one_is_found_and_copied_again(damaged: MemoryStore, how: str) -> None:
    expected = engine_columns(open_collection(damaged), DAY_16)
    chunks = [key for key in public(damaged, DAY_16) if not key.endswith(("profile/0.0", "label/2"))]
    last = damaged.get(f"{DAY_16}/granule/1").data
    for key in chunks:
        if how == "gone":
            damaged.delete(key)
        elif how == "flipped":
            flip(damaged, key, 20, 0xFF)
        else:
            data = {"cut": damaged.get(key).data[:-9], "a tombstone": tombstone(uuid.uuid4())}.get(how, last)
            overwrite(damaged, key, data)
    wanted = set(chunks) - ({f"{DAY_16}/granule/1"} if how == "of another chunk" else set())
    assert check(damaged) == {"bad_copy": wanted}
    if how in ("gone", "cut", "a tombstone"):
        tails = {key for key in chunks if key.rpartition("/")[2].startswith("2")}
        assert check(damaged, "present") == {"bad_copy": wanted - (tails if how == "cut" else set())}
    report = repair(opened(damaged), verify(open_collection(damaged)), store=damaged)
    assert report.ok
    assert {action.key for action in report.actions} == wanted
    assert check(damaged) == {}
    check_readers(damaged)
    assert engine_columns(open_collection(damaged), DAY_16) == expected


def test_a_repair_that_slept_does_not_bring_back_what_was_rewritten(damaged: MemoryStore) -> None:
    """A copy is taken from the generation that the log names behind the look at what is there."""
    key = f"{DAY_16}/height/0"
    overwrite(damaged, key, b"damage")
    report = verify(open_collection(damaged))
    writer = opened(damaged, owner="other")

    def rewrite(method: str, _: str) -> None:
        writer.insert(rows([1, 2], offset=900), granule="meanwhile")

    for method, place in (("get", key), ("get", f"{DAY_16}/{HIDDEN}/*/height/0")):
        overwrite(damaged, key, b"damage")
        faulty = FaultStore(damaged, [Fault(method, place, before=rewrite)])
        repair(opened(damaged), report, store=faulty)
        assert not faulty.untriggered
        check_copies(damaged)
        assert check(damaged) == {}


# Garbage.


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=[True, False], ids=["deletes", "tombstones"])
def aged(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[S3LikeStore]:
    """An empty store whose times are a clock's; it deletes on conditions, or does not."""
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    made.conditional_delete = request.param
    yield made
    made.clear()


def collect(collection: Collection, retention: timedelta = NOTHING) -> int:
    return collection.collect_garbage(dry_run=False, min_age=NOTHING, retention=retention).objects["chunk"]


def test_retired_private_spaces_go_and_what_anyone_reads_stays(aged: S3LikeStore, clock: FakeClock) -> None:
    collection = filled(aged, clock)
    for turn in range(3):
        collection.insert(rows([3 + turn], offset=turn), granule=f"turn {turn}")
        clock.advance(10)
        collect(collection)
        present = [k for space in (1, 2, 3) for k in private(aged, DAY_16, space) if not _is_gone(aged, k)]
        generation = collection.state.partitions[DAY_16].generation
        assert present == private(aged, DAY_16, (generation - 1) % 3 + 1)
        check_readers(aged)
        assert verify(collection).findings == ()


def _is_gone(store: ObjectStore, key: str) -> bool:
    return is_tombstone(store.get(key).data)


def test_public_chunks_of_rows_that_left_go_when_readers_of_them_must_have_ended(
    aged: S3LikeStore, clock: FakeClock
) -> None:
    """Who opened the partition before it was dropped reads on; the document's age counts, not the chunks'."""
    collection = created(aged, clock)
    collection.insert(rows(range(12)), granule="first")
    clock.advance(30 * DAY)
    before = public(aged, DAY_16)
    collection.drop_partitions([DAY_16])
    clock.advance(60)
    assert collect(collection, timedelta(days=1)) == 0
    assert [key for key in before if _is_gone(aged, key)] == []
    clock.advance(2 * DAY)
    assert collect(collection, timedelta(days=1)) == len(before)
    collection.insert(rows(range(20, 29)), granule="second")
    check_readers(aged)


def test_public_chunks_behind_the_end_of_a_shorter_generation_go(aged: S3LikeStore, clock: FakeClock) -> None:
    collection = created(aged, clock)
    collection.insert(rows(range(12)), granule="first")
    collection.insert(rows([50]), granule="second")
    collection.retract(["first"])
    clock.advance(10)
    behind = [key for key in public(aged, DAY_16) if not key.rpartition("/")[2].startswith("0")]
    assert len(behind) == 3 * 6
    assert collect(collection) == len(behind)
    check_readers(aged)
    collection.insert(rows(range(60, 75)), granule="third")
    check_readers(aged)
    assert verify(collection).findings == ()


def test_an_older_generation_in_reach_stays_readable_until_it_is_collected(aged: S3LikeStore, clock: FakeClock) -> None:
    collection = filled(aged, clock)
    at = collection.commit
    expected = engine_columns(open_collection(aged, at=at), DAY_16)
    collection.insert(rows([3], offset=7), granule="again")
    clock.advance(3600)
    collect(collection, timedelta(days=1))
    assert engine_columns(open_collection(aged, at=at), DAY_16) == expected
    clock.advance(2 * DAY)
    view = open_collection(aged, at=at)
    assert collect(collection, timedelta(days=1)) > 0
    with pytest.raises(SnapshotExpiredError):
        engine_columns(view, DAY_16)
    check_readers(aged)


def test_chunks_of_dropped_variables_go_in_all_spaces(aged: S3LikeStore, clock: FakeClock) -> None:
    collection = filled(aged, clock)
    collection.drop_variables(["label"])
    clock.advance(10)
    collect(collection)
    left = [k for k in keys(aged) if "/label/" in k and not k.startswith(".zcommits/") and not _is_gone(aged, k)]
    assert left == []
    check_readers(aged)
    assert verify(collection).findings == ()
