"""What every source promises, whatever it listens to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote_plus

import pytest
from botocore.exceptions import EndpointConnectionError

from daemon.errors import SourceUnavailableError
from daemon.sources.base import Delivery, ObjectRef, Source
from daemon.sources.sqs import SqsSource
from daemon.sources.sqs_queue import QueueSettings, SqsQueue
from daemon.sources.watch import WatchSource
from zcollection_engine.errors import StorageError
from zcollection_engine.stores.base import ObjectInfo


class Bench(Protocol):
    """A world with one source in it."""

    broken: bool

    def source(self) -> Source: ...

    def announce(self, *keys: str) -> None: ...

    def note_in_ledger(self, ref: ObjectRef) -> None: ...


class InMemorySqs:
    """The requests of an SQS client, answered from memory; nothing becomes visible by time alone."""

    def __init__(self) -> None:
        self.broken = False
        self.visible: list[str] = []
        self.taken: dict[str, str] = {}
        self._receipts = 0

    async def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        self._fail_if_broken()
        await asyncio.sleep(0)
        messages = []
        while self.visible and len(messages) < MaxNumberOfMessages:
            self._receipts += 1
            receipt = f"receipt-{self._receipts}"
            self.taken[receipt] = self.visible.pop(0)
            messages.append({"MessageId": receipt, "ReceiptHandle": receipt, "Body": self.taken[receipt]})
        return {"Messages": messages} if messages else {}

    async def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        self._fail_if_broken()
        for entry in Entries:
            self.taken.pop(entry["ReceiptHandle"])
        return {}

    async def change_message_visibility_batch(
        self,
        *,
        Entries: list[dict[str, Any]],  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        self._fail_if_broken()
        self.visible += [self.taken.pop(e["ReceiptHandle"]) for e in Entries if not e["VisibilityTimeout"]]
        return {}

    async def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        self._fail_if_broken()
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(len(self.visible)),
                "ApproximateNumberOfMessagesNotVisible": str(len(self.taken)),
            }
        }

    def _fail_if_broken(self) -> None:
        if self.broken:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


class SqsBench:
    def __init__(self) -> None:
        self._sqs = InMemorySqs()

    @property
    def broken(self) -> bool:
        return self._sqs.broken

    @broken.setter
    def broken(self, broken: bool) -> None:
        self._sqs.broken = broken

    def source(self) -> Source:
        @asynccontextmanager
        async def connect(settings: QueueSettings) -> AsyncIterator[SqsQueue]:
            yield SqsQueue(self._sqs, settings)

        async def refuse(body: str, reason: str) -> None:
            raise AssertionError(f"not understood: {body}: {reason}")

        return SqsSource("queue", QueueSettings("http://127.0.0.1/1/q"), on_unknown=refuse, connect=connect)

    def announce(self, *keys: str) -> None:
        for key in keys:
            record = {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "eventName": "ObjectCreated:Put",
                "s3": {
                    "bucket": {"name": "landing"},
                    "object": {"key": quote_plus(key), "size": 3, "eTag": "e"},
                },
            }
            self._sqs.visible.append(json.dumps({"Records": [record]}))

    def note_in_ledger(self, ref: ObjectRef) -> None:
        """A queue knows nothing of the ledger."""


class InMemoryFolder:
    """The part of an object store that watching needs."""

    url = "s3://landing"

    def __init__(self) -> None:
        self.broken = False
        self.keys: set[str] = set()

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.keys):
            if self.broken:
                raise StorageError("the network is down")
            yield ObjectInfo(key=key, size=3, etag="e", modified=datetime(2024, 1, 1, tzinfo=UTC))
        if self.broken:
            raise StorageError("the network is down")


class WatchBench:
    def __init__(self) -> None:
        self._folder = InMemoryFolder()
        self._ledger: set[ObjectRef] = set()

    @property
    def broken(self) -> bool:
        return self._folder.broken

    @broken.setter
    def broken(self, broken: bool) -> None:
        self._folder.broken = broken

    def source(self) -> Source:
        return WatchSource(
            "folder", self._folder, interval_seconds=0, settle_seconds=0, known=self._ledger.__contains__
        )

    def announce(self, *keys: str) -> None:
        self._folder.keys.update(keys)

    def note_in_ledger(self, ref: ObjectRef) -> None:
        self._ledger.add(ref)


@pytest.fixture(params=[SqsBench, WatchBench], ids=["sqs", "watch"])
def bench(request: pytest.FixtureRequest) -> Bench:
    made: Bench = request.param()
    return made


async def receive_all(source: Source, limit: int = 10) -> list[Delivery]:
    found: list[Delivery] = []
    while deliveries := await source.receive(limit):
        found += deliveries
    return found


async def receive_until_failure(source: Source) -> list[Delivery]:
    found: list[Delivery] = []
    try:
        for _ in range(10):
            found += await source.receive(1)
    except SourceUnavailableError:
        return found
    pytest.fail("the source did not tell that its service is down")


def keys(deliveries: list[Delivery]) -> list[str]:
    return [delivery.ref.key for delivery in deliveries]


async def test_every_object_is_delivered_once_and_not_again_while_in_flight(bench: Bench) -> None:
    names = [f"{number:02}.nc" for number in range(25)]
    async with bench.source() as source:
        bench.announce(*names)
        assert keys(await receive_all(source)) == names
        bench.announce("late.nc")
        assert keys(await receive_all(source)) == ["late.nc"]


async def test_a_delivery_tells_identity_url_and_source(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("in/with space+é#?.nc")
        (delivery,) = await source.receive(1)
        assert delivery.ref.url == "s3://landing/in/with space+é#?.nc"
        assert (delivery.ref.bucket, delivery.ref.key) == ("landing", "in/with space+é#?.nc")
        assert (delivery.ref.etag, delivery.ref.size) == ("e", 3)
        assert delivery.source == source.name
        assert delivery.attempts == 1
        assert json.dumps(delivery.event)


@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_the_limit_is_respected_and_the_rest_follows(bench: Bench, limit: int) -> None:
    async with bench.source() as source:
        bench.announce(*"abcdefg")
        batches = [await source.receive(limit)]
        while batches[-1]:
            assert len(batches[-1]) <= limit
            batches.append(await source.receive(limit))
        assert keys([delivery for batch in batches for delivery in batch]) == list("abcdefg")


async def test_it_is_drained_when_all_is_acknowledged_and_not_before(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc", "b.nc")
        assert not await source.drained()
        first, second = await receive_all(source)
        assert not await source.drained()
        for delivery in (first, second):
            assert not await source.drained()
            bench.note_in_ledger(delivery.ref)
            await source.acknowledge(delivery)
        assert await receive_all(source) == []
        assert await source.drained()
        bench.announce("c.nc")
        assert len(await source.receive(1)) == 1
        assert not await source.drained()


async def test_a_source_with_nothing_in_it_is_drained_once_it_was_asked(bench: Bench) -> None:
    async with bench.source() as source:
        assert not await source.drained()
        assert await source.receive(10) == []
        assert await source.drained()


async def test_what_is_released_comes_back_at_once(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc", "b.nc")
        first, second = await receive_all(source)
        await source.release(first)
        assert not await source.drained()
        (again,) = await receive_all(source)
        assert again.ref == first.ref
        bench.note_in_ledger(again.ref)
        await source.acknowledge(again)
        bench.note_in_ledger(second.ref)
        await source.acknowledge(second)
        assert await receive_all(source) == []
        assert await source.drained()


async def test_what_is_acknowledged_never_comes_back(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc")
        (delivery,) = await receive_all(source)
        await source.acknowledge(delivery)
        for _ in range(3):
            assert await source.receive(10) == []


async def test_acknowledging_or_releasing_again_changes_nothing(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc")
        (delivery,) = await receive_all(source)
        for _ in range(2):
            await source.acknowledge(delivery)
        await source.release(delivery)
        assert await receive_all(source) == []
        assert await source.drained()


async def test_a_failure_says_so_and_changes_nothing(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc", "b.nc")
        (first,) = await source.receive(1)
        bench.broken = True
        seen = [first, *await receive_until_failure(source), *await receive_until_failure(source)]
        bench.broken = False
        seen += await receive_all(source)
        assert keys(seen) == ["a.nc", "b.nc"]
        assert not await source.drained()


async def test_leaving_gives_back_what_is_not_acknowledged(bench: Bench) -> None:
    bench.announce("a.nc", "b.nc", "c.nc", "d.nc")
    async with bench.source() as source:
        deliveries = await source.receive(3)
        bench.note_in_ledger(deliveries[0].ref)
        await source.acknowledge(deliveries[0])
    async with bench.source() as successor:
        assert sorted(keys(await receive_all(successor))) == ["b.nc", "c.nc", "d.nc"]


async def test_leaving_works_while_the_service_is_down(bench: Bench) -> None:
    bench.announce("a.nc")
    async with bench.source() as source:
        (delivery,) = await source.receive(1)
        bench.broken = True
        await source.release(delivery)


async def test_a_receive_that_is_cancelled_loses_nothing(bench: Bench) -> None:
    async with bench.source() as source:
        bench.announce("a.nc")
        receiving = asyncio.create_task(source.receive(1))
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert keys(await receive_all(source)) == ["a.nc"]


async def test_a_delivery_of_another_source_is_refused(bench: Bench) -> None:
    foreign = Delivery(ref=ObjectRef("s3://b/k", "b", "k"), source="elsewhere", receipt=object())
    async with bench.source() as source:
        with pytest.raises(TypeError, match="elsewhere"):
            await source.acknowledge(foreign)
        with pytest.raises(TypeError, match="elsewhere"):
            await source.release(foreign)
