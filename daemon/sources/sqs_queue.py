"""One SQS queue, spoken to with aiobotocore: five requests, and errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from daemon.errors import SourceUnavailableError

#: Entries that SQS takes in one batch request, and messages that it returns for one receive.
BATCH = 10

_AWS_HOST = re.compile(r"(?:^|\.)sqs[.-]([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com")
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_CREDENTIALS = (
    "AWS credentials are looked up in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), then in "
    " ~/.aws/credentials and ~/.aws/config, then in the role of the container or of the machine"
)
_PERMISSIONS = (
    "the credentials need sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility and "
    "sqs:GetQueueAttributes on this queue"
)
_MISSING = "check queue_url of the source, and region and endpoint_url in [aws]"
_HINTS = {
    "NonExistentQueue": _MISSING,
    "QueueDoesNotExist": _MISSING,
    "InvalidAddress": _MISSING,
    "AccessDenied": _PERMISSIONS,
    "AccessDeniedException": _PERMISSIONS,
    "ExpiredToken": f"renew the credentials; {_CREDENTIALS}",
    "ExpiredTokenException": f"renew the credentials; {_CREDENTIALS}",
    "InvalidClientTokenId": f"the access key is unknown there; {_CREDENTIALS}",
    "UnrecognizedClientException": f"the access key is unknown there; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong, or the machine's clock; {_CREDENTIALS}",
}


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Where a queue is and how it is asked.

    Attributes
    ----------
    queue_url
        As SQS names it.
    endpoint_url
        Where requests go; None: to the host of ``queue_url``.
    region
        None: from the host of ``queue_url``, else from the usual AWS chain.
    wait_seconds
        Longest time that one receive waits for a message, 0 to 20.
    visibility_seconds
        Time after which a message whose receiver died is delivered again; renewed at a third of it.
    """

    queue_url: str
    endpoint_url: str | None = None
    region: str | None = None
    wait_seconds: int = 20
    visibility_seconds: int = 120

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        if self.endpoint_url:
            return self.endpoint_url
        parts = urlsplit(self.queue_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def region_name(self) -> str | None:
        """Region that requests are signed for; None leaves it to the AWS chain."""
        if self.region:
            return self.region
        found = _AWS_HOST.search(urlsplit(self.queue_url).hostname or "")
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message as received; ``attempts`` is SQS's approximate count of its receptions."""

    message_id: str
    receipt: str
    body: str
    attempts: int


class SqsQueue:
    """The requests that a source makes. All of them raise `SourceUnavailableError`.

    Parameters
    ----------
    client
        An open aiobotocore client of SQS.
    settings
        Which queue.
    """

    def __init__(self, client: Any, settings: QueueSettings) -> None:
        self._client = client
        self._settings = settings

    async def receive(self, limit: int) -> list[QueueMessage]:
        """Wait for messages and return at most ``limit`` of them (and at most 10)."""
        with _translated(self._settings):
            answer = await self._client.receive_message(
                QueueUrl=self._settings.queue_url,
                MaxNumberOfMessages=min(limit, BATCH),
                WaitTimeSeconds=self._settings.wait_seconds,
                VisibilityTimeout=self._settings.visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return [_message(found) for found in answer.get("Messages", ())]

    async def delete(self, receipts: Sequence[str]) -> dict[str, str]:
        """Delete messages; return the error code of each one that was refused, by receipt."""
        return await self._batch("delete_message_batch", [{"ReceiptHandle": receipt} for receipt in receipts])

    async def set_visibility(self, seconds: Mapping[str, int]) -> dict[str, str]:
        """Hide messages for so many seconds from now, by receipt; return the error codes of those refused."""
        return await self._batch(
            "change_message_visibility_batch",
            [{"ReceiptHandle": receipt, "VisibilityTimeout": time} for receipt, time in seconds.items()],
        )

    async def count(self) -> int:
        """Return how many messages there are: waiting, delayed, and in someone's hands (approximately)."""
        with _translated(self._settings):
            answer = await self._client.get_queue_attributes(
                QueueUrl=self._settings.queue_url, AttributeNames=list(_COUNTS)
            )
        return sum(int(answer.get("Attributes", {}).get(name, 0)) for name in _COUNTS)

    async def _batch(self, operation: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        failed: dict[str, str] = {}
        for start in range(0, len(entries), BATCH):
            part = entries[start : start + BATCH]
            with _translated(self._settings):
                answer = await getattr(self._client, operation)(
                    QueueUrl=self._settings.queue_url,
                    Entries=[{"Id": str(number), **entry} for number, entry in enumerate(part)],
                )
            for failure in answer.get("Failed", ()):
                failed[part[int(failure["Id"])]["ReceiptHandle"]] = _short(failure.get("Code", "unknown"))
        return failed


@asynccontextmanager
async def open_queue(settings: QueueSettings) -> AsyncIterator[SqsQueue]:
    """Connect to a queue. No request is made yet, but credentials and region are looked up."""
    config = AioConfig(
        connect_timeout=10,
        read_timeout=settings.wait_seconds + 20,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    connecting = get_session().create_client(
        "sqs", region_name=settings.region_name, endpoint_url=settings.endpoint, config=config
    )
    async with AsyncExitStack() as stack:
        with _translated(settings):
            client = await stack.enter_async_context(connecting)
        yield SqsQueue(client, settings)


def _message(found: Mapping[str, Any]) -> QueueMessage:
    return QueueMessage(
        message_id=found.get("MessageId", ""),
        receipt=found["ReceiptHandle"],
        body=found.get("Body", ""),
        attempts=int(found.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
    )


def _short(code: str) -> str:
    """Drop the prefix "AWS.SimpleQueueService." that the older protocol has."""
    return code.rpartition(".")[2]


@contextmanager
def _translated(settings: QueueSettings) -> Iterator[None]:
    region = settings.region_name or "not set"
    where = f"queue {settings.queue_url} (endpoint {settings.endpoint}, region {region})"
    try:
        yield
    except ClientError as error:
        details = error.response.get("Error", {})
        hint = _HINTS.get(_short(details.get("Code", "")))
        raise SourceUnavailableError("; ".join(filter(None, (f"{where}: {error}", hint)))) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        raise SourceUnavailableError(f"{where}: {error}; {_CREDENTIALS}") from error
    except NoRegionError as error:
        raise SourceUnavailableError(f"{where}: {error}; set region in [aws] or AWS_DEFAULT_REGION") from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise SourceUnavailableError(f"{where}: {error}; is the endpoint reachable from here?") from error
