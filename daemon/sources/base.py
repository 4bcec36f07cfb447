"""The contract of a source: it delivers references to objects, each until it is acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One version of one object, as far as an event or a listing tells.

    The identity of a granule is (bucket, key, etag, size). It is the same whether an object on S3 was found
    by an event or by a listing.

    Attributes
    ----------
    url
        What the engine fetches; nothing in the key is escaped ("s3://bucket/key with spaces").
    bucket
        Name of the S3 bucket; empty for local files; "scheme://host" for any other store.
    key
        The decoded key in the bucket; the absolute path without its leading slash for local files.
    etag
        Opaque version of the content, without quotes; None when it was not told.
    size
        Bytes; None when it was not told.
    modified
        Time of the last write by the store's clock, in UTC; only listings tell it.
    event_time
        When the store says that the object landed, in UTC; the start of its latency.
    """

    url: str
    bucket: str
    key: str
    etag: str | None = None
    size: int | None = None
    modified: datetime | None = None
    event_time: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """An object handed out by a source, to be acknowledged or released exactly once.

    Attributes
    ----------
    ref
        The object.
    source
        Name of the source that delivered it.
    attempts
        How often it was delivered, this time included. A hint: queues count approximately.
    event
        What announced it, JSON values: kept with the granule if it is quarantined.
    receipt
        The source's own handle; opaque to all others.
    """

    ref: ObjectRef
    source: str
    attempts: int = 1
    event: Mapping[str, Any] = field(default_factory=dict)
    receipt: object = None


class Source(Protocol):
    """Delivers objects at least once. Entered before use; leaving it gives back what is not acknowledged.

    `receive` has one caller at a time; the other methods may be called from any task of the same event loop.
    """

    @property
    def name(self) -> str:
        """What logs and metrics call it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    async def receive(self, limit: int) -> list[Delivery]:
        """Return at most ``limit`` (>= 1) deliveries; none when nothing came within its own poll time.

        What is handed out is not handed out again before it was released, except where the service behind the
        source repeats itself. May be cancelled at any time; nothing is lost by it.

        Raises
        ------
        SourceUnavailableError
            Nothing can be received at the moment. Nothing has changed: call again later.
        """

    async def acknowledge(self, delivery: Delivery) -> None:
        """The granule is settled durably: it is in, skipped or quarantined. May be repeated after a failure.

        Raises
        ------
        SourceUnavailableError
            The source could not be told, so the object may be delivered once more.
        """

    async def release(self, delivery: Delivery) -> None:
        """Give the object back at once, to be delivered again, here or elsewhere. Never fails."""

    async def drained(self) -> bool:
        """Whether nothing is left that this source could deliver, and nothing of it is unacknowledged.

        Raises
        ------
        SourceUnavailableError
            It cannot be known at the moment.
        """


class Clock(Protocol):
    """Time as the sources see it, so that tests can turn it by hand."""

    def monotonic(self) -> float:
        """Seconds since some instant; never goes back."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Return True when ``event`` is set, False after ``seconds``."""


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await event.wait()
        except TimeoutError:
            return False
        return True
