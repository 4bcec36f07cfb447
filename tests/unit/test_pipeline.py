"""The way of a granule: what is done, in which order, and what is known afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from daemon import pipeline as module
from daemon.compute import Reading
from daemon.errors import SourceUnavailableError
from daemon.failures import Failure, Kind
from daemon.journal import Entry, Journal, State
from daemon.pipeline import Lane, Pipeline
from daemon.routing import Router, Rule
from daemon.scheduler import Limits, PartitionScheduler
from daemon.settings_sections import RetrySettings
from daemon.settled import SettledDocuments, document_key
from daemon.sources.base import Delivery, ObjectRef
from tests.engine_support import DAY_16
from zcollection_engine.commits.records import Commit
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.errors import (
    BusyError,
    EmptyGranuleError,
    NotFoundError,
    SchemaChangedError,
    SchemaMismatchError,
    StorageError,
)
from zcollection_engine.granules.additions import Addition
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share, TimeSeries
from zcollection_engine.planning import MergeRules, make_plan
from zcollection_engine.schema import Variable
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.transaction import Offer, Outcome

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
RETRY = RetrySettings(max_attempts=3, base_seconds=0.001, max_seconds=0.001)
WAVE = Addition((Variable("wave", "<i2", ("time",), (8,), -1),))
EVENT = {"Records": [{"eventName": "ObjectCreated:Put"}]}


def ref_of(key: str = "a.nc", *, etag: str | None = "1", size: int | None = 10) -> ObjectRef:
    return ObjectRef(f"s3://b/{key}", "b", key, etag, size, event_time=NOON)


def entry_of(ref: ObjectRef, precedence: int = 1, **changes: Any) -> GranuleEntry:
    """What reading an object gives."""
    identity = replace(GranuleIdentity(ref.bucket, ref.key, ref.etag or "1", ref.size or 10), **changes)
    return GranuleEntry(identity, ref.url, (precedence,), {DAY_16: Share(5, ((0, 9),))})


class Compute:
    """Reads what a test put there: outcomes by key, one for each read; the last one stays."""

    def __init__(self, calls: list[str]) -> None:
        self.outcomes: dict[str, deque[GranuleEntry | Addition | Exception]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self._calls = calls

    def gives(self, key: str, *outcomes: GranuleEntry | Addition | Exception) -> None:
        self.outcomes[key] = deque(outcomes)

    async def read(self, ref: ObjectRef, collection: object) -> Reading | Addition:
        self._calls.append(f"read {ref.key}{'' if collection is None else f' for {collection}'}")
        await self.gate.wait()
        outcomes = self.outcomes.get(ref.key) or deque([entry_of(ref)])
        outcome = outcomes.popleft() if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, Addition) else Reading(outcome, None)


class Target:
    """A collection that is a ledger only."""

    name = "s6a"

    def __init__(self, calls: list[str]) -> None:
        self.state = CollectionState()
        self.collection = SimpleNamespace(ref=None, state=self.state)
        self.stored: dict[str, str] = {}
        self.failures: deque[Exception] = deque()
        self.additions: deque[Exception | None] = deque()
        self._calls = calls

    async def require(self, _compute: object, _ref: ObjectRef) -> object:
        return self.collection

    def request(self, ref: ObjectRef) -> ObjectRef:
        return ref

    async def is_current(self, url: str, etag: str) -> bool:
        if url not in self.stored:
            raise NotFoundError(f"there is no object {url}")
        return self.stored[url] == etag

    async def add(self, addition: Addition, ref: ObjectRef) -> None:
        if self.additions and (error := self.additions.popleft()) is not None:
            raise error
        self._calls.append(f"add {', '.join(v.path for v in addition.variables)} of {ref.key}")
        self.collection.ref = "the new schema"

    async def commit(self, offers: Sequence[Offer]) -> Outcome:
        if self.failures:
            self._calls.append(f"fail {', '.join(o.entry.identity.key for o in offers)}")
            self.collection.ref = "the new schema"
            raise self.failures.popleft()
        plan = make_plan(self.state, MergeRules(TimeSeries()), [offer.entry for offer in offers])
        self._calls.extend(f"commit {e.identity.key}" for e in plan.accepted)
        if not plan.accepted:
            return Outcome(None, plan.verdicts)
        self.put(*plan.accepted, removed=plan.replaced)
        return Outcome(self.state.number, plan.verdicts)

    def put(self, *entries: GranuleEntry, removed: tuple[GranuleEntry, ...] = ()) -> None:
        record = Commit(uuid.uuid4().hex, NOON, token=0, partitions={}, granules=entries, removed=removed)
        self.state.apply(self.state.number + 1, record)


class Documents(MemoryStore):
    """A store of documents that can be out of order for a while."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__(f"memory://{uuid.uuid4().hex}")
        self.failures: deque[Exception] = deque()
        self._calls = calls

    def create(self, key: str, data: bytes) -> str:
        if self.failures:
            raise self.failures.popleft()
        self._calls.append(f"document {key.partition('/')[0]}")
        return super().create(key, data)


class Source:
    """Counts what is given back to it."""

    name = "queue"

    def __init__(self, calls: list[str]) -> None:
        self.acknowledged: list[Delivery] = []
        self.released: list[Delivery] = []
        self.failures: deque[Exception] = deque()
        self._calls = calls

    async def acknowledge(self, delivery: Delivery) -> None:
        if self.failures:
            raise self.failures.popleft()
        self._calls.append(f"acknowledge {delivery.ref.key}")
        self.acknowledged.append(delivery)

    async def release(self, delivery: Delivery) -> None:
        self.released.append(delivery)


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, State]] = []

    def settled(self, entry: Entry) -> None:
        self.seen.append((entry.key, entry.state))


class Bench:
    """A pipeline with one collection; everything around it is in a test's hands."""

    def __init__(self, folder: Path, retry: RetrySettings = RETRY) -> None:
        self.calls: list[str] = []
        self.source = Source(self.calls)
        self.compute = Compute(self.calls)
        self.target = Target(self.calls)
        self.store = Documents(self.calls)
        self.documents = SettledDocuments(self.store)
        self.journal = Journal(folder)
        self.observer = Observer()
        self.pipeline = self.restarted(retry)

    def restarted(self, retry: RetrySettings = RETRY) -> Pipeline:
        """A pipeline on what is durable."""
        scheduler = PartitionScheduler("s6a", self.target.commit, Limits(10, 1000))
        self.pipeline = Pipeline(
            Router([Rule("s6a", ("*.nc",))], []),
            {"s6a": Lane(cast("Any", self.target), scheduler)},
            compute=cast("Any", self.compute),
            journal=self.journal,
            documents=self.documents,
            retry=retry,
            observer=self.observer,
        )
        return self.pipeline

    async def take(self, *refs: ObjectRef) -> list[Delivery]:
        deliveries = [Delivery(ref, "queue", event=EVENT) for ref in refs]
        for delivery in deliveries:
            await self.pipeline.take(cast("Any", self.source), delivery)
        return deliveries

    async def settle(self, *refs: ObjectRef) -> list[Delivery]:
        deliveries = await self.take(*refs)
        await self.pipeline.idle()
        return deliveries

    def line(self, key: str = "a.nc") -> Entry:
        (line,) = self.journal.find(key)
        return line

    def document(self, entry: Entry | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.get(document_key(entry or self.line())).data)
        return found


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.pipeline.stop(0)
    bench.journal.close()


async def turns() -> None:
    """Let every task go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_granule_is_acknowledged_after_its_commit(bench: Bench) -> None:
    (delivery,) = await bench.settle(ref_of())
    assert bench.calls == ["read a.nc", "commit a.nc", "acknowledge a.nc"]
    assert bench.source.acknowledged == [delivery]
    assert bench.observer.seen == [("a.nc", State.COMMITTED)]
    line = bench.line()
    assert (line.id, line.state, line.attempts, line.landed) == (str(entry_of(ref_of()).id), State.COMMITTED, 1, NOON)
    assert line.settled is not None


async def test_an_object_that_goes_nowhere_is_acknowledged_without_work(bench: Bench) -> None:
    await bench.settle(ref_of("readme.txt"))
    assert bench.calls == ["acknowledge readme.txt"]
    assert bench.pipeline.left_alone == {"unrouted": 1}
    assert bench.pipeline.knows(ref_of("readme.txt"))


async def test_a_granule_in_the_ledger_is_acknowledged_without_work(bench: Bench) -> None:
    bench.target.put(entry_of(ref_of()))
    await bench.settle(ref_of())
    assert bench.calls == ["acknowledge a.nc"]
    assert bench.pipeline.left_alone == {"committed": 1}


async def test_a_version_that_a_newer_one_replaced_is_acknowledged_without_work(bench: Bench) -> None:
    old = entry_of(ref_of())
    bench.target.put(old)
    bench.target.put(entry_of(ref_of(etag="2"), 2), removed=(old,))
    await bench.settle(ref_of())
    assert bench.calls == ["acknowledge a.nc"]
    assert bench.pipeline.left_alone == {"superseded": 1}


@pytest.mark.parametrize(
    ("error", "state"),
    [(SchemaMismatchError("no ssh"), State.QUARANTINED), (EmptyGranuleError("no rows"), State.SKIPPED)],
    ids=["quarantined", "skipped"],
)
async def test_a_refused_granule_is_acknowledged_without_work_when_it_comes_again(
    bench: Bench, error: Exception, state: State
) -> None:
    bench.compute.gives("a.nc", error)
    await bench.settle(ref_of())
    bench.calls.clear()
    await bench.settle(ref_of())
    assert bench.calls == ["acknowledge a.nc"]
    assert bench.pipeline.left_alone == {state.value: 1}
    assert bench.pipeline.knows(ref_of())
    assert not bench.pipeline.knows(ref_of(etag="2"))


async def test_an_object_of_unknown_version_is_never_taken_for_a_known_one(bench: Bench) -> None:
    bench.target.put(entry_of(ref_of()))
    await bench.settle(ref_of(etag=None))
    assert bench.calls == ["read a.nc", "acknowledge a.nc"]


async def test_two_deliveries_of_one_object_are_one_work_and_both_are_acknowledged(bench: Bench) -> None:
    bench.compute.gate.clear()
    first = await bench.take(ref_of())
    await turns()
    second = await bench.take(ref_of())
    assert bench.pipeline.in_flight == 1
    bench.compute.gate.set()
    await bench.pipeline.idle()
    assert bench.calls == ["read a.nc", "commit a.nc", "acknowledge a.nc", "acknowledge a.nc"]
    assert bench.source.acknowledged == first + second


async def test_deliveries_that_do_not_tell_the_version_are_each_read(bench: Bench) -> None:
    untold, version_2 = ref_of(etag=None, size=None), ref_of(etag="2")
    bench.compute.gives("a.nc", entry_of(untold), entry_of(version_2, 2))
    await bench.settle(untold, untold)
    assert bench.calls.count("read a.nc") == 2
    assert entry_of(version_2).id in bench.target.state.ledger
    assert len(bench.source.acknowledged) == 2


async def test_an_empty_granule_is_skipped_with_a_document_before_it_is_acknowledged(bench: Bench) -> None:
    bench.compute.gives("a.nc", EmptyGranuleError("a.nc: no rows"))
    await bench.settle(ref_of())
    assert bench.calls == ["read a.nc", "document skipped", "acknowledge a.nc"]
    assert (bench.line().state, bench.line().reason) == (State.SKIPPED, "empty")
    assert bench.observer.seen == [("a.nc", State.SKIPPED)]


async def test_a_bad_granule_is_quarantined_with_its_event_before_it_is_acknowledged(bench: Bench) -> None:
    bench.compute.gives("a.nc", SchemaMismatchError("a.nc: no variable 'ssh'"))
    await bench.settle(ref_of())
    assert bench.calls == ["read a.nc", "document quarantine", "acknowledge a.nc"]
    document = bench.document()
    assert document["event"] == EVENT
    assert document["traceback"].endswith("SchemaMismatchError: a.nc: no variable 'ssh'\n")
    expected = {"reason": "schema_mismatch", "attempts": 1, "key": "a.nc", "url": "s3://b/a.nc", "etag": "1"}
    assert document.items() >= expected.items()


async def test_a_document_that_cannot_be_written_is_written_later_and_the_granule_waits(bench: Bench) -> None:
    bench.compute.gives("a.nc", SchemaMismatchError("a.nc: no variable 'ssh'"))
    bench.store.failures += [StorageError("the network is down")] * 5
    await bench.settle(ref_of())
    assert bench.calls == ["read a.nc", "document quarantine", "acknowledge a.nc"]
    assert bench.line().state is State.QUARANTINED


async def test_a_defect_of_the_daemon_gives_the_granule_back_to_its_source(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    bench.compute.gives("a.nc", SchemaMismatchError("a.nc: no variable 'ssh'"))
    monkeypatch.setattr(bench.documents, "write", broken)
    with structlog.testing.capture_logs() as lines:
        deliveries = await bench.settle(ref_of())
    assert bench.source.released == deliveries
    assert bench.source.acknowledged == []
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "a granule's way ended in a defect of the daemon"
    ]


async def test_a_passing_failure_is_outlasted(bench: Bench) -> None:
    bench.compute.gives("a.nc", StorageError("down"), StorageError("down"), entry_of(ref_of()))
    await bench.settle(ref_of())
    assert bench.calls == [*["read a.nc"] * 3, "commit a.nc", "acknowledge a.nc"]
    assert (bench.line().state, bench.line().attempts, bench.line().reason) == (State.COMMITTED, 3, "")


async def test_a_granule_is_read_again_when_the_collection_has_got_the_variables_that_it_brings(bench: Bench) -> None:
    bench.compute.gives("a.nc", WAVE, entry_of(ref_of()))
    await bench.settle(ref_of())
    assert bench.calls == [
        "read a.nc",
        "add wave of a.nc",
        "read a.nc for the new schema",
        "commit a.nc",
        "acknowledge a.nc",
    ]
    assert (bench.line().state, bench.line().attempts) == (State.COMMITTED, 1)


async def test_variables_that_the_collection_cannot_have_are_the_granule_s_fault(bench: Bench) -> None:
    bench.compute.gives("a.nc", WAVE)
    bench.target.additions.append(SchemaMismatchError("a.nc: 'wave' would be a variable and a group at once"))
    await bench.settle(ref_of())
    assert (bench.line().state, bench.line().reason) == (State.QUARANTINED, "schema_mismatch")


async def test_variables_are_added_when_another_writer_has_let_go_and_work_goes_on_until_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, waits = asyncio.sleep, deque[float]()
    waiting, over = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        if not seconds:
            await pause(0)
            return
        waits.append(seconds)
        waiting.set()
        await over.wait()

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    bench.target.additions.append(BusyError("held by 'other'", retry_after=7))
    bench.compute.gives("a.nc", WAVE, entry_of(ref_of()))
    await bench.take(ref_of())
    await waiting.wait()
    await bench.take(ref_of("b.nc"))
    await turns()
    assert bench.calls == ["read a.nc", "read b.nc", "commit b.nc", "acknowledge b.nc"]
    over.set()
    await bench.pipeline.idle()
    assert list(waits) == [7]
    assert bench.line().attempts == 1
    assert bench.calls[4:] == ["add wave of a.nc", "read a.nc for the new schema", "commit a.nc", "acknowledge a.nc"]


async def test_no_transaction_runs_while_variables_are_added(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    adding, added = asyncio.Event(), asyncio.Event()
    add = bench.target.add

    async def slow(addition: Addition, ref: ObjectRef) -> None:
        adding.set()
        await added.wait()
        await add(addition, ref)

    monkeypatch.setattr(bench.target, "add", slow)
    bench.compute.gives("a.nc", WAVE, entry_of(ref_of()))
    await bench.take(ref_of())
    await adding.wait()
    await bench.take(ref_of("b.nc"))
    await turns()
    assert bench.calls == ["read a.nc", "read b.nc"]
    added.set()
    await bench.pipeline.idle()
    assert [call for call in bench.calls if "commit" in call] == ["commit b.nc", "commit a.nc"]


async def test_granules_fitted_to_an_old_schema_are_fitted_again_at_once_and_it_does_not_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_pause(_seconds: float) -> None:
        raise AssertionError("nothing is to be waited for")

    monkeypatch.setattr(module.asyncio, "sleep", no_pause)
    changed = SchemaChangedError("a.nc was fitted to a schema without 'wave'")
    bench.target.failures.extend([changed] * (2 * RETRY.max_attempts))
    bench.compute.gives("a.nc", entry_of(ref_of()))
    await bench.settle(ref_of())
    assert bench.calls[:3] == ["read a.nc", "fail a.nc", "read a.nc for the new schema"]
    assert bench.calls[-2:] == ["commit a.nc", "acknowledge a.nc"]
    assert (bench.line().state, bench.line().attempts) == (State.COMMITTED, 1)


async def test_a_spent_budget_ends_in_quarantine_with_the_reason(bench: Bench) -> None:
    bench.compute.gives("a.nc", NotFoundError("a.nc is gone"))
    await bench.settle(ref_of())
    assert bench.calls == [*["read a.nc"] * 3, "document quarantine", "acknowledge a.nc"]
    document = bench.document()
    assert (document["reason"], document["attempts"]) == ("missing", 3)
    assert document["message"] == "a.nc is gone (given up after 3 attempts)"
    assert bench.observer.seen == [("a.nc", State.QUARANTINED)]


async def test_pauses_are_random_below_a_bound_that_doubles_up_to_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def shortest(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    monkeypatch.setattr(random, "uniform", shortest)
    bench = Bench(tmp_path, RetrySettings(max_attempts=7, base_seconds=1, max_seconds=10))
    bench.compute.gives("a.nc", StorageError("down"))
    await bench.settle(ref_of())
    assert bounds == [(0, bound) for bound in (1, 2, 4, 8, 10, 10)]
    bench.journal.close()


async def test_the_longest_pause_holds_after_any_number_of_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, _: low)
    bench = Bench(tmp_path, RetrySettings(max_attempts=1100, base_seconds=0.5, max_seconds=1))
    identity = str(entry_of(ref_of()).id)
    bench.journal.record(Entry(identity, "s6a", "b", "a.nc", State.RETRYING, attempts=1095))
    bench.compute.gives("a.nc", StorageError("down"))
    await bench.settle(ref_of())
    assert bench.document()["attempts"] == 1100
    bench.journal.close()


async def test_attempts_go_on_from_the_journal_after_a_restart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    bench.compute.gives("a.nc", StorageError("down"))
    bench.restarted(RetrySettings(max_attempts=3, base_seconds=900, max_seconds=1000))
    await bench.take(ref_of())
    await turns()
    assert (bench.line().state, bench.line().attempts) == (State.RETRYING, 1)
    assert await bench.pipeline.stop(0) == ["a.nc"]
    assert bench.source.acknowledged == []
    bench.restarted()
    bench.calls.clear()
    await bench.settle(ref_of())
    assert bench.calls == [*["read a.nc"] * 2, "document quarantine", "acknowledge a.nc"]
    assert bench.document()["attempts"] == 3


async def test_the_journal_tells_of_both_versions_when_an_object_was_overwritten_before_it_was_read(
    bench: Bench,
) -> None:
    announced = ref_of(etag="1", size=10)
    bench.compute.gives("a.nc", entry_of(announced, etag="2", size=20))
    await bench.settle(announced)
    lines = {line.etag: line for line in bench.journal.find("a.nc")}
    assert {etag: (line.state, line.reason, line.size) for etag, line in lines.items()} == {
        "1": (State.SKIPPED, "overwritten", 10),
        "2": (State.COMMITTED, "", 20),
    }
    assert lines["1"].id == str(entry_of(announced).id)
    assert lines["2"].id == str(entry_of(announced, etag="2", size=20).id)
    assert bench.source.acknowledged


@pytest.mark.parametrize(("etag", "size"), [(None, None), (None, 10), ("1", None)])
async def test_a_version_that_the_event_did_not_tell_is_one_line_of_the_journal(
    bench: Bench, etag: str | None, size: int | None
) -> None:
    await bench.settle(ref_of(etag=etag, size=size))
    line = bench.line()
    assert (line.id, line.etag, line.size, line.state) == (str(entry_of(ref_of()).id), "1", 10, State.COMMITTED)
    assert bench.observer.seen == [("a.nc", State.COMMITTED)]


async def test_an_older_version_than_the_one_that_is_in_is_skipped(bench: Bench) -> None:
    bench.target.put(entry_of(ref_of(etag="2"), 2))
    await bench.settle(ref_of())
    assert bench.calls == ["read a.nc", "document skipped", "acknowledge a.nc"]
    assert (bench.line().state, bench.line().reason) == (State.SKIPPED, "superseded")


class TestTwoVersionsOfTheSameTime:
    """Their rank is decided by the ETag until the store is asked."""

    in_already = entry_of(ref_of(etag="9"), 5)
    offered = entry_of(ref_of(etag="1"), 5)

    @pytest.fixture(autouse=True)
    def tie(self, bench: Bench) -> None:
        assert self.offered.rank < self.in_already.rank
        bench.target.put(self.in_already)
        bench.compute.gives("a.nc", self.offered)

    async def test_the_one_that_the_store_has_now_goes_in_just_above_the_other(self, bench: Bench) -> None:
        bench.target.stored["s3://b/a.nc"] = "1"
        await bench.settle(ref_of(etag="1"))
        assert bench.calls == ["read a.nc", "commit a.nc", "acknowledge a.nc"]
        ledger = bench.target.state.ledger
        assert [(e.id, e.precedence) for e in ledger] == [(self.offered.id, (5, 1))]
        assert ledger.was_removed(self.in_already.id)
        assert bench.line().state is State.COMMITTED

    async def test_a_third_one_goes_above_the_second(self, bench: Bench) -> None:
        bench.target.stored["s3://b/a.nc"] = "1"
        await bench.settle(ref_of(etag="1"))
        third = ref_of(etag="0")
        bench.compute.gives("a.nc", entry_of(third, 5))
        bench.target.stored["s3://b/a.nc"] = "0"
        await bench.settle(third)
        found = bench.target.state.ledger.get(entry_of(third).id)
        assert found is not None
        assert found.precedence == (5, 1, 1)

    async def test_the_one_that_the_store_no_longer_has_is_skipped(self, bench: Bench) -> None:
        bench.target.stored["s3://b/a.nc"] = "9"
        await bench.settle(ref_of(etag="1"))
        assert bench.calls == ["read a.nc", "document skipped", "acknowledge a.nc"]
        assert bench.line().reason == "superseded"
        assert list(bench.target.state.ledger) == [self.in_already]

    async def test_the_one_in_the_collection_stays_when_the_store_has_neither(self, bench: Bench) -> None:
        await bench.settle(ref_of(etag="1"))
        assert bench.calls == ["read a.nc", "document skipped", "acknowledge a.nc"]
        assert bench.line().reason == "superseded"


async def test_a_source_that_cannot_be_told_is_told_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ACKNOWLEDGE_PAUSE", 0.001)
    bench.source.failures += [SourceUnavailableError("down"), SourceUnavailableError("down")]
    deliveries = await bench.settle(ref_of())
    assert bench.source.acknowledged == deliveries
    assert bench.calls.count("read a.nc") == 1


async def test_room_is_what_is_missing_to_the_limit_and_waits_for_some(bench: Bench) -> None:
    assert await bench.pipeline.room(2) == 2
    bench.compute.gate.clear()
    await bench.take(ref_of("a.nc"))
    assert await bench.pipeline.room(2) == 1
    await bench.take(ref_of("b.nc"))
    waiting = asyncio.create_task(bench.pipeline.room(2))
    await turns()
    assert not waiting.done()
    bench.compute.gate.set()
    assert await waiting >= 1


async def test_idle_waits_until_everything_is_settled(bench: Bench) -> None:
    await bench.pipeline.idle()
    bench.compute.gate.clear()
    await bench.take(ref_of("a.nc"), ref_of("b.nc"))
    waiting = asyncio.create_task(bench.pipeline.idle())
    await turns()
    assert not waiting.done()
    bench.compute.gate.set()
    await waiting
    assert bench.pipeline.in_flight == 0
    assert len(bench.source.acknowledged) == 2


async def test_a_stop_lets_work_end_within_its_grace(bench: Bench) -> None:
    bench.compute.gate.clear()
    deliveries = await bench.take(ref_of())
    stopping = asyncio.create_task(bench.pipeline.stop(60))
    await turns()
    assert not stopping.done()
    bench.compute.gate.set()
    assert await stopping == []
    assert bench.source.acknowledged == deliveries


async def test_a_stop_gives_up_what_its_grace_does_not_suffice_for(bench: Bench) -> None:
    bench.compute.gate.clear()
    await bench.take(ref_of("a.nc"), ref_of("b.nc"))
    await turns()
    assert sorted(await bench.pipeline.stop(0.001)) == ["a.nc", "b.nc"]
    assert bench.pipeline.in_flight == 0
    assert bench.source.acknowledged == []
    assert {line.state for line in bench.journal.all()} == {State.RECEIVED}


async def test_what_the_documents_of_an_earlier_run_tell_is_known(bench: Bench) -> None:
    identity = str(entry_of(ref_of()).id)
    entry = Entry(identity, "s6a", "b", "a.nc", State.QUARANTINED, etag="1", size=10)
    bench.documents.write(entry, Failure(Kind.QUARANTINE, "bad", "bad"), url="s3://b/a.nc", event={})
    bench.documents = SettledDocuments(bench.store)
    bench.documents.load()
    assert bench.restarted().knows(ref_of())
