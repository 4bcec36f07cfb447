"""When an SQS source deletes, renews and gives back its messages, told from the requests that it makes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError

from daemon.errors import SourceUnavailableError
from daemon.sources.base import Delivery
from daemon.sources.sqs import SqsSource
from daemon.sources.sqs_queue import QueueSettings, SqsQueue
from zcollection_engine.errors import StorageError

SETTINGS = QueueSettings("http://127.0.0.1:5000/1/granules", region="eu-west-1", visibility_seconds=30)
TEST_EVENT = {"Service": "Amazon S3", "Event": "s3:TestEvent"}


class HandClock:
    """Time that passes only when a test turns it; `turn` returns when the waiter waits again."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timer: tuple[float, asyncio.Future[None]] | None = None
        self._waited_for = asyncio.Event()

    def monotonic(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer = (self._now + seconds, timer)
        self._waited_for.set()
        await timer
        return event.is_set()

    async def turn(self, seconds: float) -> None:
        await self._waited_for.wait()
        self._now += seconds
        if self._timer is not None and self._timer[0] <= self._now:
            self._waited_for.clear()
            self._timer[1].set_result(None)
            await self._waited_for.wait()

    def jump(self, seconds: float) -> None:
        """Let time pass without waking anyone."""
        self._now += seconds


class RecordingClient:
    """An SQS client that answers what a test has laid down, and remembers what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.deleted: list[str] = []
        self.renewals: list[dict[str, int]] = []
        self.refusals: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}
        self.asked: list[dict[str, Any]] = []
        self._received = 0

    def put(self, *documents: object) -> None:
        self.bodies += [d if isinstance(d, str) else json.dumps(d) for d in documents]

    async def receive_message(self, **question: Any) -> dict[str, Any]:
        self._fail("receive")
        self.asked.append(question)
        messages = []
        while self.bodies and len(messages) < question["MaxNumberOfMessages"]:
            self._received += 1
            handle = f"r{self._received}"
            messages.append(
                {
                    "MessageId": handle,
                    "ReceiptHandle": handle,
                    "Body": self.bodies.pop(0),
                    "Attributes": {"ApproximateReceiveCount": "3"},
                }
            )
        return {"Messages": messages}

    async def delete_message_batch(self, **question: Any) -> dict[str, Any]:
        self._fail("delete")
        handles = [entry["ReceiptHandle"] for entry in question["Entries"]]
        self.deleted += [handle for handle in handles if handle not in self.refusals]
        return self._refused(question["Entries"])

    async def change_message_visibility_batch(self, **question: Any) -> dict[str, Any]:
        self._fail("visibility")
        assert 1 <= len(question["Entries"]) <= 10
        self.renewals.append({entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in question["Entries"]})
        return self._refused(question["Entries"])

    async def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        self._fail("attributes")
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(self.bodies))}}

    def _refused(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "Failed": [
                {"Id": entry["Id"], "Code": self.refusals[entry["ReceiptHandle"]]}
                for entry in entries
                if entry["ReceiptHandle"] in self.refusals
            ]
        }

    def _fail(self, operation: str) -> None:
        if operation in self.errors:
            raise self.errors[operation]


class Bench:
    def __init__(self) -> None:
        self.client = RecordingClient()
        self.clock = HandClock()
        self.unknown: list[tuple[str, str]] = []
        self.unknown_error: Exception | None = None
        self.source = SqsSource("queue", SETTINGS, on_unknown=self._on_unknown, clock=self.clock, connect=self._connect)

    @asynccontextmanager
    async def _connect(self, settings: QueueSettings) -> AsyncIterator[SqsQueue]:
        yield SqsQueue(self.client, settings)

    async def _on_unknown(self, body: str, reason: str) -> None:
        assert not {"r1", "r4"} & set(self.client.deleted)
        if self.unknown_error is not None:
            raise self.unknown_error
        self.unknown.append((body, reason))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with bench.source:
        yield bench
        bench.client.errors.clear()


def created(*keys: str) -> dict[str, Any]:
    return {"Records": [record(key) for key in keys]}


def record(key: str, **changes: Any) -> dict[str, Any]:
    found = {"bucket": {"name": "landing"}, "object": {"key": key, "size": 3, "eTag": "e"}}
    head = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": found}
    return {**head, **changes}


def keys(deliveries: list[Delivery]) -> list[str]:
    return [delivery.ref.key for delivery in deliveries]


def aws_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "ReceiveMessage")


async def test_it_polls_long_and_asks_for_no_more_than_can_be_taken(bench: Bench) -> None:
    await bench.source.receive(3)
    await bench.source.receive(300)
    assert [question["MaxNumberOfMessages"] for question in bench.client.asked] == [3, 10]
    assert {question["WaitTimeSeconds"] for question in bench.client.asked} == {20}
    assert {question["VisibilityTimeout"] for question in bench.client.asked} == {30}


async def test_the_count_of_receptions_and_the_record_are_handed_on(bench: Bench) -> None:
    bench.client.put(created("a.nc"))
    (delivery,) = await bench.source.receive(1)
    assert delivery.attempts == 3
    assert delivery.event == record("a.nc")


async def test_records_beyond_the_limit_wait_for_the_next_receive(bench: Bench) -> None:
    bench.client.put(created("a", "b", "c"))
    assert keys(await bench.source.receive(2)) == ["a", "b"]
    assert keys(await bench.source.receive(2)) == ["c"]
    assert len(bench.client.asked) == 1


async def test_a_message_is_deleted_when_its_last_object_is_acknowledged(bench: Bench) -> None:
    bench.client.put(created("a", "b", "c"))
    deliveries = await bench.source.receive(10)
    for delivery in deliveries[:-1]:
        await bench.source.acknowledge(delivery)
        await bench.source.acknowledge(delivery)
    assert bench.client.deleted == []
    await bench.source.acknowledge(deliveries[-1])
    assert bench.client.deleted == ["r1"]


async def test_a_message_comes_back_when_one_of_its_objects_is_released(bench: Bench) -> None:
    bench.client.put(created("a", "b"))
    first, second = await bench.source.receive(10)
    await bench.source.release(first)
    assert bench.client.renewals == []
    await bench.source.acknowledge(second)
    assert bench.client.renewals == [{"r1": 0}]
    assert bench.client.deleted == []


async def test_acknowledging_fails_when_the_message_is_not_deleted_and_can_be_repeated(bench: Bench) -> None:
    bench.client.put(created("a"))
    (delivery,) = await bench.source.receive(1)
    bench.client.errors["delete"] = EndpointConnectionError(endpoint_url="http://127.0.0.1:5000")
    with pytest.raises(SourceUnavailableError):
        await bench.source.acknowledge(delivery)
    bench.client.errors.clear()
    bench.client.refusals["r1"] = "InternalError"
    with pytest.raises(SourceUnavailableError, match="r1 was not deleted: InternalError"):
        await bench.source.acknowledge(delivery)
    bench.client.refusals.clear()
    await bench.source.acknowledge(delivery)
    assert bench.client.deleted == ["r1"]


async def test_a_receipt_that_is_no_longer_good_is_no_failure_of_the_granule(bench: Bench) -> None:
    bench.client.put(created("a"))
    (delivery,) = await bench.source.receive(1)
    bench.client.refusals["r1"] = "ReceiptHandleIsInvalid"
    await bench.source.acknowledge(delivery)
    await bench.source.receive(1)
    assert await bench.source.drained()


async def test_every_message_is_renewed_at_a_third_of_its_time_until_it_is_deleted(bench: Bench) -> None:
    bench.client.put(*(created(f"{number}") for number in range(10)))
    (first,) = await bench.source.receive(1)
    bench.client.put(created("x", "y"))
    await bench.source.receive(10)
    await bench.clock.turn(9.9)
    assert bench.client.renewals == []
    await bench.clock.turn(0.1)
    renewed: dict[str, int] = {}
    for batch in bench.client.renewals:
        renewed |= batch
    assert renewed == {f"r{number}": 30 for number in range(1, 12)}
    await bench.source.acknowledge(first)
    bench.client.renewals.clear()
    await bench.clock.turn(10)
    assert sorted(handle for batch in bench.client.renewals for handle in batch) == sorted(
        f"r{number}" for number in range(2, 12)
    )


async def test_what_waits_in_the_backlog_is_renewed_too(bench: Bench) -> None:
    bench.client.put(created("a", "b"))
    (first,) = await bench.source.receive(1)
    await bench.source.acknowledge(first)
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r1": 30}]


async def test_nothing_is_renewed_when_nothing_is_held(bench: Bench) -> None:
    for _ in range(3):
        await bench.clock.turn(10)
    assert bench.client.renewals == []


@pytest.mark.parametrize(
    "code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"]
)
async def test_a_receipt_that_sqs_refuses_is_not_renewed_again(bench: Bench, code: str) -> None:
    bench.client.put(created("a"), created("b"))
    first, _ = await bench.source.receive(10)
    bench.client.refusals["r1"] = code
    await bench.clock.turn(10)
    bench.client.renewals.clear()
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r2": 30}]
    bench.client.refusals.clear()
    await bench.source.acknowledge(first)
    assert bench.client.deleted == ["r1"]


async def test_a_renewal_that_fails_is_tried_again_at_the_next_turn(bench: Bench) -> None:
    bench.client.put(created("a"), created("b"))
    await bench.source.receive(10)
    bench.client.errors["visibility"] = EndpointConnectionError(endpoint_url="http://127.0.0.1:5000")
    await bench.clock.turn(10)
    bench.client.errors.clear()
    bench.client.refusals["r1"] = "InternalError"
    await bench.clock.turn(10)
    await bench.clock.turn(10)
    assert [sorted(renewal) for renewal in bench.client.renewals] == [["r1", "r2"]] * 2


async def test_a_renewal_stays_below_the_twelve_hours_that_sqs_grants(bench: Bench) -> None:
    bench.client.put(created("a"))
    (delivery,) = await bench.source.receive(1)
    bench.clock.jump(12 * 3600 - 60 - 10 - 7)
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r1": 7}]
    await bench.clock.turn(10)
    await bench.clock.turn(10)
    assert len(bench.client.renewals) == 1
    await bench.source.acknowledge(delivery)
    assert bench.client.deleted == ["r1"]


async def test_a_defect_in_the_renewal_does_not_stay_hidden() -> None:
    bench = Bench()
    await bench.source.__aenter__()
    bench.client.put(created("a"))
    await bench.source.receive(1)
    bench.client.errors["visibility"] = ZeroDivisionError("a defect")
    turning = asyncio.create_task(bench.clock.turn(10))
    await asyncio.wait([bench.source._heartbeat])
    turning.cancel()
    bench.client.errors.clear()
    with pytest.raises(ZeroDivisionError):
        await bench.source.receive(1)
    with pytest.raises(ZeroDivisionError):
        await bench.source.__aexit__(None, None, None)
    assert bench.client.renewals == [{"r1": 0}]


async def test_control_messages_are_deleted_and_counted(bench: Bench) -> None:
    bench.client.put(TEST_EVENT, created("folder/"), {"Records": [record("a", eventName="ObjectRemoved:Delete")]})
    assert await bench.source.receive(10) == []
    assert bench.client.deleted == ["r1", "r2", "r3"]
    assert bench.source.quiet == {"test event": 1, "directory marker": 1, "ObjectRemoved": 1}
    assert bench.unknown == []


async def test_control_messages_that_cannot_be_deleted_hold_nothing_up(bench: Bench) -> None:
    bench.client.put(TEST_EVENT, created("a"))
    bench.client.errors["delete"] = EndpointConnectionError(endpoint_url="http://127.0.0.1:5000")
    with pytest.raises(SourceUnavailableError):
        await bench.source.receive(10)
    assert keys(await bench.source.receive(10)) == ["a"]
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r2": 30}]


@pytest.mark.parametrize("failing", ["delete", "unknown"])
async def test_only_what_was_delivered_is_renewed_after_a_failure(bench: Bench, failing: str) -> None:
    bench.client.put("hello", created("a"), TEST_EVENT, {"Records": [record("b"), "bad"]})
    if failing == "delete":
        bench.client.errors["delete"] = EndpointConnectionError(endpoint_url="http://127.0.0.1:5000")
    bench.unknown_error = StorageError("the bucket is gone")
    with pytest.raises(SourceUnavailableError):
        await bench.source.receive(10)
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r2": 30}]
    assert bench.unknown == []


async def test_what_is_not_understood_is_deleted_only_after_it_was_kept(bench: Bench) -> None:
    bench.client.put("hello")
    assert await bench.source.receive(10) == []
    ((body, reason),) = bench.unknown
    assert body == "hello"
    assert "not JSON" in reason
    assert bench.client.deleted == ["r1"]


async def test_what_cannot_be_kept_stays_in_the_queue(bench: Bench) -> None:
    bench.client.put("hello", created("a"), "world")
    bench.unknown_error = StorageError("the bucket is gone")
    with pytest.raises(SourceUnavailableError, match="the bucket is gone"):
        await bench.source.receive(10)
    assert keys(await bench.source.receive(10)) == ["a"]
    await bench.clock.turn(10)
    assert bench.client.renewals == [{"r2": 30}]
    assert bench.client.deleted == []


async def test_the_good_records_of_a_message_are_delivered_when_the_bad_one_is_kept(bench: Bench) -> None:
    bench.client.put({"Records": [record("a"), record("b", eventVersion="9.0"), record("c")]})
    deliveries = await bench.source.receive(10)
    assert keys(deliveries) == ["a", "c"]
    assert "9.0" in bench.unknown[0][1]
    await bench.source.acknowledge(deliveries[0])
    assert bench.client.deleted == []
    await bench.source.acknowledge(deliveries[1])
    assert bench.client.deleted == ["r1"]


async def test_a_message_with_a_bad_record_that_was_not_kept_is_never_deleted(bench: Bench) -> None:
    bench.client.put({"Records": [record("a"), "bad"]})
    bench.unknown_error = StorageError("the bucket is gone")
    with pytest.raises(SourceUnavailableError):
        await bench.source.receive(10)
    (delivery,) = await bench.source.receive(10)
    await bench.source.acknowledge(delivery)
    assert bench.client.deleted == []


async def test_leaving_gives_back_what_is_held_at_once() -> None:
    bench = Bench()
    bench.client.put(created("a", "b"), created("c"))
    async with bench.source:
        await bench.source.receive(2)
    assert bench.client.renewals == [{"r1": 0, "r2": 0}]


async def test_a_queue_with_messages_left_is_not_drained(bench: Bench) -> None:
    await bench.source.receive(1)
    assert await bench.source.drained()
    bench.client.put(created("a"))
    assert not await bench.source.drained()
    bench.client.errors["attributes"] = aws_error("AccessDenied")
    with pytest.raises(SourceUnavailableError, match="GetQueueAttributes"):
        await bench.source.drained()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (aws_error("AWS.SimpleQueueService.NonExistentQueue"), "check queue_url"),
        (aws_error("QueueDoesNotExist"), "check queue_url"),
        (aws_error("AccessDenied"), "sqs:ReceiveMessage"),
        (aws_error("ExpiredToken"), "renew the credentials"),
        (aws_error("SomethingElse"), "SomethingElse"),
        (NoCredentialsError(), "AWS_ACCESS_KEY_ID"),
        (NoRegionError(), "set region"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:5000"), "is the endpoint reachable"),
        (ConnectionResetError("reset"), "is the endpoint reachable"),
    ],
)
async def test_an_error_names_queue_and_region_and_says_what_to_do(bench: Bench, error: Exception, advice: str) -> None:
    bench.client.errors["receive"] = error
    with pytest.raises(SourceUnavailableError) as caught:
        await bench.source.receive(1)
    for part in (advice, SETTINGS.queue_url, "eu-west-1"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "endpoint", "region"),
    [
        (QueueSettings("http://127.0.0.1:5000/1/q"), "http://127.0.0.1:5000", None),
        (QueueSettings("http://127.0.0.1:5000/1/q", region="eu-west-1"), "http://127.0.0.1:5000", "eu-west-1"),
        (QueueSettings("http://sqs:9/1/q", endpoint_url="http://127.0.0.1:5000"), "http://127.0.0.1:5000", None),
        (
            QueueSettings("https://sqs.eu-central-1.amazonaws.com/1/q"),
            "https://sqs.eu-central-1.amazonaws.com",
            "eu-central-1",
        ),
        (
            QueueSettings("https://sqs.cn-north-1.amazonaws.com.cn/1/q", region="cn-north-1"),
            "https://sqs.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
    ],
)
def test_endpoint_and_region_come_from_the_queue_url_when_they_are_not_set(
    settings: QueueSettings, endpoint: str, region: str | None
) -> None:
    assert (settings.endpoint, settings.region_name) == (endpoint, region)
