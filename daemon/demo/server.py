"""An S3 and an SQS of the demonstration's own, in this process, on a free port of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from daemon.errors import DaemonError

BUCKET = "demo"
QUEUE = "granules"
REGION = "us-east-1"

#: A message in the hands of the deliverer stays invisible for so long, in seconds.
_HELD_SECONDS = 900

# What could lead the clients elsewhere, or to someone's real account.
_HIDDEN = (
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_SQS",
)
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "demo",
    "AWS_SECRET_ACCESS_KEY": "demo-has-no-secrets",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


class DemoUnavailableError(DaemonError):
    """The packages of the demonstration are not installed."""


class EmbeddedAws:
    """The bucket and the queue, as the one who delivers granules sees them. Thread-safe.

    Parameters
    ----------
    endpoint_url
        Of S3 and SQS.
    """

    def __init__(self, endpoint_url: str) -> None:
        import boto3

        self.endpoint_url = endpoint_url
        self._s3: Any = boto3.client("s3", endpoint_url=endpoint_url, region_name=REGION)
        self._sqs: Any = boto3.client("sqs", endpoint_url=endpoint_url, region_name=REGION)
        self.queue_url = ""

    def set_up(self, prefix: str) -> None:
        """Create bucket and queue; objects below ``prefix`` are announced, the daemon's own output is not."""
        self._s3.create_bucket(Bucket=BUCKET)
        self.queue_url = self._sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["QueueArn"])
        rule = {
            "Id": "granules",
            "QueueArn": found["Attributes"]["QueueArn"],
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
        }
        self._s3.put_bucket_notification_configuration(
            Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [rule]}
        )

    def put(self, key: str, data: bytes) -> str:
        """Write an object; returns its ETag, unquoted. The event follows by itself."""
        etag: str = self._s3.put_object(Bucket=BUCKET, Key=key, Body=data)["ETag"]
        return etag.strip('"')

    def hold(self) -> str:
        """Take the message with which S3 tests a new notification into our hands; returns its receipt.

        As long as it is there the queue is not drained, and a daemon that runs until idle waits for more.
        """
        answer = self._sqs.receive_message(QueueUrl=self.queue_url, VisibilityTimeout=_HELD_SECONDS)
        receipt: str = answer["Messages"][0]["ReceiptHandle"]
        return receipt

    def let_go(self, receipt: str) -> None:
        """Delete the message that `hold` took."""
        self._sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=receipt)

    def close(self) -> None:
        """Close all connections."""
        self._s3.close()
        self._sqs.close()


def check_installed() -> None:
    """Raise `DemoUnavailableError` unless the packages of the extra "demo" are there."""
    try:
        import matplotlib as _matplotlib  # noqa: F401 - asked for now, since the plot comes last
        import moto.server as _moto  # noqa: F401
    except ImportError as error:
        raise DemoUnavailableError(
            f'the demonstration needs packages that are not installed ({error}): pip install "zcollectiond[demo]"'
        ) from error


@contextmanager
def embedded_aws(prefix: str) -> Iterator[EmbeddedAws]:
    """Run the server while the context lasts; AWS credentials in the environment are replaced by dummies.

    Parameters
    ----------
    prefix
        Keys that are announced to the queue begin with it.
    """
    from moto.server import ThreadedMotoServer

    with _environment(_ENVIRONMENT, hidden=_HIDDEN):
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            aws = EmbeddedAws(f"http://{host}:{port}")
            try:
                aws.set_up(prefix)
                yield aws
            finally:
                aws.close()
        finally:
            server.stop()


@contextmanager
def _environment(values: Mapping[str, str], *, hidden: tuple[str, ...]) -> Iterator[None]:
    """Set variables, for this process and those it starts, and put back what was there."""
    before = {name: os.environ.get(name) for name in (*values, *hidden)}
    for name in hidden:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
