"""Which granules share a transaction, and when it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import structlog

from daemon.logs import context
from daemon.scheduler import Limits, PartitionScheduler
from tests.engine_support import DAY_16, DAY_17
from zcollection_engine.errors import BusyError, InvalidGranuleError, SchemaChangedError, StorageError
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share
from zcollection_engine.planning import Verdict
from zcollection_engine.transaction import Offer, Outcome

DAY_18 = "year=2023/month=12/day=18"

Merging = asyncio.Task[tuple[Verdict, int | None]]


class Transaction:
    """A transaction that ends when a test says so."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.offers = offers
        self.end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.started = asyncio.get_running_loop().time()

    @property
    def keys(self) -> str:
        return " ".join(offer.entry.identity.key for offer in self.offers)

    def succeed(self, commit: int = 1) -> None:
        self.end.set_result(Outcome(commit, {offer.entry.id: Verdict.COMMITTED for offer in self.offers}))

    def fail(self, error: Exception) -> None:
        self.end.set_exception(error)


class Desk:
    """A scheduler whose transactions are in the hands of a test."""

    def __init__(self, limits: Limits) -> None:
        self.scheduler = PartitionScheduler("s6a", self._commit, limits)
        self._started: asyncio.Queue[Transaction] = asyncio.Queue()

    async def offer(self, key: str, *paths: str, size: int = 1) -> Merging:
        """Merge a granule; returns when the scheduler has it."""
        shares = {path: Share(1, ((0, 1),)) for path in paths}
        entry = GranuleEntry(GranuleIdentity("b", key, "e", size), f"s3://b/{key}", (1,), shares)
        with context(granule=key):
            merging = asyncio.create_task(self.scheduler.merge(Offer(entry, key)))
        await turns()
        return merging

    async def next(self) -> Transaction:
        return await self._started.get()

    async def nothing_starts(self) -> bool:
        await turns()
        return self._started.empty()

    async def _commit(self, offers: Sequence[Offer]) -> Outcome:
        transaction = Transaction(offers)
        self._started.put_nowait(transaction)
        structlog.get_logger("zcollection_engine").info("merging", keys=transaction.keys)
        return await transaction.end


async def turns() -> None:
    """Let every task go on that can; nothing here waits for time."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk(Limits(granules=3, bytes=100))
    yield desk
    await desk.scheduler.close()


async def test_a_lone_granule_on_idle_partitions_starts_at_once(desk: Desk) -> None:
    merging = await desk.offer("a", DAY_16)
    transaction = await desk.next()
    assert transaction.keys == "a"
    assert not merging.done()
    transaction.succeed(7)
    assert await merging == (Verdict.COMMITTED, 7)


async def test_granules_that_come_while_their_partition_is_busy_share_the_next_transaction(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    first = await desk.next()
    later = [await desk.offer(key, DAY_16) for key in "bc"]
    assert await desk.nothing_starts()
    first.succeed(1)
    second = await desk.next()
    assert second.keys == "b c"
    second.succeed(2)
    assert await asyncio.gather(*later) == [(Verdict.COMMITTED, 2)] * 2


async def test_different_partitions_go_side_by_side(desk: Desk) -> None:
    for key, path in [("a", DAY_16), ("b", DAY_17)]:
        await desk.offer(key, path)
    assert [(await desk.next()).keys, (await desk.next()).keys] == ["a", "b"]


async def test_a_granule_over_midnight_waits_for_both_days_and_links_them(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    await desk.offer("b", DAY_17)
    on_16, on_17 = await desk.next(), await desk.next()
    await desk.offer("straddler", DAY_16, DAY_17)
    await desk.offer("c", DAY_17)
    on_16.succeed()
    assert await desk.nothing_starts()
    on_17.succeed()
    assert (await desk.next()).keys == "straddler c"


async def test_a_newer_granule_does_not_overtake_a_blocked_one_of_its_partition(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    await desk.offer("straddler", DAY_16, DAY_17)
    await desk.offer("late", DAY_17)
    await desk.offer("elsewhere", DAY_18)
    assert (await desk.next()).keys == "elsewhere"
    assert await desk.nothing_starts()
    running.succeed()
    assert (await desk.next()).keys == "straddler late"


async def test_idle_partitions_do_not_wait_for_a_newer_granule_that_would_link_them(desk: Desk) -> None:
    await desk.offer("first", DAY_16, DAY_17)
    running = await desk.next()
    for key, paths in [("a", [DAY_16]), ("b", [DAY_17]), ("straddler", [DAY_16, DAY_17])]:
        await desk.offer(key, *paths)
    running.succeed()
    assert [(await desk.next()).keys, (await desk.next()).keys] == ["a", "b"]


async def test_a_transaction_takes_no_more_granules_than_its_limit(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    for key in "bcdef":
        await desk.offer(key, DAY_16)
    for expected in ["b c d", "e f"]:
        running.succeed()
        running = await desk.next()
        assert running.keys == expected


async def test_a_transaction_takes_no_more_bytes_than_its_limit_and_a_larger_granule_goes_alone(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    for key, size in [("b", 60), ("c", 40), ("d", 1), ("large", 500), ("e", 100)]:
        await desk.offer(key, DAY_16, size=size)
    for expected in ["b c", "d", "large", "e"]:
        running.succeed()
        running = await desk.next()
        assert running.keys == expected


async def test_a_batch_whose_partition_is_held_elsewhere_waits_as_long_as_told_while_others_go_on(desk: Desk) -> None:
    held = await desk.offer("a", DAY_16)
    first = await desk.next()
    first.fail(BusyError("held by another writer", retry_after=0.05))
    await turns()
    await desk.offer("b", DAY_17)
    assert (await desk.next()).keys == "b"
    again = await desk.next()
    assert again.keys == "a"
    # The loop's timers may be early by its clock's resolution, far less than a millisecond.
    assert again.started - first.started >= 0.049
    again.succeed(3)
    assert await held == (Verdict.COMMITTED, 3)


async def test_what_comes_while_a_batch_waits_joins_its_next_try(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    (await desk.next()).fail(BusyError("held", retry_after=0.01))
    await turns()
    await desk.offer("b", DAY_16)
    assert (await desk.next()).keys == "a b"


async def test_a_wait_for_a_held_partition_is_logged_once(desk: Desk) -> None:
    with structlog.testing.capture_logs() as lines:
        await desk.offer("a", DAY_16)
        for _ in range(3):
            (await desk.next()).fail(BusyError("held by 'other'", retry_after=0))
        (await desk.next()).succeed()
        await turns()
    busy = [line for line in lines if line["event"] == "partition is busy"]
    assert [(line["partitions"], line["reason"]) for line in busy] == [([DAY_16], "held by 'other'")]


async def test_only_the_guilty_granule_of_a_batch_fails(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    merging = {key: await desk.offer(key, DAY_16) for key in ("good", "bad", "better")}
    late = await desk.offer("late", DAY_16)
    running.succeed()
    (await desk.next()).fail(InvalidGranuleError("one of them is bad"))
    guilt = InvalidGranuleError("bad: collides")
    for expected in merging:
        transaction = await desk.next()
        assert transaction.keys == expected
        transaction.fail(guilt) if expected == "bad" else transaction.succeed()
    (await desk.next()).succeed(9)
    assert await late == (Verdict.COMMITTED, 9)
    outcomes = await asyncio.gather(*merging.values(), return_exceptions=True)
    assert outcomes == [(Verdict.COMMITTED, 1), guilt, (Verdict.COMMITTED, 1)]


async def test_a_lone_granule_s_failure_is_its_own_at_once(desk: Desk) -> None:
    merging = await desk.offer("a", DAY_16)
    (await desk.next()).fail(StorageError("the network is down"))
    with pytest.raises(StorageError, match="the network is down"):
        await merging
    assert await desk.nothing_starts()


async def test_a_schema_that_changed_is_told_to_all_of_a_batch_at_once(desk: Desk) -> None:
    first = await desk.offer("a", DAY_16)
    running = await desk.next()
    mergings = [await desk.offer(key, DAY_16) for key in "bc"]
    running.succeed()
    await first
    changed = SchemaChangedError("b was fitted to a schema without 'wave'")
    (await desk.next()).fail(changed)
    for merging in mergings:
        with pytest.raises(SchemaChangedError, match="'wave'"):
            await merging
    assert await desk.nothing_starts()


async def test_a_pause_begins_when_what_runs_has_ended_and_nothing_starts_before_it_is_over(desk: Desk) -> None:
    first = await desk.offer("a", DAY_16)
    running = await desk.next()
    paused, over = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        async with desk.scheduler.paused():
            paused.set()
            await over.wait()

    pausing = asyncio.create_task(pause())
    second = await desk.offer("b", DAY_17)
    assert await desk.nothing_starts()
    assert not paused.is_set()
    running.succeed()
    await first
    await paused.wait()
    assert await desk.nothing_starts()
    over.set()
    await pausing
    (await desk.next()).succeed(2)
    assert await second == (Verdict.COMMITTED, 2)


async def test_a_batch_whose_next_try_is_due_during_a_pause_waits_for_its_end(desk: Desk) -> None:
    merging = await desk.offer("a", DAY_16)
    (await desk.next()).fail(BusyError("no key space is free", retry_after=0.05))
    await turns()
    async with asyncio.timeout(5), desk.scheduler.paused():
        other = await desk.offer("b", DAY_17)
        await asyncio.sleep(0.1)
        assert await desk.nothing_starts()
    transactions = [await desk.next(), await desk.next()]
    assert sorted(transaction.keys for transaction in transactions) == ["a", "b"]
    for transaction in transactions:
        transaction.succeed()
    await merging
    await other


async def test_a_pause_is_not_held_up_by_a_batch_that_waits_long_for_its_next_try(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    (await desk.next()).fail(BusyError("no key space is free", retry_after=600))
    await turns()
    async with asyncio.timeout(5), desk.scheduler.paused():
        assert await desk.nothing_starts()
    second = await desk.offer("b", DAY_17)
    (await desk.next()).succeed()
    await second


async def test_a_granule_cancelled_while_it_waits_is_in_no_transaction(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    cancelled, kept = await desk.offer("b", DAY_16), await desk.offer("c", DAY_16)
    cancelled.cancel()
    await turns()
    running.succeed()
    assert (await desk.next()).keys == "c"
    assert cancelled.cancelled()
    assert not kept.done()


@pytest.mark.parametrize(
    "error", [BusyError("held", retry_after=0), StorageError("down")], ids=["busy", "batch tried one by one"]
)
async def test_a_granule_cancelled_during_its_transaction_is_not_tried_again(desk: Desk, error: Exception) -> None:
    await desk.offer("a", DAY_16)
    running = await desk.next()
    cancelled, _ = await desk.offer("b", DAY_16), await desk.offer("c", DAY_16)
    running.succeed()
    batch = await desk.next()
    cancelled.cancel()
    await turns()
    batch.fail(error)
    assert (await desk.next()).keys == "c"


async def test_closing_cancels_what_runs_and_what_waits_and_starts_nothing(desk: Desk) -> None:
    running, waiting = await desk.offer("a", DAY_16), await desk.offer("b", DAY_16)
    transaction = await desk.next()
    await desk.scheduler.close()
    assert transaction.end.cancelled()
    assert await desk.nothing_starts()
    assert running.cancelled()
    assert waiting.cancelled()


async def test_a_transaction_s_log_lines_belong_to_no_single_granule(desk: Desk) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        await desk.offer("a", DAY_16)
        running = await desk.next()
        await desk.offer("b", DAY_16)
        await desk.offer("c", DAY_16)
        running.succeed()
        (await desk.next()).fail(StorageError("down"))
        (await desk.next()).fail(BusyError("held", retry_after=0))
        (await desk.next()).succeed()
        await turns()
    assert {line["event"] for line in lines} == {
        "merging",
        "committed",
        "partition is busy",
        "batch failed; its granules are tried one by one",
    }
    assert not [line for line in lines if "granule" in line]


async def test_a_granule_waits_for_others_that_are_being_read_and_shares_their_transaction(desk: Desk) -> None:
    with desk.scheduler.reading():
        await desk.offer("a", DAY_16)
        assert await desk.nothing_starts()
        await desk.offer("b", DAY_16)
    assert (await desk.next()).keys == "a b"


async def test_a_read_that_ends_without_a_granule_holds_nobody_up(desk: Desk) -> None:
    await desk.offer("a", DAY_16)
    (await desk.next()).succeed()

    def read() -> None:
        with desk.scheduler.reading():
            raise InvalidGranuleError("bad")

    with pytest.raises(InvalidGranuleError):
        read()
    await desk.offer("b", DAY_16)
    assert (await desk.next()).keys == "b"


async def test_a_full_batch_does_not_wait_for_more(desk: Desk) -> None:
    with desk.scheduler.reading():
        for key in "abc":
            await desk.offer(key, DAY_16)
        assert (await desk.next()).keys == "a b c"


async def test_nobody_waits_longer_than_the_delay() -> None:
    desk = Desk(Limits(granules=3, bytes=100, delay=0.01))
    with desk.scheduler.reading():
        await desk.offer("a", DAY_16)
        assert (await desk.next()).keys == "a"
    await desk.scheduler.close()


async def test_what_another_writer_had_put_in_is_not_logged_as_a_commit(desk: Desk) -> None:
    merging = await desk.offer("a", DAY_16)
    transaction = await desk.next()
    with structlog.testing.capture_logs() as lines:
        transaction.end.set_result(Outcome(None, {o.entry.id: Verdict.KNOWN for o in transaction.offers}))
        assert await merging == (Verdict.KNOWN, None)
    assert [line["event"] for line in lines] == ["already in"]
