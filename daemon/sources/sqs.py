"""Objects announced through an SQS queue.

A message is deleted when every object in it is settled, and not before. From its receipt until then its
visibility is renewed, so that no one else gets it however long its granules wait for their turn. When this
process dies, the renewal ends and SQS delivers the message again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from daemon.errors import DaemonError, SourceUnavailableError
from daemon.notifications import Notification, parse
from daemon.sources.base import Clock, Delivery, ObjectRef, SystemClock
from daemon.sources.sqs_queue import BATCH, QueueMessage, QueueSettings, SqsQueue, open_queue
from zcollection_engine.errors import EngineError

#: SQS counts 12 h from the receipt and grants no more; a minute is left for requests under way.
LONGEST_HOLD_SECONDS = 12 * 3600 - 60

#: What SQS answers when a receipt is no longer good: the message is gone, or someone else has it by now.
_INVALID = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})

#: Called with a body that was not understood (wholly or in part) and the reason.
OnUnknown = Callable[[str, str], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Held:
    """A message in our hands.

    ``pending`` are its objects that are not settled yet; ``lost`` says that its receipt is no longer good.
    """

    message: QueueMessage
    since: float
    pending: set[Delivery] = field(default_factory=set)
    given_back: bool = False
    lost: bool = False


class SqsSource:
    """Delivers the objects that the messages of a queue announce.

    Parameters
    ----------
    name
        What logs call it.
    settings
        Which queue, and its times.
    on_unknown
        Awaited for each message that was not understood, with its body and the reason; the message is deleted
        only after it returned. An error in it leaves the message in the queue.
    clock
        Measures the time between renewals.
    connect
        Opens the queue.
    """

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        *,
        on_unknown: OnUnknown,
        clock: Clock | None = None,
        connect: Callable[[QueueSettings], AbstractAsyncContextManager[SqsQueue]] = open_queue,
    ) -> None:
        self._name = name
        self._settings = settings
        self._on_unknown = on_unknown
        self._clock = clock or SystemClock()
        self._connect = connect
        self._stack = AsyncExitStack()
        self._held: set[_Held] = set()
        self._backlog: deque[Delivery] = deque()
        self._came_back_empty = False
        self._changing_visibility = asyncio.Lock()
        self._log = structlog.get_logger(__name__).bind(source=name)
        #: Notifications that needed no action, by reason.
        self.quiet: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._queue = await stack.enter_async_context(self._connect(self._settings))
            stack.push_async_callback(self._give_back_all)
            self._heartbeat = asyncio.create_task(self._renew_until_cancelled(), name=f"heartbeat of {self._name}")
            stack.push_async_callback(_cancel, self._heartbeat)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def receive(self, limit: int) -> list[Delivery]:
        if self._heartbeat.done():
            self._heartbeat.result()
        if not self._backlog:
            await self._poll(limit)
        return [self._backlog.popleft() for _ in range(min(limit, len(self._backlog)))]

    async def acknowledge(self, delivery: Delivery) -> None:
        held = _held(delivery)
        held.pending.discard(delivery)
        if not held.pending and held in self._held:
            await self._finish(held)

    async def release(self, delivery: Delivery) -> None:
        held = _held(delivery)
        held.given_back = True
        held.pending.discard(delivery)
        if not held.pending:
            await self._give_back([held])

    async def drained(self) -> bool:
        if self._held or self._backlog or not self._came_back_empty:
            return False
        return await self._queue.count() == 0

    async def _poll(self, limit: int) -> None:
        since = self._clock.monotonic()
        messages = await self._queue.receive(limit)
        self._came_back_empty = not messages
        unknown: deque[tuple[_Held, str]] = deque()
        nothing_to_do: list[_Held] = []
        for message in messages:
            held = _Held(message, since)
            self._held.add(held)
            reasons = self._unpack(held)
            if reasons:
                unknown.append((held, "; ".join(reasons)))
            elif not held.pending:
                nothing_to_do.append(held)
        try:
            await self._delete_quiet(nothing_to_do)
            await self._report(unknown)
        finally:
            # What is neither deleted nor delivered is not renewed either, so that SQS delivers it again.
            self._held.difference_update(nothing_to_do, (held for held, _ in unknown))

    def _unpack(self, held: _Held) -> tuple[str, ...]:
        """Put what a message announces into the backlog; return the reasons for what was not understood."""
        parsed = parse(held.message.body)
        for notification in parsed.created:
            delivery = self._delivery(held, notification)
            held.pending.add(delivery)
            self._backlog.append(delivery)
        if parsed.quiet:
            self.quiet.update(parsed.quiet)
            self._log.debug("nothing to do", message_id=held.message.message_id, reasons=list(parsed.quiet))
        return parsed.unknown

    def _delivery(self, held: _Held, notification: Notification) -> Delivery:
        ref = ObjectRef(
            url=f"s3://{notification.bucket}/{notification.key}",
            bucket=notification.bucket,
            key=notification.key,
            etag=notification.etag,
            size=notification.size,
            event_time=notification.event_time,
        )
        return Delivery(
            ref=ref,
            source=self._name,
            attempts=held.message.attempts,
            event=notification.event,
            receipt=held,
        )

    async def _report(self, unknown: deque[tuple[_Held, str]]) -> None:
        """Hand over what was not understood; what is left in ``unknown`` afterwards was not."""
        while unknown:
            held, reason = unknown[0]
            self._log.warning("message not understood", message_id=held.message.message_id, reason=reason)
            try:
                await self._on_unknown(held.message.body, reason)
            except EngineError as error:
                raise SourceUnavailableError(f"a message not understood could not be kept: {error}") from error
            if not held.pending:
                await self._finish(held)
            unknown.popleft()

    async def _delete_quiet(self, messages: list[_Held]) -> None:
        refused = await self._queue.delete([held.message.receipt for held in messages])
        if refused:
            self._log.info("messages without news were not deleted and will come back", codes=list(refused.values()))

    async def _finish(self, held: _Held) -> None:
        """Delete a message of which all is settled, or give it back when a part of it was given back."""
        if held.given_back:
            await self._give_back([held])
            return
        refused = await self._queue.delete([held.message.receipt])
        code = refused.get(held.message.receipt)
        if code is not None and code not in _INVALID:
            raise SourceUnavailableError(
                f"queue {self._settings.queue_url}: message {held.message.message_id} was not deleted: {code}"
            )
        if code is not None:
            self._log.warning(
                "message could not be deleted, its receipt is no longer good; it will be delivered again",
                message_id=held.message.message_id,
                code=code,
            )
        self._held.discard(held)

    async def _give_back_all(self) -> None:
        self._backlog.clear()
        await self._give_back(list(self._held))

    async def _give_back(self, messages: Iterable[_Held]) -> None:
        """Make messages visible again. Where that fails they become visible when their time is over."""
        ours = [held for held in messages if held in self._held]
        self._held.difference_update(ours)
        async with self._changing_visibility:
            try:
                await self._queue.set_visibility({held.message.receipt: 0 for held in ours if not held.lost})
            except SourceUnavailableError as error:
                self._log.warning("messages return only when their visibility ends", reason=str(error))

    async def _renew_until_cancelled(self) -> None:
        period = self._settings.visibility_seconds / 3
        never = asyncio.Event()
        started = self._clock.monotonic()
        while True:
            await self._clock.wait(never, started + period - self._clock.monotonic())
            started = self._clock.monotonic()
            await self._renew()

    async def _renew(self) -> None:
        held = [message for message in self._held if not message.lost]
        for start in range(0, len(held), BATCH):
            # A renewal in flight must not overtake a release.
            async with self._changing_visibility:
                await self._renew_batch([m for m in held[start : start + BATCH] if m in self._held])

    async def _renew_batch(self, messages: list[_Held]) -> None:
        now = self._clock.monotonic()
        seconds: dict[str, int] = {}
        for held in messages:
            left = int(held.since + LONGEST_HOLD_SECONDS - now)
            if left > 0:
                seconds[held.message.receipt] = min(self._settings.visibility_seconds, left)
            else:
                self._lose(held, "it was held for 12 hours, the longest that SQS grants")
        try:
            refused = await self._queue.set_visibility(seconds)
        except DaemonError as error:
            self._log.warning("visibility was not renewed", messages=len(seconds), reason=str(error))
            return
        for held in messages:
            code = refused.get(held.message.receipt)
            if code is None or held not in self._held:
                continue
            if code in _INVALID:
                self._lose(held, f"SQS refused its receipt: {code}")
            else:
                self._log.warning("visibility was not renewed", message_id=held.message.message_id, reason=code)

    def _lose(self, held: _Held, reason: str) -> None:
        held.lost = True
        self._log.warning(
            "message is no longer ours and will be delivered again",
            message_id=held.message.message_id,
            reason=reason,
        )


def _held(delivery: Delivery) -> _Held:
    if not isinstance(delivery.receipt, _Held):
        raise TypeError(f"{delivery.ref.url} was not delivered by this source but by {delivery.source!r}")
    return delivery.receipt


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
