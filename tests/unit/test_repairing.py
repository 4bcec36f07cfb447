"""What a repair puts right, what it leaves alone, and what it says of data that are gone."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine_support import DAY_16, DAY_17, FakeClock, offer_of
from tests.verification_support import (
    CONFIG,
    DAY,
    GROUP,
    ROOT,
    codes,
    copy_of,
    created,
    deaths,
    filled,
    flip,
    opened,
    overwrite,
    rich,
    settled,
)
from zcollection_engine import WriterOptions, open_collection
from zcollection_engine.errors import ReadOnlyError
from zcollection_engine.layout.documents import Version, array_document, commit_of, dump
from zcollection_engine.repairing import repair
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import Fault, FaultStore
from zcollection_engine.verification.repairs import RepairReport
from zcollection_engine.verification.report import Code
from zcollection_engine.verification.verifying import verify

DOCUMENTS = [
    GROUP,
    f"{DAY_16}/time/zarr.json",
    f"{DAY_16}/ku/zarr.json",
    "year=2023/zarr.json",
    "year=2023/month=12/zarr.json",
    "_immutable/zarr.json",
    "_immutable/band/zarr.json",
    ROOT,
    CONFIG,
]


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {i.key: store.get(i.key).data for i in store.list()}


def actions(report: RepairReport) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for action in report.actions:
        found.setdefault(action.code.value, set()).add(action.key)
    return found


def is_clean(store: ObjectStore) -> bool:
    return verify(open_collection(store), store=store).findings == ()


# Nothing to do.


def test_a_healthy_collection_is_left_as_it_is(store: ObjectStore) -> None:
    collection = settled(store)
    before = {i.key: i.etag for i in store.list()}
    report = repair(collection, store=store)
    assert report.ok
    assert (report.actions, report.lost, report.grants, report.swept, report.left) == ((), (), (), 0, ())
    assert {i.key: i.etag for i in store.list()} == before


def test_a_collection_opened_for_reading_is_refused(store: ObjectStore) -> None:
    filled(store)
    with pytest.raises(ReadOnlyError):
        repair(open_collection(store), store=store)


# Documents.


def test_documents_that_are_gone_are_written_again_just_as_they_were(store: ObjectStore) -> None:
    collection = settled(store)
    before = contents(store)
    for key in DOCUMENTS:
        store.delete(key)
    report = repair(collection, store=store)
    assert report.ok
    assert actions(report) == {"missing_document": set(DOCUMENTS)}
    assert contents(store) == before


def test_damaged_documents_are_written_again_just_as_they_were(store: ObjectStore) -> None:
    collection = settled(store)
    before = contents(store)
    for number, key in enumerate(DOCUMENTS):
        overwrite(store, key, before[key][:-7] if number % 2 else b"")
    report = repair(collection, verify(collection, chunks="none", store=store), store=store)
    assert report.ok
    assert actions(report) == {"damaged_document": set(DOCUMENTS)}
    assert all("damaged" not in action.message for action in report.actions)
    assert contents(store) == before


def test_a_group_that_went_back_to_an_older_commit_is_brought_forward(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rich(range(3)), granule="a")
    old = store.get(GROUP).data
    collection.insert(rich(range(5, 8)), granule="b")
    collection.insert(rich([DAY]), granule="c")
    overwrite(store, GROUP, old)
    assert actions(repair(collection, store=store)) == {"stale_document": {GROUP}}
    assert is_clean(store)


def test_lagging_documents_of_arrays_are_brought_up_to_date(store: ObjectStore) -> None:
    collection = created(store, eager_arrays=False)
    collection.insert(rich(range(3)), granule="a")
    collection.insert(rich(range(5, 8)), granule="b")
    names = ("time", "height", "granule", "ku", "ku/range", "ku/label")
    assert actions(repair(collection, store=store)) == {
        "lagging_document": {f"{DAY_16}/{name}/zarr.json" for name in names}
    }
    assert is_clean(store)


def test_the_group_of_a_partition_appears_behind_its_arrays(store: ObjectStore) -> None:
    collection = settled(store)
    keys = [i.key for i in store.list(f"{DAY_17}/") if i.key.endswith("zarr.json")]
    for key in keys:
        store.delete(key)
    written: list[str] = []
    watched = FaultStore(store, [Fault("create", times=10**9, before=lambda _, key: written.append(key))])
    report = repair(collection, store=watched)
    assert report.ok
    assert sorted(written) == sorted(keys)
    assert written[-1] == f"{DAY_17}/zarr.json"


def test_damage_does_not_keep_a_collection_from_being_opened_for_writing(store: ObjectStore) -> None:
    filled(store)
    for key in (GROUP, f"{DAY_16}/time/zarr.json", ROOT):
        overwrite(store, key, b"torn")
    assert repair(opened(store), store=store).ok
    assert is_clean(store)


def test_a_document_that_a_writer_replaced_meanwhile_is_left_to_it(store: ObjectStore) -> None:
    collection = settled(store)
    before = contents(store)
    overwrite(store, GROUP, b"torn")

    def meanwhile(method: str, key: str) -> None:
        overwrite(store, GROUP, before[GROUP])

    watched = FaultStore(store, [Fault("replace", GROUP, before=meanwhile)])
    report = repair(collection, store=watched)
    assert watched.untriggered == ()
    assert report.ok
    assert contents(store) == before


def test_a_commit_during_the_repair_is_shown_and_not_overwritten(store: ObjectStore) -> None:
    collection = settled(store)
    writer = opened(store)
    overwrite(store, GROUP, b"torn")

    def meanwhile(method: str, key: str) -> None:
        overwrite(store, GROUP, b'{"node_type":"group","attributes":{}}')
        writer.insert(rich([60]), granule="meanwhile")

    report = repair(collection, store=FaultStore(store, [Fault("replace", GROUP, before=meanwhile)]))
    assert report.ok
    assert commit_of(store.get(GROUP).data) == writer.commit
    assert is_clean(store)


# What crashes leave.


@pytest.mark.parametrize(
    "rows", [[20, 21], [2, 3], [5, DAY, DAY + 10]], ids=["append", "rewrite", "append and rewrite"]
)
def test_after_a_death_before_any_write_a_repair_leaves_nothing_to_find(original: MemoryStore, rows: list[int]) -> None:
    witness = copy_of(original)  # a writer that was there all the time
    for store, _ in deaths(witness, lambda s: opened(s).insert(rich(rows, offset=7), granule="late")):
        before = verify(open_collection(store), chunks="none", store=store)
        report = repair(opened(store), before, store=store)
        assert report.ok
        assert {a.key for a in report.actions} == {f.key for f in before.findings}
        assert is_clean(store)


def test_the_grant_of_a_writer_that_died_is_reported_and_left(store: ObjectStore) -> None:
    collection = settled(store)
    dying = FaultStore(store, [Fault("create", ".zcommits/*", nth=2, times=10**9, before=die)])
    writer = open_collection(dying, mode="w", writer=WriterOptions(owner="other", grant_seconds=30), clock=FakeClock())
    with pytest.raises(RuntimeError):
        writer.commit_offers([offer_of(writer, rich([DAY + 70]), "dying")])
    (grant,) = repair(collection, store=store).grants
    assert (grant.owner, grant.seconds, grant.partitions) == ("other", 30, (DAY_17,))
    assert [held.token for held in open_collection(store).state.held.values()] == [grant.token]


def die(method: str, key: str) -> None:
    raise RuntimeError(f"killed at {method} {key}")


def test_hidden_files_of_killed_writers_are_removed_once_they_are_old(tmp_path: Path) -> None:
    store = PosixStore(tmp_path / "collection")
    collection = settled(store)
    torn = tmp_path / "collection" / DAY_16 / ".0123456789abcdef.part"
    torn.write_bytes(b"half")
    assert repair(collection, store=store).swept == 0
    os.utime(torn, (time.time() - 7200,) * 2)
    assert repair(collection, store=store, sweep_after=timedelta(hours=3)).swept == 0
    assert repair(collection, store=store).swept == 1
    assert not torn.exists()


# What contradicts the log.


def test_a_partition_that_shows_a_commit_the_log_lost_is_left_alone(store: ObjectStore) -> None:
    collection = filled(store)
    before = collection.state.number
    collection.insert(rich([30, 31]), granule="third")
    for info in [i for i in store.list(".zcommits/") if f".zcommits/{before:020d}.json" < i.key < ".zcommits/a"]:
        store.delete(info.key)
    documents = contents(store)
    report = repair(opened(store), store=store)
    assert not report.ok
    assert {f.code for f in report.left} == {Code.NEWER}
    assert GROUP in {f.key for f in report.left}
    assert contents(store) == documents


def test_a_group_that_contradicts_the_log_is_left_alone_and_an_array_follows_its_group(store: ObjectStore) -> None:
    collection = settled(store)
    before = contents(store)
    state = collection.state.partitions[DAY_16]
    key = f"{DAY_16}/height/zarr.json"
    for commit in (state.commit, state.commit + 1):
        other = array_document(collection.schema, collection.schema["height"], Version(commit, 1, state.rows - 1))
        overwrite(store, key, dump(other))
        assert repair(collection, store=store).ok
        assert contents(store) == before
    shorter = before[GROUP].replace(b'"shape":[%d]' % state.rows, b'"shape":[%d]' % (state.rows - 1))
    overwrite(store, GROUP, shorter)
    overwrite(store, key, dump(other))
    report = repair(collection, store=store)
    assert [(f.code, f.key) for f in report.left] == [(Code.NEWER, key), (Code.CONFLICTING, GROUP)]
    assert store.get(GROUP).data == shorter


def test_a_configuration_that_contradicts_the_log_is_written_if_partitions_bear_the_log_out(
    store: ObjectStore,
) -> None:
    collection = settled(store)
    before = contents(store)
    other = before[CONFIG].replace(b"a small collection", b"a smart collection")
    overwrite(store, CONFIG, other)
    assert actions(repair(collection, store=store)) == {"conflicting_document": {CONFIG}}
    assert contents(store) == before
    overwrite(store, CONFIG, other)
    for path in (DAY_16, DAY_17):
        key = f"{path}/zarr.json"
        overwrite(store, key, before[key].replace(b"a small collection", b"a smart collection"))
    report = repair(collection, store=store)
    assert not report.ok
    assert report.actions == ()
    assert store.get(CONFIG).data == other


# Chunks.


def test_lost_chunks_are_reported_with_the_granules_to_read_again_and_nothing_is_changed(store: ObjectStore) -> None:
    collection = created(store)
    for key, rows in (("a", range(4)), ("b", range(4, 8)), ("c", range(8, 12))):
        collection.commit_offers([offer_of(collection, rich(rows), key)])  # type: ignore[arg-type]
    store.delete(f"{DAY_16}/ku/range/c/1")
    flip(store, f"{DAY_16}/height/c/2", 0)
    before = contents(store)
    report = repair(collection, verify(collection, store=store), store=store)
    assert not report.ok
    found = {chunk.key.removeprefix(f"{DAY_16}/"): chunk for chunk in report.lost}
    assert {name: chunk.code.value for name, chunk in found.items()} == {
        "ku/range/c/1": "missing_chunk",
        "height/c/2": "damaged_chunk",
    }
    assert [(s.key, s.url) for s in found["ku/range/c/1"].granules] == [("b", "s3://bucket/b")]
    assert [s.key for s in found["height/c/2"].granules] == ["c"]
    assert contents(store) == before
    written = json.loads(json.dumps(report.to_json()))
    assert written["ok"] is False
    assert written["lost"][1]["granules"] == [
        {
            "id": str(next(e.id for e in collection.granules() if e.identity.key == "b")),
            "key": "b",
            "url": "s3://bucket/b",
        }
    ]


def test_where_the_origins_are_lost_too_all_granules_of_the_partition_are_named(store: ObjectStore) -> None:
    collection = created(store)
    for key, rows in (("a", range(4)), ("b", range(4, 8))):
        collection.commit_offers([offer_of(collection, rich(rows), key)])  # type: ignore[arg-type]
    store.delete(f"{DAY_16}/granule/c/0")
    store.delete(f"{DAY_16}/time/c/0")
    report = repair(collection, store=store)
    assert {chunk.key: [s.key for s in chunk.granules] for chunk in report.lost} == {
        f"{DAY_16}/granule/c/0": ["a", "b"],
        f"{DAY_16}/time/c/0": ["a", "b"],
    }


def test_values_without_rows_are_copied_again_from_where_they_were_staged(store: ObjectStore) -> None:
    collection = settled(store)
    before = contents(store)
    store.delete("_immutable/band/c/0")
    overwrite(store, "_immutable/band/c/1", before["_immutable/band/c/0"])
    report = repair(collection, verify(collection, store=store), store=store)
    assert report.ok
    assert report.lost == ()
    assert {key for keys in actions(report).values() for key in keys} == {"_immutable/band/c/0", "_immutable/band/c/1"}
    assert contents(store) == before


def test_values_without_rows_are_lost_when_the_staged_ones_are_damaged_too(store: ObjectStore) -> None:
    collection = settled(store)
    store.delete("_immutable/band/c/0")
    (staged,) = [i.key for i in store.list(".zcommits/staged/") if i.key.endswith("/band/c/1")]
    flip(store, staged, 0)
    report = repair(collection, store=store)
    assert [(chunk.key, chunk.granules) for chunk in report.lost] == [("_immutable/band/c/0", ())]
    assert report.actions == ()


def test_faults_of_rows_stay_in_the_report(store: ObjectStore) -> None:
    collection = settled(store)
    overwrite(store, f"{DAY_17}/granule/c/0", store.get(f"{DAY_16}/granule/c.1").data)
    report = repair(collection, verify(collection, store=store), store=store)
    assert [f.code for f in report.left] == [Code.UNKNOWN_GRANULE]
    assert not report.ok


# Any damage.


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_documents_is_undone_or_reported_and_never_made_worse(
    original: MemoryStore, data: st.DataObject
) -> None:
    store = copy_of(original)
    collection = opened(store)
    keys = [i.key for i in original.list() if i.key.endswith(".json") and not i.key.startswith(".zcommits/")]
    damaged = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4, unique=True))
    for key in damaged:
        if data.draw(st.booleans()):
            flip(store, key, data.draw(st.integers(0, 10_000)), 1 << data.draw(st.integers(0, 7)))
        else:
            store.delete(key)
    report = repair(collection, store=store)
    left = {f.key for f in report.left}
    assert left <= set(damaged)
    after = contents(store)
    assert {k: v for k, v in after.items() if k not in left} == {
        k: v for k, v in contents(original).items() if k not in left
    }
    assert codes(verify(collection, store=store)).keys() == {f.code.value for f in report.left}
    store.clear()
