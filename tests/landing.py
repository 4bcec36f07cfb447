"""Where granules land in tests: a folder, or a bucket whose events go to a queue."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from tests.servers import S3Server


@dataclass(frozen=True)
class Landed:
    """An object as its store has it.

    Attributes
    ----------
    key
        As the ledger spells it.
    modified
        Time of the object in whole microseconds since 1970.
    """

    key: str
    data: bytes
    modified: int

    @property
    def rank(self) -> tuple[int, str]:
        """The greater one wins."""
        return (self.modified, self.key)


@dataclass(frozen=True)
class Folder:
    """A local folder into which files are renamed when they are complete."""

    path: Path

    def put(self, key: str, data: bytes) -> Landed:
        """Write an object, or replace it."""
        target = self.path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.write_bytes(data)
        modified = part.stat().st_mtime_ns // 1000
        part.replace(target)
        return Landed(str(target).lstrip("/"), data, modified)


@dataclass(frozen=True)
class Bucket:
    """A bucket on a test server; its events about keys below ``in/`` go to a queue."""

    name: str
    queue_url: str
    s3: Any
    sqs: Any
    endpoint_url: str

    def put(self, key: str, data: bytes) -> Landed:
        """Write an object below ``in/``, or replace it."""
        path = f"in/{key}"
        self.s3.put_object(Bucket=self.name, Key=path, Body=data)
        modified = self.s3.head_object(Bucket=self.name, Key=path)["LastModified"]
        return Landed(path, data, round(modified.timestamp() * 1_000_000))

    def get(self, key: str) -> bytes:
        """Read an object."""
        data: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def download(self, prefix: str, folder: Path) -> None:
        """Copy all objects below a prefix into a folder."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for found in page.get("Contents", ()):
                target = folder / found["Key"].removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.get(found["Key"]))

    def announce(self, *objects: Landed) -> None:
        """Send one message with an event about each object, as SQS may do again at any time."""
        records = [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "eventName": "ObjectCreated:Put",
                "eventTime": datetime.fromtimestamp(landed.modified / 1e6, UTC).isoformat().replace("+00:00", "Z"),
                "s3": {
                    "bucket": {"name": self.name},
                    "object": {
                        "key": quote_plus(landed.key, safe="/"),
                        "size": len(landed.data),
                        "eTag": hashlib.md5(landed.data, usedforsecurity=False).hexdigest(),
                    },
                },
            }
            for landed in objects
        ]
        self.sqs.send_message(QueueUrl=self.queue_url, MessageBody=json.dumps({"Records": records}))

    def url(self, key: str = "") -> str:
        """URL of a key."""
        return f"s3://{self.name}/{key}"

    def messages(self) -> int:
        """How many messages there are, visible or in someone's hands."""
        wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=wanted)
        return sum(int(answer["Attributes"][name]) for name in wanted)


@contextmanager
def notifying_bucket(server: S3Server) -> Iterator[Bucket]:
    """A fresh bucket and its queue on moto."""
    name = server.new_bucket()
    with server.client("s3") as s3, server.client("sqs") as queues:
        url = queues.create_queue(QueueName=f"queue-{uuid.uuid4().hex[:12]}")["QueueUrl"]
        found = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        rule = {
            "QueueArn": found["Attributes"]["QueueArn"],
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}},
        }
        s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"QueueConfigurations": [rule]})
        yield Bucket(name, url, s3, queues, server.endpoint_url)
        queues.delete_queue(QueueUrl=url)
