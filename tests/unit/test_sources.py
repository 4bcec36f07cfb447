"""Granules read from where they lie, by the library alone: ingested, and read again when rows shall come back."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from daemon.sources.watch import WatchSource
from daemon.tasks import ReadGranule, ReadRequest, read_granule
from tests.engine_support import DAY_16, DAY_17, heights, plain_columns, plain_rows, small_schema
from tests.granules_twins import sentinel6_twin
from tests.zarr_twins import pack, write_twin
from zcollection_engine import Collection, StorageOptions, WriterOptions, create_collection, open_collection
from zcollection_engine.errors import (
    InvalidGranuleError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    SchemaMismatchError,
    StorageError,
)
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.planning import Verdict
from zcollection_engine.schema import Variable
from zcollection_engine.sources import Condition, Source, SourceExecutor, condition_of, read_again, read_source
from zcollection_engine.stores.resolve import open_store
from zcollection_engine.verification.verifying import verify

DAY = 86_400
SPEC = GranuleSpec("/time")
DAILY = DatePartitioning("time", "day")
WAVE = Variable("wave", "<i2", ("time",), (4,), -1)

Put = Callable[..., str]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write a granule; each is a minute newer than the one before."""
    clock = iter(range(1_700_000_000, 1_800_000_000, 60))

    def write(name: str, dataset: xr.Dataset) -> str:
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        dataset.to_netcdf(path)
        time = next(clock)
        os.utime(path, (time, time))
        return str(path)

    return write


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return collection_at(tmp_path / "out")


def collection_at(path: Path, policy: DriftPolicy | None = None) -> Collection:
    schema = small_schema(chunk_rows=4)
    return create_collection(str(path), schema, DAILY, drift=policy, writer=WriterOptions("me"))


def ids(collection: Collection) -> dict[str, int]:
    return {entry.identity.key.rpartition("/")[2]: entry.id for entry in collection.granules()}


def entry_of(collection: Collection, name: str) -> GranuleEntry:
    (entry,) = (e for e in collection.granules() if e.identity.key.endswith(name))
    return entry


def rows(collection: Collection) -> dict[str, list[tuple[int, int]]]:
    return plain_rows(collection.store)


# Ingesting.


def test_files_become_one_transaction(collection: Collection, put: Put) -> None:
    urls = [put("a.nc", heights([0, 1])), put("b.nc", heights([2, DAY]))]
    outcome = collection.ingest(urls, SPEC)
    assert set(outcome.verdicts.values()) == {Verdict.COMMITTED}
    assert rows(collection) == {DAY_16: [(0, 0), (1, 1), (2, 2)], DAY_17: [(DAY, DAY)]}
    assert [info.operation for info in collection.history()] == ["merge"]
    assert set(collection.ingest(urls, SPEC).verdicts.values()) == {Verdict.KNOWN}
    assert collection.ingest([], SPEC).commit is None


def test_the_newer_file_wins_whatever_the_order(collection: Collection, put: Put) -> None:
    old = put("a.nc", heights([0, 1, 2]))
    new = put("b.nc", heights([1, 2], offset=100))
    collection.ingest([new], SPEC)
    collection.ingest([old], SPEC)
    assert rows(collection) == {DAY_16: [(0, 0), (1, 101), (2, 102)]}


async def test_an_identity_is_the_one_that_a_daemon_gives(
    collection: Collection, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a b.nc", heights([0]))
    monkeypatch.chdir(tmp_path)
    collection.ingest(["in/a b.nc"], SPEC)
    watch = WatchSource("in", open_store("in"), interval_seconds=1, settle_seconds=0, known=lambda _: False)
    async with watch:
        (delivery,) = await watch.receive(1)
    read = read_granule(ReadRequest(delivery.ref, SPEC, StorageOptions()), collection.ref)
    assert isinstance(read, ReadGranule)
    assert read.entry == entry_of(collection, "a b.nc")
    assert delivery.ref.etag == read.entry.identity.etag


def test_zarr_directories_and_archives_are_read_too(tmp_path: Path) -> None:
    spec = GranuleSpec("/data_01/time", include=("/data_01/*",), format="zarr")
    folders = [write_twin(sentinel6_twin(n, rows=20), tmp_path / f"{n}.zarr", 3) for n in (99, 100)]
    archive = tmp_path / "100.zip"
    archive.write_bytes(pack(folders[1]))
    marker = str(folders[0] / "zarr.json")
    granule = read_source(Source.at(marker), spec).granule
    collection = create_collection(str(tmp_path / "out"), infer_schema(granule), DAILY)
    outcome = collection.ingest([marker, str(archive)], spec)
    assert set(outcome.verdicts.values()) == {Verdict.COMMITTED}
    assert sum(partition.rows for partition in collection.partitions()) == 40


def test_one_bad_file_keeps_all_out(collection: Collection, put: Put, tmp_path: Path) -> None:
    good = put("a.nc", heights([0]))
    bad = tmp_path / "bad.nc"
    bad.write_bytes(b"no granule")
    before = collection.state.number
    with pytest.raises(InvalidGranuleError, match=r"bad\.nc"):
        collection.ingest([good, str(bad)], SPEC)
    with pytest.raises(NotFoundError, match=r"gone\.nc"):
        collection.ingest([good, str(tmp_path / "gone.nc")], SPEC)
    with pytest.raises(SchemaMismatchError, match="'height'"):
        collection.ingest([good, put("b.nc", heights([0]).drop_vars("height"))], SPEC)
    assert collection.state.number == before


def test_a_collection_opened_for_reading_reads_no_files(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(ReadOnlyError):
        open_collection(collection.url).ingest([str(tmp_path / "gone.nc")], SPEC)


def test_files_add_variables_where_the_policy_says_so(tmp_path: Path, put: Put) -> None:
    collection = collection_at(tmp_path / "out", DriftPolicy(new="add", missing="fill"))
    wave = xr.Variable("time", np.array([7, 8], np.int16), {"_FillValue": np.int16(-1)})
    urls = [put("a.nc", heights([0, 1])), put("b.nc", heights([2, 3]).assign(wave=wave))]
    collection.ingest(urls, SPEC)
    assert plain_columns(collection.store, "wave") == {DAY_16: [-1, -1, 7, 8]}
    assert [info.operation for info in collection.history()] == ["add", "merge"]


# Reading again.


def overlapping(collection: Collection, put: Put) -> Sequence[str]:
    """Granule b takes rows 1 and 2 from a."""
    urls = [put("a.nc", heights([0, 1, 2, 3])), put("b.nc", heights([1, 2], offset=100))]
    collection.ingest(urls, SPEC)
    assert rows(collection) == {DAY_16: [(0, 0), (1, 101), (2, 102), (3, 3)]}
    return urls


def test_rows_come_back_from_their_source_when_what_took_them_is_retracted(collection: Collection, put: Put) -> None:
    overlapping(collection, put)
    outcome = collection.retract([ids(collection)["b.nc"]], executor=SourceExecutor(collection, SPEC))
    assert outcome.lost == ()
    assert rows(collection) == {DAY_16: [(n, n) for n in range(4)]}
    assert verify(collection, store=collection.store).findings == ()


def test_rows_come_back_when_what_took_them_is_delivered_again_without(collection: Collection, put: Put) -> None:
    overlapping(collection, put)
    outcome = collection.ingest([put("b.nc", heights([2], offset=200))], SPEC)
    assert outcome.lost == ()
    assert rows(collection) == {DAY_16: [(0, 0), (1, 1), (2, 202), (3, 3)]}


@pytest.mark.parametrize("harm", ["gone", "changed", "bad"])
def test_a_source_that_is_no_longer_the_same_loses_rows_and_says_so(
    collection: Collection, put: Put, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    first, _ = overlapping(collection, put)
    match harm:
        case "gone":
            Path(first).unlink()
        case "changed":
            put("a.nc", heights([0, 1, 2, 3], offset=5))
        case "bad":
            Path(first).write_bytes(b"no granule")
    refused = SourceExecutor(collection, SPEC, accept_losses=False)
    with pytest.raises(InvalidInputError, match=r"rows would be lost: .*a\.nc"):
        collection.retract([ids(collection)["b.nc"]], executor=refused)
    assert [info.operation for info in collection.history()] == ["merge"]
    with caplog.at_level(logging.WARNING):
        outcome = collection.retract([ids(collection)["b.nc"]], executor=SourceExecutor(collection, SPEC))
    assert [entry.identity.key.rpartition("/")[2] for entry in outcome.lost] == ["a.nc"]
    assert "a.nc" in caplog.text
    assert rows(collection) == {DAY_16: [(0, 0), (3, 3)]}


def test_a_failing_store_loses_nothing(collection: Collection, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    overlapping(collection, put)

    def fail(*_: object) -> None:
        raise StorageError("down")

    monkeypatch.setattr("zcollection_engine.granules.opening.fetch", fail)
    with pytest.raises(StorageError, match="down"):
        collection.retract([ids(collection)["b.nc"]], executor=SourceExecutor(collection, SPEC))
    assert [info.operation for info in collection.history()] == ["merge"]


def test_a_granule_from_before_an_addition_comes_back_with_fill_values(tmp_path: Path, put: Put) -> None:
    collection = collection_at(tmp_path / "out")
    overlapping(collection, put)
    collection.add_variables([WAVE])
    outcome = collection.retract([ids(collection)["b.nc"]], executor=SourceExecutor(collection, SPEC))
    assert outcome.lost == ()
    assert plain_columns(collection.store, "wave") == {DAY_16: [-1] * 4}


def test_a_granule_is_fitted_to_the_schema_that_came_while_it_was_read(
    collection: Collection, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlapping(collection, put)
    executor = SourceExecutor(collection, SPEC)
    reread = executor.reread
    calls: list[int] = []

    def slow(entries: Sequence[GranuleEntry]) -> object:
        found = reread(entries)
        if not calls:
            open_collection(collection.url, mode="w", writer=WriterOptions("other")).add_variables([WAVE])
        calls.append(len(entries))
        return found

    monkeypatch.setattr(executor, "reread", slow)
    assert collection.retract([ids(collection)["b.nc"]], executor=executor).lost == ()
    assert calls == [1, 1]
    assert plain_columns(collection.store, "wave") == {DAY_16: [-1] * 4}


def test_what_was_inserted_from_memory_has_no_source(collection: Collection) -> None:
    collection.insert(heights([0, 1, 2]), granule="low")
    entry = entry_of(collection, "low")
    assert condition_of(entry) is Condition.GONE
    with pytest.raises(NotFoundError, match="from memory"):
        read_again(entry, SPEC, collection.config, collection.immutable)


def test_the_condition_of_a_source_is_told_without_reading_it(collection: Collection, put: Put) -> None:
    first, second = overlapping(collection, put)
    a, b = entry_of(collection, "a.nc"), entry_of(collection, "b.nc")
    assert condition_of(a) is condition_of(b) is Condition.THERE
    Path(first).unlink()
    put("b.nc", heights([7]))
    assert (condition_of(a), condition_of(b)) == (Condition.GONE, Condition.CHANGED)
    assert second == b.url.removeprefix("file://")


# What a retraction would do.


def test_a_plan_tells_which_granules_get_rows_back(collection: Collection, put: Put) -> None:
    overlapping(collection, put)
    view = open_collection(collection.url)
    plan = view.plan_retraction([ids(collection)["b.nc"], entry_of(collection, "b.nc").identity.key])
    assert [e.id for e in plan.retracted] == [ids(collection)["b.nc"]]
    assert [e.id for e in plan.restored] == [ids(collection)["a.nc"]]
    assert plan.paths == (DAY_16,)
    assert open_collection(collection.url).commit == view.commit
    with pytest.raises(NotFoundError, match="'gone'"):
        view.plan_retraction(["gone"])
