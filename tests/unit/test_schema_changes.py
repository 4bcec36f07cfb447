"""Adding variables to a collection and dropping them: transactions like any other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest
import xarray as xr
import zarr

from tests.engine_support import (
    DAY_16,
    DAY_17,
    FakeClock,
    S3LikeStore,
    heights,
    offer_of,
    plain_columns,
    plain_rows,
    small_schema,
    times,
)
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.errors import (
    InvalidInputError,
    NotFoundError,
    SchemaChangedError,
    SnapshotExpiredError,
    StorageError,
)
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import PROVENANCE, Dimension, Variable
from zcollection_engine.testing.stores import FaultStore, fail_before
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.verifying import verify

DAY = 86_400
WAVE = Variable("wave", "<i2", ("time",), (4,), -1, {"scale_factor": 0.01, "units": "m"})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[S3LikeStore]:
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    yield made
    made.clear()


@pytest.fixture
def collection(store: S3LikeStore, clock: FakeClock) -> Collection:
    made = create_collection(
        store, small_schema(chunk_rows=4), DatePartitioning("time", "day"), writer=WriterOptions("me"), clock=clock
    )
    made.insert(heights([0, 1, 2, 3, 4, DAY]), granule="a")
    return made


def with_waves(seconds: list[int], waves: list[int]) -> xr.Dataset:
    dataset = heights(seconds)
    dataset["wave"] = xr.Variable("time", np.array(waves, np.int16), {"scale_factor": 0.01, "units": "m"})
    return dataset


def stored_waves(store: S3LikeStore) -> dict[str, list[int]]:
    """As plain zarr reads them from the group, which knows nothing of the log."""
    return plain_columns(store, "wave")


def test_rows_that_are_there_get_the_fill_value_and_new_ones_their_own(
    store: S3LikeStore, collection: Collection
) -> None:
    number = collection.add_variables([WAVE])
    assert (number, collection.schema["wave"]) == (collection.commit, WAVE)
    assert stored_waves(store) == {DAY_16: [-1] * 5, DAY_17: [-1]}
    collection.insert(with_waves([5, 6], [50, 60]), granule="b")
    assert stored_waves(store)[DAY_16] == [-1] * 5 + [50, 60]
    collection.insert(with_waves([1], [10]), granule="c")
    assert stored_waves(store)[DAY_16] == [-1, 10, -1, -1, -1, 50, 60]
    assert plain_rows(store)[DAY_16] == [(s, s) for s in range(7)]
    assert verify(collection, store=store).findings == ()


def test_the_old_arrays_are_not_written_again(store: S3LikeStore, collection: Collection) -> None:
    before = {i.key: i.etag for i in store.list() if "/c/" in i.key}
    collection.add_variables([WAVE])
    after = {i.key: i.etag for i in store.list() if "/c/" in i.key}
    assert {key: after[key] for key in before} == before
    assert {key.split("/")[3] for key in after.keys() - before.keys()} == {"wave"}


def test_a_new_dimension_needs_its_size(collection: Collection) -> None:
    spectrum = Variable("spectrum", "<f4", ("time", "bin"), (4, 5), float("nan"))
    with pytest.raises(InvalidInputError, match="'bin'"):
        collection.add_variables([spectrum])
    collection.add_variables([spectrum], [Dimension("bin", 5)])
    assert np.isnan(collection.load(variables=["spectrum"], decode=False)["spectrum"].values).all()
    assert collection.schema.sizes["bin"] == 5


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        (Variable("height", "<i4", ("time",), (4,)), "already"),
        (Variable("height/x", "<i4", ("time",), (4,)), "group at once"),
        (Variable("table", "<i4", ("row",), (4,)), "'time' first"),
    ],
)
def test_a_variable_that_does_not_fit_is_refused(collection: Collection, variable: Variable, what: str) -> None:
    before = collection.state.number
    with pytest.raises(InvalidInputError, match=what):
        collection.add_variables([variable], [Dimension("row", 4)])
    assert collection.state.number == before


def test_a_dropped_variable_is_gone_for_every_reader(store: S3LikeStore, collection: Collection) -> None:
    collection.add_variables([WAVE])
    collection.drop_variables(["height"])
    assert "height" not in collection.schema.by_path
    assert not any(i.key.endswith("height/zarr.json") for i in store.list())
    assert set(collection.load(decode=False).variables) == {"time", "wave", PROVENANCE}
    folder = zarr.storage.MemoryStore(
        {i.key: zarr.core.buffer.cpu.Buffer.from_bytes(store.get(i.key).data) for i in store.list()}
    )
    group = zarr.open_group(folder, path=DAY_16, mode="r", use_consolidated=False)
    with pytest.warns(UserWarning, match="height"):  # its chunks are there until they are collected
        assert set(group.array_keys()) == {"time", "wave", PROVENANCE}
    assert verify(collection, store=store).ok


@pytest.mark.parametrize("path", ["time", PROVENANCE])
def test_what_decides_on_the_places_of_rows_cannot_be_dropped(collection: Collection, path: str) -> None:
    with pytest.raises(InvalidInputError, match=path):
        collection.drop_variables([path])


def test_a_variable_that_is_not_there_cannot_be_dropped(collection: Collection) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        collection.drop_variables(["nothing"])
    with pytest.raises(InvalidInputError):
        collection.drop_variables([])


def test_a_name_that_comes_again_never_shows_a_snapshot_other_values(
    store: S3LikeStore, collection: Collection
) -> None:
    collection.add_variables([WAVE])
    collection.insert(with_waves([10], [7]), granule="b")
    snapshot = open_collection(store)
    collection.drop_variables(["wave"])
    collection.add_variables([WAVE])
    assert stored_waves(store)[DAY_16] == [-1] * 6
    assert snapshot.load([DAY_16], variables=["wave"], decode=False)["wave"].values.tolist() == [-1] * 5 + [7]
    for seconds in (3, 4):
        collection.insert(with_waves([seconds], [seconds]), granule=f"late {seconds}")
    with pytest.raises(SnapshotExpiredError):
        snapshot.load([DAY_16], variables=["wave"], decode=False)["wave"].load()
    assert verify(collection, store=store).findings == ()


def test_what_a_dropped_variable_leaves_is_collected_once_it_is_old(
    store: S3LikeStore, collection: Collection, clock: FakeClock
) -> None:
    collection.add_variables([WAVE])
    collection.drop_variables(["wave"])
    left = {i.key for i in store.list() if "/wave/" in i.key}
    assert left
    young = collection.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(days=1))
    assert young.foreign == 0
    assert {i.key for i in store.list() if "/wave/" in i.key} == left
    clock.advance(2 * DAY)
    collection.collect_garbage(dry_run=False, min_age=timedelta(0), retention=timedelta(days=1))
    assert all(i.size <= 24 for i in store.list() if "/wave/" in i.key)
    collection.add_variables([WAVE])
    assert stored_waves(store) == {DAY_16: [-1] * 5, DAY_17: [-1]}


def test_a_granule_that_was_fitted_before_is_fitted_again(store: S3LikeStore, collection: Collection) -> None:
    early = offer_of(collection, heights([20]), "early")
    other = open_collection(store, mode="w", writer=WriterOptions("other"))
    other.add_variables([WAVE])
    with pytest.raises(SchemaChangedError, match="'wave'"):
        collection.commit_offers([early])
    outcome = collection.insert(with_waves([20], [9]), granule="early")
    assert outcome.commit is not None
    assert stored_waves(store)[DAY_16] == [-1] * 5 + [9]


def test_an_insert_under_way_is_fitted_to_the_new_schema(store: S3LikeStore, collection: Collection) -> None:
    other = open_collection(store, mode="w", writer=WriterOptions("other"))
    other.add_variables([WAVE])
    assert "wave" not in collection.schema.by_path
    collection.insert(with_waves([20], [9]), granule="b")
    assert stored_waves(store)[DAY_16] == [-1] * 5 + [9]


def test_an_addition_that_fails_changes_nothing_and_can_be_repeated(
    store: S3LikeStore, clock: FakeClock, collection: Collection
) -> None:
    broken = FaultStore(store, [fail_before("create", f"{DAY_17}/wave/*")])
    writer = open_collection(broken, mode="w", writer=WriterOptions("me"), clock=clock)
    with pytest.raises(StorageError):
        writer.add_variables([WAVE])
    assert "wave" not in open_collection(store).schema.by_path
    writer.add_variables([WAVE])
    assert stored_waves(store) == {DAY_16: [-1] * 5, DAY_17: [-1]}


def test_a_rollback_behind_an_addition_takes_the_variable_out(store: S3LikeStore, collection: Collection) -> None:
    before = collection.commit
    collection.add_variables([WAVE])
    collection.insert(with_waves([10], [7]), granule="b")
    collection.rollback(before)
    assert "wave" not in collection.schema.by_path
    assert plain_rows(store)[DAY_16] == [(s, s) for s in range(5)]
    assert collection.config.retired == ("wave",)
    collection.add_variables([WAVE])
    assert stored_waves(store)[DAY_16] == [-1] * 5
    assert verify(collection, store=store).ok


def test_a_rollback_behind_a_drop_is_refused(collection: Collection) -> None:
    before = collection.commit
    collection.add_variables([WAVE])
    with_wave = collection.commit
    collection.drop_variables(["wave"])
    with pytest.raises(SnapshotExpiredError, match="wave"):
        collection.rollback(with_wave)
    assert collection.rollback(before) > with_wave


def test_an_older_commit_is_read_with_the_schema_it_had(store: S3LikeStore, collection: Collection) -> None:
    before = collection.commit
    collection.add_variables([WAVE])
    collection.drop_variables(["height"])
    old = open_collection(store, at=before)
    assert old.load([DAY_16], decode=False)["height"].values.tolist() == [0, 1, 2, 3, 4]
    assert times([0, 1, 2, 3, 4]).tolist() == old.load([DAY_16])["time"].values.tolist()
