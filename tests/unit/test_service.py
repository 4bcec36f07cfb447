"""How the daemon runs and ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from daemon import service as module
from daemon.errors import SourceUnavailableError
from daemon.service import Service, ServiceOptions
from daemon.sources.base import Delivery, ObjectRef
from zcollection_engine.errors import StorageError


class Source:
    """Hands out what a test puts into it; then it is as patient as a queue."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.answers: deque[list[str] | Exception] = deque()
        self.unacknowledged: set[str] = set()
        self.drain_failures: deque[Exception] = deque()
        self.limits: list[int] = []
        self.asked_whether_drained = 0
        self._news = asyncio.Event()
        self._calls = calls

    def gives(self, *answers: list[str] | Exception) -> None:
        self.answers.extend(answers)
        self._news.set()

    async def receive(self, limit: int) -> list[Delivery]:
        self.limits.append(limit)
        while not self.answers:
            self._news.clear()
            await self._news.wait()
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        self.unacknowledged.update(answer)
        return [Delivery(ObjectRef(f"s3://b/{key}", "b", key), self.name) for key in answer]

    async def drained(self) -> bool:
        self.asked_whether_drained += 1
        if self.drain_failures:
            raise self.drain_failures.popleft()
        return not self.answers and not self.unacknowledged


class Pipeline:
    """Takes deliveries until a test settles them."""

    def __init__(self, calls: list[str]) -> None:
        self.works: dict[str, tuple[Source, Delivery]] = {}
        self.taken: asyncio.Queue[str] = asyncio.Queue()
        self.defect: Exception | None = None
        self.grace: float | None = None
        self._changed = asyncio.Condition()
        self._calls = calls

    @property
    def in_flight(self) -> int:
        return len(self.works)

    async def room(self, limit: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.works) < limit)
            return limit - len(self.works)

    async def idle(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self.works)

    async def take(self, source: Source, delivery: Delivery) -> None:
        if self.defect is not None:
            raise self.defect
        self.works[delivery.ref.key] = (source, delivery)
        self.taken.put_nowait(delivery.ref.key)

    async def settle(self, key: str) -> None:
        source, _ = self.works.pop(key)
        source.unacknowledged.discard(key)
        async with self._changed:
            self._changed.notify_all()

    async def stop(self, grace: float) -> list[str]:
        self._calls.append("drain")
        self.grace = grace
        return sorted(self.works)


class Target:
    name = "s6a"

    def __init__(self, calls: list[str]) -> None:
        self.settings = SimpleNamespace(array_metadata_lag_seconds=3600.0)
        self.failure: Exception | None = None
        self.published = asyncio.Event()
        self._calls = calls

    async def publish_arrays(self) -> None:
        self._calls.append("publish arrays")
        self.published.set()
        if self.failure is not None:
            raise self.failure


class Notifier:
    def __init__(self, calls: list[str]) -> None:
        self.watched = asyncio.Event()
        self._calls = calls

    def ready(self) -> None:
        self._calls.append("READY")

    def stopping(self) -> None:
        self._calls.append("STOPPING")

    def watchdog(self) -> None:
        self.watched.set()


class Bench:
    def __init__(self, *, sources: int = 1, **options: Any) -> None:
        self.calls: list[str] = []
        self.sources = [Source(f"queue-{number}", self.calls) for number in range(sources)]
        self.pipeline = Pipeline(self.calls)
        self.target = Target(self.calls)
        self.notifier = Notifier(self.calls)
        self.service = Service(
            cast("Any", self.sources),
            cast("Any", {"s6a": self.target}),
            cast("Any", self.pipeline),
            stop=asyncio.Event(),
            notifier=cast("Any", self.notifier),
            options=ServiceOptions(**({"max_in_flight": 10, "shutdown_grace": 7.0} | options)),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.service.run())
        try:
            await turns()
            yield task
        finally:
            self.service.stop()
            await asyncio.gather(task, return_exceptions=True)  # a test that wants its outcome has awaited it


async def turns() -> None:
    """Let every task go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_IDLE_PAUSE", 0.001)


async def test_what_a_source_delivers_goes_into_the_pipeline() -> None:
    bench = Bench()
    async with bench.running():
        bench.sources[0].gives(["a", "b"], ["c"])
        assert [await bench.pipeline.taken.get() for _ in range(3)] == ["a", "b", "c"]


async def test_a_source_is_asked_for_no_more_than_there_is_room_for() -> None:
    bench = Bench(max_in_flight=2)
    source = bench.sources[0]
    async with bench.running():
        source.gives(["a"])
        await bench.pipeline.taken.get()
        source.gives(["b"])
        await bench.pipeline.taken.get()
        await turns()
        assert source.limits == [2, 1]
        await bench.pipeline.settle("a")
        await turns()
        assert source.limits == [2, 1, 1]


async def test_until_idle_ends_only_when_sources_are_drained_and_everything_is_settled() -> None:
    bench = Bench(sources=2, until_idle=True)
    for source, key in zip(bench.sources, "ab", strict=True):
        source.gives([key])
    async with bench.running() as run:
        for key in "ab":
            assert not run.done()
            await bench.pipeline.settle(key)
        await asyncio.wait_for(run, 10)
    assert not any(source.unacknowledged for source in bench.sources)


async def test_until_idle_goes_on_while_a_source_has_unacknowledged_deliveries() -> None:
    bench = Bench(until_idle=True)
    source = bench.sources[0]
    source.unacknowledged.add("not received yet")
    async with bench.running() as run:
        while source.asked_whether_drained < 3:
            await turns()
        assert not run.done()
        source.unacknowledged.clear()
        await asyncio.wait_for(run, 10)


async def test_until_idle_goes_on_while_a_source_cannot_tell_whether_it_is_drained() -> None:
    bench = Bench(until_idle=True)
    bench.sources[0].drain_failures += [SourceUnavailableError("down")] * 2
    async with bench.running() as run:
        await asyncio.wait_for(run, 10)
    assert bench.sources[0].asked_whether_drained == 3


async def test_without_until_idle_an_idle_daemon_goes_on() -> None:
    bench = Bench()
    async with bench.running() as run:
        await turns()
        assert not run.done()
        assert bench.sources[0].asked_whether_drained == 0


async def test_a_source_that_is_unavailable_is_asked_again_with_growing_pauses() -> None:
    bench = Bench()
    bench.sources[0].gives(*[SourceUnavailableError("down")] * 3, ["a"])
    with structlog.testing.capture_logs() as lines:
        async with bench.running():
            assert await bench.pipeline.taken.get() == "a"
    pauses = [line["seconds"] for line in lines if line["event"] == "source is unavailable"]
    assert pauses == [0.001, 0.002, 0.004]


async def test_a_pause_grows_to_the_longest_only_and_starts_anew_after_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.002)
    down = SourceUnavailableError("down")
    bench = Bench()
    bench.sources[0].gives(down, down, down, ["a"], down, ["b"])
    with structlog.testing.capture_logs() as lines:
        async with bench.running():
            assert [await bench.pipeline.taken.get() for _ in range(2)] == ["a", "b"]
    pauses = [line["seconds"] for line in lines if line["event"] == "source is unavailable"]
    assert pauses == [0.001, 0.002, 0.002, 0.001]


async def test_an_unavailable_source_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 3600.0)
    bench = Bench(sources=2)
    bench.sources[0].gives(SourceUnavailableError("down"))
    bench.sources[1].gives(["a"])
    async with bench.running():
        assert await bench.pipeline.taken.get() == "a"


async def test_readiness_tells_the_phase() -> None:
    bench = Bench()
    assert bench.service.ready() == "starting"
    async with bench.running():
        assert bench.service.ready() is None
        bench.service.stop()
        assert bench.service.ready() == "draining"


async def test_readiness_names_the_sources_that_are_unavailable_until_they_answer() -> None:
    bench = Bench(sources=2)
    for source in bench.sources:
        source.gives(SourceUnavailableError("no route to host"))
    async with bench.running():
        assert bench.service.ready() == "queue-0: no route to host; queue-1: no route to host"
        assert bench.service.live() is None
        for source, left in zip(bench.sources, ["queue-1: no route to host", None], strict=True):
            source.gives([source.name])
            await bench.pipeline.taken.get()
            assert bench.service.ready() == left


async def test_a_stop_drains_with_the_grace_then_publishes_what_was_left() -> None:
    bench = Bench()
    async with bench.running() as run:
        bench.service.stop()
        await run
    assert bench.calls == ["READY", "STOPPING", "drain", "publish arrays"]
    assert bench.pipeline.grace == 7.0


async def test_nothing_is_received_any_more_after_a_stop() -> None:
    bench = Bench()
    async with bench.running() as run:
        bench.service.stop()
        await run
        bench.sources[0].gives(["a"])
        await turns()
        assert bench.pipeline.taken.empty()


async def test_what_is_given_up_at_the_end_is_logged() -> None:
    bench = Bench()
    bench.sources[0].gives(["a"])
    with structlog.testing.capture_logs() as lines:
        async with bench.running():
            await bench.pipeline.taken.get()
    (line,) = (line for line in lines if line["event"] == "given up, to be delivered again")
    assert line["granules"] == ["a"]


async def test_a_defect_in_a_loop_ends_the_service_in_order_and_is_raised() -> None:
    bench = Bench(sources=2)
    bench.pipeline.defect = ZeroDivisionError("a defect")
    bench.sources[0].gives(["a"])
    async with bench.running() as run:
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await run
    assert bench.calls == ["READY", "STOPPING", "drain", "publish arrays"]
    assert bench.service.ready() == "draining"


async def test_a_cancelled_run_winds_up_too() -> None:
    bench = Bench()
    async with bench.running() as run:
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert bench.calls == ["READY", "STOPPING", "drain", "publish arrays"]


async def test_documents_of_arrays_that_cannot_be_published_are_tried_again() -> None:
    bench = Bench()
    bench.target.settings.array_metadata_lag_seconds = 0.0
    bench.target.failure = StorageError("the network is down")
    with structlog.testing.capture_logs() as lines:
        async with bench.running() as run:
            for _ in range(2):
                await bench.target.published.wait()
                bench.target.published.clear()
            assert not run.done()
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert {line["reason"] for line in warnings} == {"the network is down"}


async def test_the_watchdog_hears_of_the_loop_again_and_again() -> None:
    bench = Bench(watchdog_seconds=0.001)
    async with bench.running():
        for _ in range(3):
            await asyncio.wait_for(bench.notifier.watched.wait(), 10)
            bench.notifier.watched.clear()
