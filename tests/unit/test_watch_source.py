"""What a watched folder delivers, and when: settling, changes, memory, failures."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.errors import SourceUnavailableError
from daemon.sources import watch
from daemon.sources.base import Delivery, ObjectRef
from daemon.sources.watch import WatchSource, is_unfinished
from zcollection_engine.errors import StorageError
from zcollection_engine.stores.base import ObjectInfo
from zcollection_engine.stores.resolve import fetch, open_store

START = datetime(2024, 1, 1, tzinfo=UTC)


class HandClock:
    """Time that passes only when a test turns it; `turn` waits until someone waits for the time."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[tuple[float, asyncio.Future[None]]] = []
        self._waited_for = asyncio.Event()

    def monotonic(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, timer)
        self._timers.append(entry)
        self._waited_for.set()
        setting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({setting, timer}, return_when=asyncio.FIRST_COMPLETED)
            return setting.done()
        finally:
            setting.cancel()
            if entry in self._timers:
                self._timers.remove(entry)

    async def turn(self, seconds: float) -> None:
        await self._waited_for.wait()
        self._now += seconds
        for entry in [entry for entry in self._timers if entry[0] <= self._now]:
            self._timers.remove(entry)
            entry[1].set_result(None)
        if not self._timers:
            self._waited_for.clear()


class Folder:
    """The part of an object store that watching needs, with a clock of its own."""

    def __init__(self, url: str = "file:///data/incoming") -> None:
        self.url = url
        self.files: dict[str, ObjectInfo] = {}
        self.fail_behind: int | None = None
        self.listings = 0
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def put(self, key: str, size: int = 3, *, age: float = 0, etag: str | None = None) -> None:
        modified = START - timedelta(seconds=age)
        self.files[key] = ObjectInfo(key=key, size=size, etag=etag or f"{size}-{age}", modified=modified)

    def list(self, prefix: str = "", *, after: str = "") -> Generator[ObjectInfo]:
        self.listings += 1
        self.started.set()
        self.gate.wait()
        for number, key in enumerate(sorted(self.files)):
            if number == self.fail_behind:
                raise StorageError("the network is down")
            yield self.files[key]


class Bench:
    def __init__(
        self,
        *,
        settle_seconds: float = 0,
        url: str = "file:///data/incoming",
        is_marker: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.folder = Folder(url)
        self.ledger: set[ObjectRef] = set()
        self.clock = HandClock()
        self.wake = asyncio.Event()
        self.source = WatchSource(
            "incoming",
            self.folder,
            interval_seconds=10,
            settle_seconds=settle_seconds,
            known=self.ledger.__contains__,
            is_marker=is_marker,
            clock=self.clock,
            wake=self.wake,
        )

    async def scan(self, limit: int = 100) -> list[Delivery]:
        """Receive; time jumps to the next scan when there is one to wait for."""
        receiving = asyncio.create_task(self.source.receive(limit))
        turning = asyncio.create_task(self.clock.turn(10))
        try:
            await asyncio.wait({receiving, turning}, return_when=asyncio.FIRST_COMPLETED)
            return await receiving
        finally:
            turning.cancel()

    async def settle(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.ledger.add(delivery.ref)
            await self.source.acknowledge(delivery)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with bench.source:
        yield bench


@pytest.fixture
async def patient() -> AsyncIterator[Bench]:
    bench = Bench(settle_seconds=15)
    async with bench.source:
        yield bench


def keys(deliveries: list[Delivery]) -> list[str]:
    return [delivery.ref.key.rpartition("/")[2] for delivery in deliveries]


async def test_a_file_has_no_bucket_and_its_whole_path_as_key(bench: Bench) -> None:
    bench.folder.put("day 1/a.nc")
    (delivery,) = await bench.scan()
    assert delivery.ref == ObjectRef(
        url="file:///data/incoming/day 1/a.nc",
        bucket="",
        key="data/incoming/day 1/a.nc",
        etag="3-0",
        size=3,
        modified=START,
        event_time=START,
    )


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://landing", "landing", "a.nc"),
        ("s3://landing/deep/prefix", "landing", "deep/prefix/a.nc"),
        ("gs://landing/in", "gs://landing", "in/a.nc"),
    ],
)
async def test_an_object_has_the_bucket_and_key_that_an_event_would_tell(url: str, bucket: str, key: str) -> None:
    bench = Bench(url=url)
    bench.folder.put("a.nc")
    async with bench.source:
        (delivery,) = await bench.scan()
    assert (delivery.ref.url, delivery.ref.bucket, delivery.ref.key) == (f"{url}/a.nc", bucket, key)


async def test_files_of_a_real_folder_are_delivered_and_can_be_fetched(tmp_path: Path) -> None:
    names = {"a b+é#?%20.nc", "deep/er/b.nc"}
    for name in (*names, "c.nc.part", ".hidden/d.nc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    store = open_store(str(tmp_path))
    source = WatchSource("folder", store, interval_seconds=0, settle_seconds=0, known=lambda _: False)
    async with source:
        found = await source.receive(10)
        assert {delivery.ref.key for delivery in found} == {f"{tmp_path}/{name}"[1:] for name in names}
        for delivery in found:
            stored = fetch(delivery.ref.url)
            assert delivery.ref.key.endswith(stored.data.decode())
            assert (stored.info.etag, stored.info.size) == (delivery.ref.etag, delivery.ref.size)
        assert await source.receive(10) == []


async def test_what_the_ledger_knows_is_left_alone(bench: Bench) -> None:
    bench.folder.put("a.nc")
    bench.folder.put("b.nc")
    first, second = await bench.scan()
    await bench.source.release(first)
    await bench.source.release(second)
    bench.ledger.add(first.ref)
    assert keys(await bench.scan()) == ["b.nc"]
    assert await bench.scan() == []


async def test_scans_start_an_interval_apart(bench: Bench) -> None:
    assert await bench.source.receive(1) == []
    bench.folder.put("a.nc")
    receiving = asyncio.create_task(bench.source.receive(1))
    await bench.clock.turn(9.9)
    await bench.clock.turn(0)
    assert not receiving.done()
    assert bench.folder.listings == 1
    await bench.clock.turn(0.1)
    assert keys(await receiving) == ["a.nc"]


async def test_waking_starts_a_scan_at_once(bench: Bench) -> None:
    assert await bench.source.receive(1) == []
    bench.folder.put("a.nc")
    receiving = asyncio.create_task(bench.source.receive(1))
    await bench.clock.turn(1)
    bench.wake.set()
    assert keys(await receiving) == ["a.nc"]


async def test_what_is_given_back_during_the_wait_is_delivered_without_a_scan(bench: Bench) -> None:
    bench.folder.put("a.nc")
    (delivery,) = await bench.source.receive(1)
    receiving = asyncio.create_task(bench.source.receive(1))
    await bench.clock.turn(1)
    await bench.source.release(delivery)
    assert keys(await receiving) == ["a.nc"]
    assert bench.folder.listings == 1


async def test_what_is_given_back_while_no_one_waits_brings_no_scan_forward(bench: Bench) -> None:
    bench.folder.put("a.nc")
    (delivery,) = await bench.source.receive(1)
    await bench.source.release(delivery)
    assert not bench.wake.is_set()
    assert keys(await bench.source.receive(1)) == ["a.nc"]
    assert bench.folder.listings == 1


async def test_a_backlog_is_delivered_without_another_scan(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 4)
    for number in range(10):
        bench.folder.put(f"{number}.nc")
    found: list[str] = []
    while len(found) < 10:
        batch = await bench.source.receive(3)
        assert 0 < len(batch) <= 3
        found += keys(batch)
    assert found == [f"{number}.nc" for number in range(10)]
    assert bench.folder.listings == 1


async def test_a_changed_object_is_delivered_again_also_while_the_old_one_is_in_flight(bench: Bench) -> None:
    bench.folder.put("a.nc", etag="one")
    first = await bench.scan()
    bench.folder.put("a.nc", etag="two")
    second = await bench.scan()
    assert [d.ref.etag for d in first + second] == ["one", "two"]
    await bench.settle(first + second)
    bench.folder.put("a.nc", size=4, etag="two")
    assert [d.ref.size for d in await bench.scan()] == [4]


@pytest.mark.parametrize(
    "name",
    [
        ".a.nc",
        "_a.nc",
        "a.nc.part",
        "a.nc.tmp",
        "a.nc.filepart",
        "A.NC.PART",
        "in/.a.nc.Xy12",
        ".~tmp~/a.nc",
        "in/",
    ],
)
async def test_names_that_writers_use_for_the_time_of_writing_are_never_taken(bench: Bench, name: str) -> None:
    assert is_unfinished(name)
    bench.folder.put(name)
    assert await bench.scan() == []
    assert await bench.source.drained()


@pytest.mark.parametrize("name", ["a.zarr/.zmetadata", "a.zarr/_SUCCESS", "in/a.zarr/done.tmp"])
async def test_a_marker_is_taken_whatever_its_name(name: str) -> None:
    markers = {".zmetadata", "_SUCCESS", "done.tmp"}
    bench = Bench(is_marker=lambda key: key.rpartition("/")[2] in markers)
    for other in (name, f".staging/{name}", "a.zarr/.zgroup", "a.zarr/_FAILURE", "a.zarr/x.tmp"):
        bench.folder.put(other)
    async with bench.source:
        assert [delivery.ref.key for delivery in await bench.scan()] == [f"data/incoming/{name}"]


async def test_a_file_is_taken_when_its_writer_renames_it(bench: Bench) -> None:
    bench.folder.put("a.nc.part")
    assert await bench.scan() == []
    bench.folder.files.clear()
    bench.folder.put("a.nc")
    assert keys(await bench.scan()) == ["a.nc"]


async def test_a_growing_file_is_not_taken_before_it_rests(patient: Bench) -> None:
    for size in range(1, 5):
        patient.folder.put("a.nc", size)
        assert await patient.scan() == []
        assert not await patient.source.drained()
    assert await patient.scan() == []  # unchanged for 10 s
    (delivery,) = await patient.scan()  # unchanged for 20 s
    assert delivery.ref.size == 4


async def test_a_rewrite_of_equal_size_starts_the_rest_anew(patient: Bench) -> None:
    patient.folder.put("a.nc", etag="one")
    assert await patient.scan() == []
    assert await patient.scan() == []
    patient.folder.put("a.nc", etag="two")
    assert await patient.scan() == []
    assert await patient.scan() == []
    assert [d.ref.etag for d in await patient.scan()] == ["two"]


@pytest.mark.parametrize("age", [-86400.0, 0.0, 86400.0 * 365])
async def test_the_clock_of_the_store_has_no_say_in_the_rest(patient: Bench, age: float) -> None:
    patient.folder.put("a.nc", age=age)
    assert await patient.scan() == []
    assert await patient.scan() == []
    assert keys(await patient.scan()) == ["a.nc"]


async def test_a_file_that_vanishes_before_it_rests_is_forgotten(patient: Bench) -> None:
    patient.folder.put("a.nc")
    assert await patient.scan() == []
    patient.folder.files.clear()
    assert await patient.scan() == []
    assert await patient.source.drained()
    patient.folder.put("a.nc")
    assert await patient.scan() == []


async def test_more_unsettled_files_than_memory_allows_come_later(
    patient: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_UNSETTLED", 2)
    for name in "abcde":
        patient.folder.put(name)
    found: list[str] = []
    for _ in range(30):
        deliveries = await patient.scan()
        found += keys(deliveries)
        assert len(patient.source._unsettled) <= 2
        if len(found) < 5:
            assert not await patient.source.drained()
        await patient.settle(deliveries)
    assert found == list("abcde")
    assert await patient.source.drained()


async def test_files_that_found_no_room_in_memory_are_outstanding(
    patient: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_UNSETTLED", 2)
    for name in "yz":
        patient.folder.put(name)
    assert await patient.scan() == []
    for name in "ab":
        patient.folder.put(name)
    assert await patient.scan() == []
    last = await patient.scan()
    assert keys(last) == ["y", "z"]
    await patient.settle(last)
    assert not await patient.source.drained()


async def test_a_scan_under_way_does_not_hide_that_the_last_one_found_nothing(bench: Bench) -> None:
    assert await bench.source.receive(1) == []
    bench.folder.started.clear()
    bench.folder.gate.clear()
    scanning = asyncio.create_task(bench.scan())
    await asyncio.to_thread(bench.folder.started.wait)
    drained = await bench.source.drained()
    bench.folder.put("a.nc")
    bench.folder.gate.set()
    assert drained
    assert keys(await scanning) == ["a.nc"]
    assert not await bench.source.drained()


async def test_nothing_is_delivered_twice_while_the_ledger_lags_behind(bench: Bench) -> None:
    bench.folder.put("a.nc")
    (delivery,) = await bench.scan()
    await bench.source.acknowledge(delivery)
    assert await bench.scan() == []
    assert await bench.scan() == []
    bench.ledger.add(delivery.ref)
    assert await bench.scan() == []


async def test_memory_holds_only_what_is_in_flight_or_about_to_be_known(bench: Bench) -> None:
    for number in range(50):
        bench.folder.put(f"{number:02}.nc")
    await bench.settle(await bench.scan())
    assert len(bench.source._acknowledged) == 50
    for number in range(10):
        del bench.folder.files[f"{number:02}.nc"]
    assert await bench.scan() == []
    assert not bench.source._acknowledged
    assert not bench.source._in_flight
    assert not bench.source._backlog


async def test_an_acknowledged_object_that_is_deleted_is_forgotten(bench: Bench) -> None:
    bench.folder.put("a.nc")
    (delivery,) = await bench.scan()
    await bench.source.acknowledge(delivery)
    bench.folder.files.clear()
    assert await bench.scan() == []
    assert not bench.source._acknowledged


async def test_a_scan_that_fails_half_way_changes_nothing(patient: Bench) -> None:
    for name in "abc":
        patient.folder.put(name)
    assert await patient.scan() == []
    patient.folder.fail_behind = 1
    with pytest.raises(SourceUnavailableError, match="file:///data/incoming could not be listed: the network"):
        await patient.scan()
    assert not await patient.source.drained()
    patient.folder.fail_behind = None
    assert keys(await patient.scan()) == ["a", "b", "c"]


async def test_a_failing_scan_is_not_repeated_before_the_interval(bench: Bench) -> None:
    bench.folder.put("a.nc")
    bench.folder.fail_behind = 0
    for _ in range(2):
        with pytest.raises(SourceUnavailableError):
            await bench.scan()
    assert bench.folder.listings == 2
    assert bench.clock.monotonic() == 1010.0


async def test_a_receive_cancelled_in_the_middle_of_a_listing_loses_nothing(bench: Bench) -> None:
    bench.folder.put("a.nc")
    bench.folder.gate.clear()
    receiving = asyncio.create_task(bench.source.receive(1))
    await asyncio.to_thread(bench.folder.started.wait)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    bench.folder.gate.set()
    assert keys(await bench.source.receive(1)) == ["a.nc"]
    assert bench.folder.listings == 1


async def test_leaving_in_the_middle_of_a_listing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 1)
    bench = Bench()
    listings = [bench.folder.list()]
    monkeypatch.setattr(bench.folder, "list", lambda: listings[0])
    bench.folder.put("a.nc")
    bench.folder.put("b.nc")
    async with bench.source:
        assert len(await bench.source.receive(1)) == 1
        assert inspect.getgeneratorstate(listings[0]) == inspect.GEN_SUSPENDED
    assert inspect.getgeneratorstate(listings[0]) == inspect.GEN_CLOSED
