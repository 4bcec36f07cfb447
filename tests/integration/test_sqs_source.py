"""The SQS source against a server that speaks S3 and SQS, with notifications configured on a bucket for real."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from daemon.errors import SourceUnavailableError
from daemon.sources.base import Delivery
from daemon.sources.sqs import SqsSource
from daemon.sources.sqs_queue import QueueSettings
from daemon.sources.watch import WatchSource
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.resolve import fetch, open_store

pytestmark = pytest.mark.integration

REGION = "us-east-1"


@dataclass
class Landing:
    """A bucket that notifies a queue, and what was not understood by the source."""

    endpoint_url: str
    queue_url: str
    s3: Any
    sqs: Any
    unknown: list[str]

    def put(self, key: str, data: bytes = b"granule") -> str:
        answer = self.s3.put_object(Bucket="landing", Key=key, Body=data)
        return str(answer["ETag"]).strip('"')

    def source(self, **changes: Any) -> SqsSource:
        async def keep(body: str, reason: str) -> None:
            self.unknown.append(body)

        settings = {"queue_url": self.queue_url, "region": REGION, "wait_seconds": 1, "visibility_seconds": 60}
        return SqsSource("granules", QueueSettings(**{**settings, **changes}), on_unknown=keep)

    def count(self, *, in_flight: bool) -> int:
        name = "ApproximateNumberOfMessages" + ("NotVisible" if in_flight else "")
        answer = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=[name])
        return int(answer["Attributes"][name])


@pytest.fixture(scope="module")
def aws_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def landing(aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Landing]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3, sqs = (boto3.client(name, endpoint_url=aws_endpoint, region_name=REGION) for name in ("s3", "sqs"))
    s3.create_bucket(Bucket="landing")
    queue_url = sqs.create_queue(QueueName="granules")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
    configuration = {"QueueArn": attributes["QueueArn"], "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="landing", NotificationConfiguration={"QueueConfigurations": [configuration]}
    )
    yield Landing(endpoint_url=aws_endpoint, queue_url=queue_url, s3=s3, sqs=sqs, unknown=[])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="landing"):
        for found in page.get("Contents", ()):
            s3.delete_object(Bucket="landing", Key=found["Key"])
    s3.delete_bucket(Bucket="landing")
    sqs.delete_queue(QueueUrl=queue_url)
    s3.close()
    sqs.close()


async def receive(source: SqsSource, expected: int) -> list[Delivery]:
    found: list[Delivery] = []
    for _ in range(20):
        found += await source.receive(10)
        if len(found) >= expected:
            return found
    pytest.fail(f"{len(found)} deliveries came, {expected} were expected")


async def is_drained(source: SqsSource) -> bool:
    """Receive what still comes, control messages only, and ask."""
    for _ in range(5):
        assert await source.receive(10) == []
        if await source.drained():
            return True
    return False


async def test_objects_put_into_the_bucket_are_delivered_with_their_identity(landing: Landing) -> None:
    key = "granules/S6A P4+x=1 é#?.nc"
    etag = landing.put(key, b"12345")
    async with landing.source() as source:
        (delivery,) = await receive(source, 1)
        assert delivery.ref.url == f"s3://landing/{key}"
        assert (delivery.ref.bucket, delivery.ref.key) == ("landing", key)
        assert (delivery.ref.etag, delivery.ref.size) == (etag, 5)
        assert delivery.ref.event_time is not None
        assert delivery.attempts == 1
        assert source.quiet["test event"] == 1
        await source.acknowledge(delivery)
        assert await is_drained(source)
    assert landing.unknown == []


@pytest.mark.parametrize("prefix", ["", "/granules", "/granules/"])
async def test_an_event_and_a_listing_tell_the_same_identity(landing: Landing, prefix: str) -> None:
    landing.put("granules/a b+é.nc", b"12345")
    options = StorageOptions(endpoint_url=landing.endpoint_url, region=REGION)
    store = open_store(f"s3://landing{prefix}", options)
    watch = WatchSource("folder", store, interval_seconds=1, settle_seconds=0, known=lambda _: False)
    async with landing.source() as queue, watch:
        (event,) = await receive(queue, 1)
        (listed,) = await watch.receive(10)
        assert identity(event) == identity(listed)
        assert event.ref.url == listed.ref.url
        assert fetch(listed.ref.url, options).data == b"12345"
        await queue.acknowledge(event)


def identity(delivery: Delivery) -> tuple[object, ...]:
    ref = delivery.ref
    return ref.bucket, ref.key, ref.etag, ref.size


async def test_a_queue_is_drained_when_more_than_one_receive_of_objects_is_acknowledged(landing: Landing) -> None:
    names = {f"{number}.nc" for number in range(12)}
    for name in names:
        landing.put(name)
    async with landing.source() as source:
        deliveries = await receive(source, 12)
        assert {delivery.ref.key for delivery in deliveries} == names
        assert not await source.drained()
        for delivery in deliveries:
            await source.acknowledge(delivery)
        assert await is_drained(source)


async def test_removals_and_folder_markers_are_quiet(landing: Landing) -> None:
    landing.put("folder/", b"")
    landing.s3.delete_object(Bucket="landing", Key="folder/")
    async with landing.source() as source:
        assert await is_drained(source)
        assert source.quiet == {"test event": 1, "directory marker": 1, "ObjectRemoved": 1}


async def test_a_message_of_several_records_stays_until_all_are_acknowledged(landing: Landing) -> None:
    head = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}
    records = [{**head, "s3": {"bucket": {"name": "landing"}, "object": {"key": key}}} for key in "abc"]
    landing.sqs.send_message(QueueUrl=landing.queue_url, MessageBody=json.dumps({"Records": records}))
    async with landing.source() as source:
        deliveries = await receive(source, 3)
        assert [delivery.ref.key for delivery in deliveries] == ["a", "b", "c"]
        for delivery in deliveries[:2]:
            await source.acknowledge(delivery)
        assert landing.count(in_flight=True) == 1
        await source.acknowledge(deliveries[2])
        assert landing.count(in_flight=True) == landing.count(in_flight=False) == 0


async def test_what_is_released_is_visible_at_once_and_counted_as_tried(landing: Landing) -> None:
    landing.put("a.nc")
    async with landing.source() as source:
        (first,) = await receive(source, 1)
        await source.release(first)
        (again,) = await receive(source, 1)
        assert again.ref == first.ref
        assert again.attempts == 2


async def test_leaving_makes_unacknowledged_messages_visible_at_once(landing: Landing) -> None:
    landing.put("a.nc")
    async with landing.source() as source:
        await receive(source, 1)
        assert landing.count(in_flight=True) == 1
    assert landing.count(in_flight=True) == 0
    assert landing.count(in_flight=False) == 1


async def test_what_is_not_understood_is_handed_over_and_deleted(landing: Landing) -> None:
    landing.sqs.send_message(QueueUrl=landing.queue_url, MessageBody='{"weather": "fine"}')
    async with landing.source() as source:
        assert await is_drained(source)
    assert landing.unknown == ['{"weather": "fine"}']


async def test_a_renewed_message_is_not_delivered_to_another_receiver(landing: Landing) -> None:
    landing.put("a.nc")
    async with landing.source(visibility_seconds=2) as holder, landing.source(wait_seconds=4) as other:
        await receive(holder, 1)
        # The other one waits for twice the time that the message would stay hidden without renewal.
        assert await other.receive(10) == []


async def test_a_queue_that_does_not_exist_is_named_with_its_region(landing: Landing) -> None:
    missing = landing.queue_url.replace("granules", "granulse")
    async with landing.source(queue_url=missing) as source:
        with pytest.raises(SourceUnavailableError) as caught:
            await source.receive(1)
    for part in (missing, REGION, "check queue_url"):
        assert part in str(caught.value)


async def test_a_server_that_does_not_listen_is_named(landing: Landing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with landing.source(endpoint_url=f"http://127.0.0.1:{port}") as source:
        with pytest.raises(SourceUnavailableError, match="is the endpoint reachable"):
            await source.receive(1)


async def test_missing_credentials_say_where_they_are_looked_up(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    async with landing.source() as source:
        with pytest.raises(SourceUnavailableError, match=r"AWS_ACCESS_KEY_ID.*~/\.aws/credentials"):
            await source.receive(1)
