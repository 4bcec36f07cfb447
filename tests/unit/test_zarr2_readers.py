"""What plain readers and the engine's own see of a Zarr v2 collection on every kind of store, and for how long."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import DAY_16, DAY_17, FakeClock
from tests.servers import REGION, S3Server
from tests.zarr2_support import (
    BANDS,
    DAY,
    HIDDEN,
    array_columns,
    check_readers,
    created,
    engine_columns,
    filled,
    keys,
    opened,
    plain_columns,
    plain_store,
    rows,
    shown,
)
from zcollection_engine import Collection, open_collection
from zcollection_engine.errors import BusyError, SnapshotExpiredError
from zcollection_engine.schema import Dimension, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.verification.verifying import verify


@pytest.fixture(params=["memory", "posix", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store of each kind."""
    if request.param == "posix":
        yield PosixStore(tmp_path / "collection")
    elif request.param == "memory":
        made = MemoryStore(f"memory://{uuid.uuid4().hex}")
        yield made
        made.clear()
    else:
        server: S3Server = request.getfixturevalue("moto_server")
        bucket: str = request.getfixturevalue("bucket")
        yield open_store(f"s3://{bucket}/collection", StorageOptions(server.endpoint_url, REGION))


def test_every_reader_sees_each_commit_of_a_life(place: ObjectStore) -> None:
    collection = filled(place)
    check_readers(place)
    for turn in range(3):
        collection.insert(rows([turn, turn + 1], offset=200 + turn), granule="again and again")
    check_readers(place)
    collection.insert(rows([40, DAY + 30]), granule="behind")
    collection.drop_partitions([DAY_17])
    assert check_readers(place).keys() == {DAY_16}
    collection.insert(rows([DAY + 40, DAY + 41]), granule="after the drop")
    collection.set_attributes({"title": "another"})
    collection.set_attributes({"comment": "new"}, variable="height")
    assert check_readers(place)[DAY_17] == 2
    assert verify(opened(place)).ok


def test_readers_see_rows_that_come_back_and_rows_that_leave(store: ObjectStore) -> None:
    collection = filled(store)
    collection.retract(["third"])
    assert check_readers(store)[DAY_16] == 9
    collection.retract(["fourth"])
    assert check_readers(store)[DAY_17] == 3
    before = collection.commit
    collection.insert(rows([60]), granule="sixth")
    collection.rollback(before)
    assert check_readers(store)[DAY_16] == 9


def test_xarray_decodes_what_it_reads(store: ObjectStore) -> None:
    collection = filled(store)
    loaded = collection.load([DAY_16])
    assert isinstance(loaded, xr.Dataset)
    with xr.open_zarr(plain_store(store, DAY_16), consolidated=True, zarr_format=2, chunks=None) as group:
        for name in ("time", "height", "profile", "label"):
            np.testing.assert_array_equal(group[name].values, loaded[name].values)
        assert group["time"].dtype == "M8[ns]"
        assert group.attrs["title"] == "a small collection"
    with xr.open_zarr(plain_store(store, ".immutable"), consolidated=True, zarr_format=2, chunks=None) as group:
        assert group["band"].values.tolist() == list(BANDS)


@pytest.mark.parametrize("eager", [True, False])
def test_documents_of_single_arrays_may_lag_behind_appends_and_never_behind_rewrites(
    store: ObjectStore, eager: bool
) -> None:
    collection = created(store, eager_arrays=eager)
    collection.insert(rows(range(9)), granule="a")
    for turn in range(2):
        collection.insert(rows([3], offset=turn), granule="b")
        check_readers(store)
        whole = engine_columns(collection, DAY_16)["height"]
        collection.insert(rows([20 + turn]), granule=f"c{turn}")
        seen = array_columns(store, DAY_16, ["height"])["height"]
        assert (seen[:-1] == whole[:-1]) is not eager
        assert plain_columns(store, DAY_16)["height"] == engine_columns(collection, DAY_16)["height"]
    collection.publish_arrays()
    check_readers(store)


# Variables that come and go.


def test_a_variable_that_is_added_is_there_for_readers_of_every_generation(store: ObjectStore) -> None:
    collection = filled(store)
    assert [collection.state.partitions[path].generation for path in (DAY_16, DAY_17)] == [1, 0]
    added = Variable("beams", "<i2", ("time", "beam"), (4, 2), -1, {"long_name": "new"})
    collection.add_variables([added], [Dimension("beam", 3)])
    check_readers(store)
    for path, rows_there in ((DAY_16, 11), (DAY_17, 4)):
        assert plain_columns(store, path)["beams"] == ["-1"] * (rows_there * 3) + [f"({rows_there}, 3)"]
    own = {key for key in keys(store, f"{DAY_16}/beams/") if not key.rpartition("/")[2].startswith(".z")}
    assert own == {f"{DAY_16}/beams/{i}.{j}" for i in range(3) for j in range(2)}
    assert not keys(store, f"{DAY_17}/{HIDDEN}/")
    later = rows([50, DAY + 50]).assign(beams=(("time", "beam"), np.arange(6, dtype=np.int16).reshape(2, 3)))
    collection.insert(later, granule="with it")
    check_readers(store)
    assert plain_columns(store, DAY_16)["beams"][-4:-1] == ["0", "1", "2"]
    assert verify(collection).findings == ()


def test_a_variable_that_is_dropped_leaves_no_document_and_may_come_back_with_other_values(store: ObjectStore) -> None:
    collection = filled(store)
    collection.drop_variables(["label"])
    check_readers(store)
    assert not [key for key in keys(store, f"{DAY_16}/label/") if key.rpartition("/")[2].startswith(".z")]
    assert "label" not in plain_columns(store, DAY_16)
    collection.add_variables([Variable("label", "<i4", ("time",), (4,), -5)])
    check_readers(store)
    assert plain_columns(store, DAY_16)["label"] == ["-5"] * 11 + ["(11,)"]
    assert [shown(store, path)[0] for path in (DAY_16, DAY_17)] == [2, 1]
    assert verify(collection).findings == ()


def test_a_variable_that_is_added_to_a_partition_without_rows_comes_with_the_next_rows(store: ObjectStore) -> None:
    collection = filled(store)
    collection.drop_partitions([DAY_16])
    collection.add_variables([Variable("flag", "<i2", ("time",), (4,), -1)])
    check_readers(store)
    collection.insert(rows([60, 61]).assign(flag=("time", np.array([1, 2], np.int16))), granule="new")
    check_readers(store)
    assert plain_columns(store, DAY_16)["flag"][:2] == ["1", "2"]


# Snapshots.


def rewrite(collection: Collection, turn: int, day: int = 0) -> None:
    collection.insert(rows([day * DAY + 1], offset=500 + turn), granule=f"rewrite {turn}")


def test_a_reader_of_the_first_generation_expires_with_the_first_rewrite(store: ObjectStore) -> None:
    collection = filled(store)
    view = open_collection(store)
    expected = engine_columns(view, DAY_17)
    collection.insert(rows([DAY + 60]), granule="an append")
    assert engine_columns(view, DAY_17) == expected
    lazily = view.load([DAY_17], decode=False)
    rewrite(collection, 1, day=1)
    with pytest.raises(SnapshotExpiredError):
        engine_columns(view, DAY_17)
    assert isinstance(lazily, xr.Dataset)
    with pytest.raises(SnapshotExpiredError):
        lazily["height"].compute(scheduler="synchronous")
    assert engine_columns(view.refresh(), DAY_17) == plain_columns(store, DAY_17)


def test_a_reader_of_the_first_generation_reads_on_while_the_copy_has_not_begun(store: ObjectStore) -> None:
    collection = filled(store)
    view = open_collection(store)
    expected = engine_columns(view, DAY_17)
    committer = collection._writing()
    committer.publish = lambda paths, *, arrays: None  # type: ignore[method-assign]
    rewrite(collection, 1, day=1)
    assert engine_columns(view, DAY_17) == expected
    opened(store)
    with pytest.raises(SnapshotExpiredError):
        engine_columns(view, DAY_17)


@pytest.mark.parametrize("before", [0, 1, 2], ids=["first space", "second space", "third space"])
def test_a_reader_of_a_later_generation_holds_for_two_rewrites_and_never_reads_other_rows(
    store: ObjectStore, before: int
) -> None:
    collection = filled(store)
    for turn in range(before):
        rewrite(collection, turn)
    view = open_collection(store)
    expected = engine_columns(view, DAY_16)
    for turn in (10, 11):
        rewrite(collection, turn)
        assert engine_columns(view, DAY_16) == expected
        collection.insert(rows([70 + turn]), granule=f"append {turn}")
        assert engine_columns(view, DAY_16) == expected
    rewrite(collection, 12)
    with pytest.raises(SnapshotExpiredError):
        engine_columns(view, DAY_16)


def test_older_commits_are_read_or_have_expired_and_are_never_other_rows(store: ObjectStore) -> None:
    collection = created(store)
    contents = {}
    work: list[Callable[[], object]] = [
        lambda: collection.insert(rows(range(9)), granule="a"),
        lambda: collection.insert(rows([20]), granule="b"),
        lambda: rewrite(collection, 1),
        lambda: collection.insert(rows([30]), granule="c"),
        lambda: rewrite(collection, 2),
        lambda: rewrite(collection, 3),
        lambda: collection.insert(rows([40]), granule="d"),
    ]
    for step in work:
        step()
        contents[collection.commit] = engine_columns(collection, DAY_16)
    readable = []
    for number, expected in contents.items():
        try:
            assert engine_columns(open_collection(store, at=number), DAY_16) == expected
            readable.append(number)
        except SnapshotExpiredError:
            pass
    # Not the two of the first generation.
    assert readable == sorted(contents)[2:]


def test_a_rollback_over_the_first_rewrite_is_refused_and_says_why(store: ObjectStore) -> None:
    collection = filled(store)
    before = collection.commit
    rewrite(collection, 1, day=1)
    etags = {info.key: info.etag for info in store.list()}
    with pytest.raises(SnapshotExpiredError, match=r"day=17 was rewritten 1 times since; its old rows are gone"):
        collection.rollback(before)
    assert {info.key: info.etag for info in store.list()} == etags
    check_readers(store)


def test_a_rollback_over_an_append_or_a_later_rewrite_works(store: ObjectStore) -> None:
    collection = filled(store)
    before, expected = collection.commit, check_readers(store)
    columns = {path: engine_columns(collection, path) for path in expected}
    rewrite(collection, 1)
    collection.insert(rows([DAY + 90]), granule="an append to the first generation")
    collection.rollback(before)
    assert check_readers(store) == expected
    assert {path: engine_columns(collection, path)["height"] for path in expected} == {
        path: found["height"] for path, found in columns.items()
    }


def test_a_key_space_is_not_used_again_while_its_readers_may_be_at_work() -> None:
    clock = FakeClock()
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    filled(store, clock)
    collection = opened(store, clock, reader_grace=timedelta(hours=1))
    rewrite(collection, 1)
    view = open_collection(store)
    expected = engine_columns(view, DAY_16)

    def rewrite_twice_more() -> None:
        for turn in (2, 3):
            collection.insert(rows([1], offset=turn), granule=f"rewrite {turn}", timeout=0.0)

    with pytest.raises(BusyError, match="reader_grace"):
        rewrite_twice_more()
    assert engine_columns(view, DAY_16) == expected
    check_readers(store)
    store.clear()
