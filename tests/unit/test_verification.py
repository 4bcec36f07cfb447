"""What a verification says of healthy collections, of what crashes leave, and of every kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine_support import DAY_16, DAY_17, FakeClock
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
from zcollection_engine import Collection, open_collection
from zcollection_engine.commits.log import record_key
from zcollection_engine.errors import InvalidInputError, NotFoundError, StorageError
from zcollection_engine.layout.documents import Version, array_document, commit_of
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.testing.stores import CountingStore, Fault, FaultStore, fail_before
from zcollection_engine.verification.report import Chunks, Code, Severity
from zcollection_engine.verification.verifying import verify


def check(store: ObjectStore, chunks: Chunks = "decode", **options: object) -> dict[str, set[str]]:
    """Keys by code of what a verification through a fresh handle finds."""
    return codes(verify(open_collection(store), chunks=chunks, store=store, **options))  # type: ignore[arg-type]


# Healthy collections.


def test_a_collection_without_a_commit_is_clean(store: ObjectStore) -> None:
    report = verify(created(store), store=store)
    assert report.findings == ()
    assert (report.commit, report.counts.partitions, report.counts.rows) == (-1, 0, 0)


def test_a_filled_collection_is_clean_and_everything_in_it_is_counted(store: ObjectStore) -> None:
    report = verify(filled(store), store=store)
    assert report.findings == ()
    assert report.ok
    counts = report.counts
    assert (counts.partitions, counts.rows) == (2, 12)
    assert counts.chunks == 5 * (3 + 1) + 2
    assert counts.foreign == 0
    # The first generation's chunks lie beside those of the second until they are collected.
    assert counts.garbage == 5 * 3
    assert counts.garbage_bytes > 0
    # Two partitions of a group, a nested group and five arrays; two groups above; root, file, and one array in a group.
    assert counts.documents == 2 * 7 + 2 + 1 + 1 + 2


def test_every_generation_and_every_append_verifies_clean(store: ObjectStore) -> None:
    collection = created(store)
    for turn in range(5):
        collection.insert(rich([turn, 20 * turn, 20 * turn + 1], offset=turn), granule=f"g{turn}")
        assert verify(collection, store=store).findings == ()
    assert collection.state.partitions[DAY_16].generation >= 3


def test_a_partition_that_lost_all_its_rows_verifies_clean_with_and_without_its_documents(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rich([1, DAY]), granule="a")
    collection.insert(rich([2]), granule="a")
    assert check(store) == {}
    for info in list(store.list(f"{DAY_17}/")):
        store.delete(info.key)
    assert check(store) == {}


def test_documents_of_arrays_that_lag_behind_an_append_are_notes(store: ObjectStore) -> None:
    collection = created(store, eager_arrays=False)
    collection.insert(rich(range(3)), granule="a")
    collection.insert(rich(range(5, 8)), granule="b")
    report = verify(collection, store=store)
    names = ("time", "height", "granule", "ku", "ku/range", "ku/label")
    assert codes(report) == {"lagging_document": {f"{DAY_16}/{name}/zarr.json" for name in names}}
    assert report.ok
    collection.publish_arrays()
    assert check(store) == {}


def test_granules_that_could_not_be_read_again_are_notes(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rich(range(6)), granule="below", precedence=1)
    collection.insert(rich([2, 3], offset=100), granule="above", precedence=2)
    collection.insert(
        rich([DAY]), granule="above", precedence=3
    )  # its rows of the first day leave; nothing reads "below"
    report = verify(collection, store=store)
    (note,) = report.findings
    assert (note.code, note.severity) == (Code.LOST_GRANULE, Severity.NOTE)
    assert "below" in note.message
    collection.checkpoint()
    assert verify(open_collection(store), store=store).findings == (note,)


def test_drops_rollbacks_and_new_attributes_verify_clean(store: ObjectStore) -> None:
    collection = filled(store)
    before = collection.commit
    collection.set_attributes({"title": "another title"})
    collection.set_attributes({"comment": "new"}, variable="ku/range")
    assert check(store) == {}
    collection.drop_partitions([DAY_17])
    assert check(store) == {}
    collection.insert(rich([4, DAY + 5], offset=300), granule="third")
    assert check(store) == {}
    collection.rollback(before)
    assert check(store) == {}
    assert collection.schema.attributes["title"] == "a small collection"


def test_what_the_housekeeping_leaves_verifies_clean(store: ObjectStore) -> None:
    collection = filled(store)
    collection.checkpoint()
    for turn in range(3):
        collection.insert(rich([3, 4], offset=turn), granule=f"turn {turn}")
        collection.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(0))
        assert check(store) == {}
    counts = verify(collection, store=store).counts
    assert (counts.garbage, counts.foreign) == (0, 0)


# The report.


def test_the_report_is_json_with_stable_names(store: ObjectStore) -> None:
    collection = filled(store)
    store.delete(f"{DAY_16}/height/c.0")
    report = verify(collection, store=store, clock=FakeClock())
    found = json.loads(json.dumps(report.to_json()))
    assert found["ok"] is False
    assert found["url"] == store.url
    assert found["started"] < found["ended"]
    assert found["commit"] == collection.commit
    (fault,) = found["findings"]
    assert fault.pop("message").startswith(f"chunk height/c.0 of {DAY_16} (values [0:4] of height) is gone; ")
    assert fault == {
        "code": "missing_chunk",
        "severity": "fault",
        "partition": DAY_16,
        "key": f"{DAY_16}/height/c.0",
    }


def test_only_the_chosen_partitions_are_looked_at(store: ObjectStore) -> None:
    filled(store)
    store.delete(f"{DAY_16}/height/c.0")
    assert check(store, partitions=[DAY_17]) == {}
    assert check(store, partitions=[DAY_16]) == {"missing_chunk": {f"{DAY_16}/height/c.0"}}
    with pytest.raises(NotFoundError, match="year=1999"):
        check(store, partitions=["year=1999"])


@pytest.mark.parametrize(("name", "value"), [("chunks", "all"), ("threads", 0)])
def test_an_unknown_way_of_looking_is_refused(store: ObjectStore, name: str, value: object) -> None:
    collection = created(store)
    with pytest.raises(InvalidInputError, match=name):
        verify(collection, **{name: value})  # type: ignore[arg-type]


def test_a_handle_stays_at_its_commit_and_the_verification_sees_the_present_one(store: ObjectStore) -> None:
    collection = filled(store)
    reader = open_collection(store)
    collection.insert(rich([50]), granule="third")
    report = verify(reader, store=store)
    assert report.findings == ()
    assert reader.commit < report.commit == collection.commit


def test_a_store_without_answers_is_no_finding(store: ObjectStore) -> None:
    filled(store)
    silent = FaultStore(store, [fail_before("get", f"{DAY_16}/height/c.0")])
    with pytest.raises(StorageError):
        verify(open_collection(store), store=silent)


def test_documents_alone_cost_one_request_each_and_presence_one_listing_a_partition(store: ObjectStore) -> None:
    filled(store)
    counting = CountingStore(store)
    collection = open_collection(counting)
    opening = len(counting.log)
    counting.reset()
    report = verify(collection, chunks="none", store=counting)
    inside = [key for key in counting.keys("get") if not key.startswith(".zcommits/")]
    assert len(inside) == len(set(inside)) == report.counts.documents
    assert not [prefix for prefix in counting.keys("list") if not prefix.startswith(".zcommits/")]
    assert opening
    counting.reset()
    verify(collection, chunks="present", store=counting)
    listed = [prefix for prefix in counting.keys("list") if not prefix.startswith(".zcommits/")]
    assert sorted(listed) == ["", "_immutable/", f"{DAY_16}/", f"{DAY_17}/"]
    assert not [key for key in counting.keys("get") if "/c." in key or "/c/" in key]


# What a crash leaves.


@pytest.mark.parametrize(
    "work",
    [
        lambda c: c.insert(rich([20, 21], offset=7), granule="late"),
        lambda c: c.insert(rich([2, 3], offset=7), granule="late"),
        lambda c: c.insert(rich([5, DAY, DAY + 10], offset=7), granule="late"),
        lambda c: c.drop_partitions([DAY_17]),
        lambda c: c.set_attributes({"title": "another title"}),
    ],
    ids=["append", "rewrite", "append and rewrite", "drop", "attributes"],
)
def test_a_death_before_any_write_leaves_notes_at_most_and_the_next_writer_makes_it_clean(
    original: MemoryStore, work: Callable[[Collection], object]
) -> None:
    seen = set()
    for store, dead in deaths(original, lambda s: work(opened(s))):
        report = verify(open_collection(store), store=store)
        assert report.faults == ()
        assert dead or report.notes == ()
        seen |= {finding.code for finding in report.notes}
        opened(store)
        assert check(store) == {}
    assert Code.UNPUBLISHED in seen


def test_a_death_before_any_write_of_the_creation_leaves_notes_at_most() -> None:
    seen = set()
    for store, _ in deaths(MemoryStore("memory://verification-empty"), created):
        if not any(info.key == record_key(0) for info in store.list(".zcommits/")):
            continue
        report = verify(open_collection(store), store=store)
        assert report.faults == ()
        seen |= {finding.key for finding in report.notes}
        opened(store)
        assert check(store) == {}
    assert seen >= {CONFIG, ROOT, "_immutable/zarr.json"}


def test_an_array_of_a_shown_partition_is_a_fault_when_gone_even_before_it_is_known_as_published(
    store: ObjectStore,
) -> None:
    filled(store)
    store.delete(f"{DAY_16}/ku/range/zarr.json")
    assert check(store) == {"missing_document": {f"{DAY_16}/ku/range/zarr.json"}}


# Documents.


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


def test_documents_that_are_gone_are_named(store: ObjectStore) -> None:
    settled(store)
    for key in DOCUMENTS:
        store.delete(key)
    found = check(store, "none")
    assert found["missing_document"] == set(DOCUMENTS)


@pytest.mark.parametrize("key", DOCUMENTS)
def test_a_document_that_is_something_else_is_named(original: MemoryStore, key: str) -> None:
    store = copy_of(original)
    whole = store.get(key).data
    for data in (whole[:-7], b"", b"[]", b"null", b"7", b'{"zarr_format":3}', b"\xff", b"[" * 100_000):
        overwrite(store, key, data)
        assert check(store, "none") == {"damaged_document": {key}}


@pytest.mark.parametrize("key", [GROUP, f"{DAY_16}/time/zarr.json", f"{DAY_16}/ku/zarr.json"])
def test_a_document_that_went_back_to_an_older_commit_is_a_fault(store: ObjectStore, key: str) -> None:
    collection = created(store)
    collection.insert(rich(range(3)), granule="a")
    old = store.get(key).data
    collection.insert(rich(range(5, 8)), granule="b")
    collection.insert(rich([DAY]), granule="c")
    overwrite(store, key, old)
    assert check(store) == {"stale_document": {key}}


def test_a_group_behind_a_commit_that_may_not_be_published_yet_is_a_note(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rich(range(3)), granule="a")
    old = store.get(GROUP).data
    collection.insert(rich(range(5, 8)), granule="b")
    overwrite(store, GROUP, old)
    assert check(store) == {"unpublished": {GROUP}}


def test_a_whole_document_of_the_same_commit_with_other_rows_contradicts_the_log(store: ObjectStore) -> None:
    collection = settled(store)
    key = f"{DAY_16}/height/zarr.json"
    state = collection.state.partitions[DAY_16]
    document = array_document(collection.schema, collection.schema["height"], Version(state.commit, 1, state.rows - 1))
    overwrite(store, key, json.dumps(document, separators=(",", ":")).encode())
    assert check(store, "none") == {"conflicting_document": {key}}


def test_a_log_that_lost_its_end_is_told_from_damaged_documents(store: ObjectStore) -> None:
    collection = filled(store)
    before = collection.state.number
    collection.insert(rich([30, 31]), granule="third")
    for info in [i for i in store.list(".zcommits/") if f".zcommits/{before:020d}.json" < i.key < ".zcommits/a"]:
        store.delete(info.key)
    found = check(store, "none")
    assert set(found) == {"newer_document"}
    assert found["newer_document"] >= {GROUP, ROOT}


def test_the_root_is_a_note_while_it_lags_and_damaged_when_only_its_commit_differs(store: ObjectStore) -> None:
    collection = filled(store)
    old = store.get(ROOT).data
    collection.insert(rich([30]), granule="third")
    new = store.get(ROOT).data
    overwrite(store, ROOT, old)
    assert check(store, "none") == {"unpublished": {ROOT}}
    overwrite(store, ROOT, new.replace(b'"zcollection_commit":%d' % commit_of(new), b'"zcollection_commit":99'))
    assert check(store, "none") == {"damaged_document": {ROOT}}


def test_another_configuration_contradicts_the_log(store: ObjectStore) -> None:
    settled(store)
    overwrite(store, CONFIG, store.get(CONFIG).data.replace(b"a small collection", b"a smart collection"))
    assert check(store, "none") == {"conflicting_document": {CONFIG}}


# Chunks and rows.


def test_a_chunk_that_is_gone_is_named(store: ObjectStore) -> None:
    filled(store)
    store.delete(f"{DAY_16}/ku/label/c.2")
    for chunks in ("present", "decode"):
        assert check(store, chunks) == {"missing_chunk": {f"{DAY_16}/ku/label/c.2"}}  # type: ignore[arg-type]
    assert check(store, "none") == {}


@pytest.mark.parametrize("name", ["height", "ku/label", "time", "granule"])
def test_a_chunk_that_does_not_decode_is_named(store: ObjectStore, name: str) -> None:
    filled(store)
    key = f"{DAY_16}/{name}/c.1"
    flip(store, key, 0)
    assert check(store, "present") == {}
    report = verify(open_collection(store), store=store)
    assert codes(report) == {"damaged_chunk": {key}}
    assert "does not decode" in report.findings[0].message


@pytest.mark.parametrize("size", [0, 24])
def test_a_chunk_without_content_is_named_without_reading_it(store: ObjectStore, size: int) -> None:
    filled(store)
    key = f"{DAY_16}/height/c.1"
    overwrite(store, key, store.get(key).data[len(store.get(key).data) - size :])
    assert check(store, "present") == {"damaged_chunk": {key}}


def test_a_chunk_of_another_size_is_named(store: ObjectStore) -> None:
    filled(store)
    overwrite(store, f"{DAY_16}/height/c.1", store.get(f"{DAY_16}/time/c.1").data)
    assert check(store) == {"damaged_chunk": {f"{DAY_16}/height/c.1"}}


def test_an_axis_in_another_order_is_named(store: ObjectStore) -> None:
    filled(store)
    first, second = (store.get(f"{DAY_16}/time/c.{n}").data for n in (0, 1))
    overwrite(store, f"{DAY_16}/time/c.0", second)
    overwrite(store, f"{DAY_16}/time/c.1", first)
    assert check(store) == {"unsorted_axis": {f"{DAY_16}/time"}}


def test_an_axis_with_other_bounds_is_named(store: ObjectStore) -> None:
    filled(store)
    overwrite(store, f"{DAY_17}/time/c/0", store.get(f"{DAY_16}/time/c.0").data)
    assert check(store) == {"axis_bounds": {f"{DAY_17}/time"}}


def test_rows_of_a_granule_without_a_share_are_named(store: ObjectStore) -> None:
    filled(store)
    overwrite(store, f"{DAY_17}/granule/c/0", store.get(f"{DAY_16}/granule/c.1").data)
    report = verify(open_collection(store), store=store)
    (fault,) = report.faults
    assert (fault.code, fault.key) == (Code.UNKNOWN_GRANULE, f"{DAY_17}/granule")


def test_more_rows_of_a_granule_than_it_has_are_named(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rich(range(4)), granule="a")
    collection.insert(rich(range(4, 12)), granule="b")
    overwrite(store, f"{DAY_16}/granule/c/0", store.get(f"{DAY_16}/granule/c/1").data)
    assert check(store) == {"too_many_rows": {f"{DAY_16}/granule"}}


def test_other_values_without_rows_are_named(store: ObjectStore) -> None:
    filled(store)
    key = "_immutable/band/c/0"
    overwrite(store, key, store.get("_immutable/band/c/1").data)
    assert check(store) == {"immutable_differs": {"_immutable/band"}}
    flip(store, key, 0)
    assert check(store) == {"damaged_chunk": {key}}
    store.delete(key)
    assert check(store, "present") == {"missing_chunk": {key}}


# What nothing explains.


def test_garbage_and_foreign_objects_are_counted_and_are_no_findings(store: ObjectStore) -> None:
    filled(store)
    clean = verify(open_collection(store), store=store).counts
    for key in (f"{DAY_16}/height/c.9", f"{DAY_17}/ku/range/0", "year=2024/month=01/day=01/time/c/0"):
        store.create(key, b"garbage" * 5)
    foreign = ("README.md", "year=x/time/c/0", f"{DAY_16}/notes.txt", "_immutable/other/c/0")
    for key in foreign:
        store.create(key, b"foreign")
    report = verify(open_collection(store), store=store)
    assert report.findings == ()
    assert report.counts.garbage - clean.garbage == 3
    assert report.counts.garbage_bytes - clean.garbage_bytes == 3 * len(b"garbage" * 5)
    assert report.counts.foreign == len(report.foreign) == 4
    assert set(report.foreign) == set(foreign)


# Writers at work.


def test_a_commit_during_the_verification_is_no_fault(store: ObjectStore) -> None:
    collection = filled(store)

    def meanwhile(method: str, key: str) -> None:
        collection.insert(rich([3, 5], offset=500), granule="meanwhile")

    watched = FaultStore(store, [Fault("get", GROUP, before=meanwhile)])
    report = verify(open_collection(store), store=watched)
    assert watched.untriggered == ()
    assert report.findings == ()
    assert report.commit == collection.commit


def test_a_partition_that_changes_all_the_time_is_a_note(store: ObjectStore) -> None:
    collection = filled(store)
    turns = iter(range(100))

    def meanwhile(method: str, key: str) -> None:
        collection.insert(rich([3, 5], offset=500), granule=f"meanwhile {next(turns)}")

    watched = FaultStore(store, [Fault("get", GROUP, times=10**9, before=meanwhile)])
    found = codes(verify(open_collection(store), partitions=[DAY_16], store=watched))
    assert found == {"changed_meanwhile": {DAY_16}}


# Any damage.


def _explained(store: ObjectStore) -> list[str]:
    """Keys that the log explains: in a rewritten partition the first key space is garbage."""
    garbage = f"{DAY_16}/"
    keys = [i.key for i in store.list() if not i.key.startswith(".zcommits/")]
    return [k for k in keys if not (k.startswith(garbage) and "/c/" in k)]


_SETTINGS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_SETTINGS
@given(data=st.data())
def test_any_object_that_is_gone_is_noticed_unless_it_is_garbage(original: MemoryStore, data: st.DataObject) -> None:
    store = copy_of(original)
    key = data.draw(st.sampled_from(sorted(i.key for i in original.list() if not i.key.startswith(".zcommits/"))))
    store.delete(key)
    found = check(store)
    assert (key in set().union(*found.values())) == (key in _explained(original))


@_SETTINGS
@given(data=st.data())
def test_any_document_with_a_flipped_bit_is_noticed(original: MemoryStore, data: st.DataObject) -> None:
    store = copy_of(original)
    key = data.draw(st.sampled_from([k for k in _explained(original) if k.endswith(".json")]))
    place = data.draw(st.integers(0, len(original.get(key).data) - 1))
    flip(store, key, place, 1 << data.draw(st.integers(0, 7)))
    assert key in set().union(*check(store).values())


@_SETTINGS
@given(data=st.data())
def test_any_chunk_cut_short_is_noticed(original: MemoryStore, data: st.DataObject) -> None:
    store = copy_of(original)
    key = data.draw(st.sampled_from([k for k in _explained(original) if not k.endswith(".json")]))
    whole = original.get(key).data
    overwrite(store, key, whole[: data.draw(st.integers(0, len(whole) - 25))])
    assert check(store) == {"damaged_chunk": {key}}


@_SETTINGS
@given(data=st.data())
def test_any_chunk_with_a_flipped_bit_is_noticed_unless_it_holds_the_same(
    original: MemoryStore, data: st.DataObject
) -> None:
    assert b'"checksum":true' in original.get(GROUP).data
    store = copy_of(original)
    key = data.draw(st.sampled_from([k for k in _explained(original) if not k.endswith(".json")]))
    place = data.draw(st.integers(0, len(original.get(key).data) - 1))
    flip(store, key, place, 1 << data.draw(st.integers(0, 7)))
    if check(store) == {}:
        before, after = (open_collection(s).load(decode=False) for s in (original, store))
        assert after.identical(before)
    else:
        assert check(store) == {"damaged_chunk": {key}}
