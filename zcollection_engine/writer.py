"""Transactions: plan, take a grant, let the jobs write, commit, publish.

The order of the steps is the protocol; what a crash leaves after each of them is told in ``docs/transactions.md``.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from zcollection_engine.clock import Clock
from zcollection_engine.commits.grants import GrantWatch, Heartbeat, append_next
from zcollection_engine.commits.log import CommitLog, NumberTakenError, record_key
from zcollection_engine.commits.records import Commit, Grant, PartitionChange, Record, Release
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.config import CollectionConfig, CollectionRef
from zcollection_engine.errors import BusyError, ConflictError, FencedError, StorageError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.layout import keyspaces
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.planning import PartitionPlan, Plan, make_plan
from zcollection_engine.publication import Publisher
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.transaction import Executor, Offer, Outcome, WriterOptions

_DEFEATS = 10
_PARALLEL_PARTITIONS = 8


@dataclass
class _Granted:
    plan: Plan
    token: int
    transaction: str
    grant: Grant
    bases: Mapping[str, PartitionState]
    flips: dict[str, datetime] = field(default_factory=dict)


class Writer:
    """The one place where a process changes a collection. Thread-safe: transactions may run side by side.

    Parameters
    ----------
    store, ref, config
        The collection.
    state
        Its state; the writer keeps it up to date.
    options, clock
        See there.
    """

    def __init__(
        self,
        store: ObjectStore,
        ref: CollectionRef,
        config: CollectionConfig,
        state: CollectionState,
        *,
        options: WriterOptions,
        clock: Clock,
    ) -> None:
        if state.creation is None:
            raise ConflictError(f"{store.url}: the collection has no creation record")
        self.state = state
        self.options = options
        self._store = store
        self._ref = ref
        self._config = config
        self._clock = clock
        self._session = uuid.uuid4().hex
        self._log = CommitLog(store, clock)
        self._watch = GrantWatch(clock, options.owner, self._session)
        self._publisher = Publisher(store, config, state.creation)
        self._unpublished: set[str] = {p.path for p in state.unpublished()}
        self._published_root = -1
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Fold what others have appended to the log."""
        with self._lock:
            for number, record in self._log.follow(self.state.number):
                self._apply(number, record)

    def roll_forward(self) -> None:
        """Complete the publication of every commit that is not known to be published."""
        self.refresh()
        self._publisher.publish_creation()
        self.publish_arrays()

    def publish_arrays(self) -> None:
        """Bring documents of single arrays up to date that were left behind by appends."""
        with self._lock:
            pending = list(self._unpublished)
        self._publish(pending, arrays=True)

    def commit(self, offers: Sequence[Offer], executor: Executor) -> Outcome:
        """Merge granules into the collection as one transaction and make it visible.

        Raises
        ------
        BusyError
            If another writer holds one of the partitions, or no key space is free before the readers' grace is over.
        ConflictError
            If other writers won again and again.
        StorageError
            If the storage failed. Calling again is safe: what was committed is then known.
        """
        payloads = {offer.entry.id: offer.payload for offer in offers}
        entries = [offer.entry for offer in offers]
        gone: set[int] = set()
        defeats = 0
        while True:
            plan = self._plan(entries, gone)
            missing = [e for e in plan.restored if e.id not in payloads]
            if missing:
                found = executor.reread(missing)
                payloads.update(found)
                gone.update(e.id for e in missing if e.id not in found)
                continue
            if not plan.accepted:
                self._publish(self._unseen(entries), arrays=self.options.eager_arrays)
                return Outcome(None, plan.verdicts)
            granted = self._take_grant(plan)
            if granted is None:
                continue
            try:
                return self._run(granted, payloads, executor)
            except ConflictError as error:
                defeats += 1
                if defeats == _DEFEATS:
                    raise ConflictError(
                        f"{self._store.url}: other writers won {defeats} times in a row; the last time: {error}"
                    ) from error

    def _plan(self, entries: Sequence[GranuleEntry], gone: set[int]) -> Plan:
        with self._lock:
            self.refresh()
            plan = make_plan(self.state, entries, gone)
            if plan.accepted:
                self._require_free(plan.paths)
                for part in plan.partitions:
                    if part.change is Change.REWRITE:
                        self._require_space(self.state.partition(part.path), self._clock.now())
            return plan

    def _require_free(self, paths: Iterable[str]) -> None:
        self._watch.forget_ended(self.state)
        for path in paths:
            held = self.state.held.get(path)
            if held is None:
                continue
            remaining = self._watch.remaining(held)
            if remaining > 0:
                raise BusyError(
                    f"{self._store.url}: partition {path} is held by {held.grant.owner!r} (grant {held.token});"
                    f" it may be taken over in {remaining:.1f} s unless renewed",
                    retry_after=min(remaining, 1.0),
                    partition=path,
                )

    def _require_space(self, base: PartitionState, now: datetime) -> None:
        """Refuse a rewrite into a key space that a reader may still be using."""
        if base.generation + 1 < keyspaces.SPACES:
            return
        retired = base.flips.get(base.generation - 1)
        if retired is None:
            return
        wait = (retired + self.options.reader_grace - now).total_seconds()
        if wait > 0:
            raise BusyError(
                f"{self._store.url}: partition {base.path} was rewritten twice within reader_grace"
                f" ({self.options.reader_grace.total_seconds():g} s); the next key space is free in {wait:.1f} s",
                retry_after=wait,
                partition=base.path,
            )

    def _take_grant(self, plan: Plan) -> _Granted | None:
        """Append the grant right behind the state that was planned on; None if another record came first."""
        with self._lock:
            transaction = uuid.uuid4().hex
            grant = Grant(
                transaction,
                self._clock.now(),
                owner=self.options.owner,
                session=self._session,
                seconds=self.options.grant_seconds,
                partitions=plan.paths,
            )
            token = plan.number + 1
            try:
                self._log.append(token, grant)
            except NumberTakenError:
                return None
            except StorageError:
                # The grant may exist. A release behind it gives it back; one in its place keeps it from being made.
                self._release(transaction, token)
                raise
            self._apply(token, grant)
            bases = {path: self.state.partition(path) for path in plan.paths}
        return _Granted(plan, token, transaction, grant, bases)

    def _run(self, granted: _Granted, payloads: Mapping[int, Any], executor: Executor) -> Outcome:
        try:
            with Heartbeat(self._log, self._clock, granted.grant, granted.token):
                self._prepare(granted)
                jobs = [self._job(granted, p) for p in granted.plan.partitions if p.change is not Change.NONE]
                results = executor.run(jobs, payloads) if jobs else []
            number = self._append_commit(granted, results)
        except BaseException:
            self._release(granted.transaction, granted.token)
            raise
        changed = [r.partition for r in results if r.changed]
        self._publish({*changed, *self._unseen(granted.plan.accepted)}, arrays=self.options.eager_arrays)
        with self._lock:
            states = tuple(self.state.partition(path) for path in changed)
        return Outcome(number, granted.plan.verdicts, states, granted.plan.lost)

    def _prepare(self, granted: _Granted) -> None:
        """Publish the partitions up to their base and learn since when their generations are visible."""
        existing = [b for b in granted.bases.values() if b.commit >= 0]
        self._publish([b.path for b in existing], arrays=False)
        for base in existing:
            if base.generation not in base.flips:
                granted.flips[base.path] = self._publisher.flipped_at(base)
        rewritten = [p.path for p in granted.plan.partitions if p.change is Change.REWRITE]
        reused = [b for b in existing if b.path in rewritten and b.generation + 1 >= keyspaces.SPACES]
        if reused and self.options.reader_grace:
            now = self._store.head(record_key(granted.token)).modified
            for base in reused:
                self._require_space(base, now)

    def _job(self, granted: _Granted, plan: PartitionPlan) -> PartitionJob:
        base = granted.bases[plan.path]
        return PartitionJob(
            collection=self._ref,
            token=granted.token,
            attempt=uuid.uuid4().hex,
            partition=plan.path,
            change=plan.change,
            base=Version(base.commit, base.generation, base.rows),
            generation=base.generation + (plan.change is Change.REWRITE),
            owners=tuple((e.id, e.shares[plan.path].intervals) for e in plan.owners),
            inserted=tuple(e.id for e in plan.inserted),
            removed=plan.removed,
        )

    def _append_commit(self, granted: _Granted, results: Sequence[JobResult]) -> int:
        plan = granted.plan
        changes = {r.partition: self._change(granted, r) for r in results if r.changed}
        with self._lock:
            while True:
                self.refresh()
                self._require_held(granted)
                number = self.state.number + 1
                commit = Commit(
                    granted.transaction,
                    self._next_time(),
                    token=granted.token,
                    partitions=changes,
                    granules=plan.accepted,
                    removed=tuple(e.id for e in plan.replaced),
                    lost=tuple(e.id for e in plan.lost),
                    published=self._published(),
                )
                try:
                    self._log.append(number, commit)
                except NumberTakenError:
                    continue
                self._apply(number, commit)
                return number

    def _require_held(self, granted: _Granted) -> None:
        """Raise `FencedError` unless the plan still stands on the folded log."""
        for path in granted.plan.paths:
            held = self.state.held.get(path)
            if held is None or held.token != granted.token:
                raise FencedError(
                    f"{self._store.url}: grant {granted.token} of partition {path} was taken over; merging again",
                    partition=path,
                )
        replaced = {(e.identity.bucket, e.identity.key): e.id for e in granted.plan.replaced}
        for entry in granted.plan.accepted:
            key = (entry.identity.bucket, entry.identity.key)
            if self.state.latest.get(key) != replaced.get(key):
                raise FencedError(f"{self._store.url}: another writer committed {entry.identity.key}; merging again")

    def _change(self, granted: _Granted, result: JobResult) -> PartitionChange:
        base = granted.bases[result.partition]
        axis = result.axis
        if axis is not None and base.axis is not None and result.generation == base.generation:
            axis = (min(axis[0], base.axis[0]), max(axis[1], base.axis[1]))
        return PartitionChange(result.rows, result.generation, axis, granted.flips.get(result.partition))

    def _next_time(self) -> datetime:
        now = self._clock.now()
        if self.state.last_time is None:
            return now
        return max(now, self.state.last_time + timedelta(microseconds=1))

    def _release(self, transaction: str, token: int) -> None:
        release = Release(transaction, self._clock.now(), token)
        try:
            append_next(self._log, self.state.number, release)
        except StorageError:
            # The transaction's own failure is the one to report; unreleased, the grant ages and is taken over.
            return

    def _apply(self, number: int, record: Record) -> None:
        self.state.apply(number, record)
        if isinstance(record, Commit):
            self._unpublished.update(record.partitions)

    def _unseen(self, entries: Iterable[GranuleEntry]) -> list[str]:
        with self._lock:
            return [path for e in entries for path in e.shares if path in self._unpublished]

    def _publish(self, paths: Iterable[str], *, arrays: bool) -> None:
        with self._lock:
            partitions = [self.state.partitions[path] for path in sorted(set(paths)) if path in self.state.partitions]
        with ThreadPoolExecutor(_PARALLEL_PARTITIONS) as pool:
            for done in [pool.submit(self._publisher.publish, p, arrays=arrays) for p in partitions]:
                done.result()
        with self._lock:
            for partition in partitions:
                if self._publisher.is_complete(self.state.partitions[partition.path]):
                    self._unpublished.discard(partition.path)
            if self.state.last_commit > self._published_root or self._published_root < 0:
                self._publisher.publish_root(self.state)
                self._published_root = max(self.state.last_commit, 0)

    def _published(self) -> int:
        pending = [self.state.partitions[path].commit for path in self._unpublished if path in self.state.partitions]
        return min(pending, default=self.state.number + 1) - 1
