"""The transaction that merges granules: plan, take a grant, let the jobs write, commit, publish."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.records import Commit, PartitionChange
from zcollection_engine.committing import Committer
from zcollection_engine.errors import ConflictError, FencedError, SnapshotExpiredError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.planning import PartitionPlan, Plan, make_plan
from zcollection_engine.transaction import Executor, Offer, Outcome

_DEFEATS = 10


class Writer:
    """Merges granules into a collection. Thread-safe: transactions may run side by side.

    Parameters
    ----------
    committer
        Of the collection.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

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
        committer = self._committer
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
                committer.publish(self._unseen(entries), arrays=committer.options.eager_arrays)
                return Outcome(None, plan.verdicts)
            granted = committer.grant(plan.number, plan.paths)
            if granted is None:
                continue
            try:
                return self._run(granted, plan, payloads, executor, entries)
            except ConflictError as error:
                defeats += 1
                if defeats == _DEFEATS:
                    raise ConflictError(
                        f"{committer.store.url}: other writers won {defeats} times in a row; the last time: {error}"
                    ) from error

    def _plan(self, entries: Sequence[GranuleEntry], gone: set[int]) -> Plan:
        committer = self._committer
        with committer.lock:
            committer.refresh()
            try:
                plan = make_plan(committer.state, entries, gone)
            except SnapshotExpiredError:
                committer.reload()  # the tables of an old checkpoint were collected; a newer one stands in its place
                plan = make_plan(committer.state, entries, gone)
            if plan.accepted:
                committer.require_free(plan.paths)
                for path in plan.rewritten:
                    committer.require_space(committer.state.partition(path), committer.clock.now())
            return plan

    def _run(
        self,
        granted: Granted,
        plan: Plan,
        payloads: Mapping[int, Any],
        executor: Executor,
        entries: Sequence[GranuleEntry],
    ) -> Outcome:
        committer = self._committer
        with committer.holding(granted):
            committer.prepare(granted, plan.rewritten)
            jobs = [self._job(granted, p) for p in plan.partitions if p.change is not Change.NONE]
            results = executor.run(jobs, payloads) if jobs else []
            changes = {r.partition: _change(granted, r) for r in results if r.changed}
            draft = Commit(
                granted.transaction,
                granted.grant.time,
                granted.token,
                changes,
                granules=plan.accepted,
                removed=plan.replaced,
                lost=tuple(e.id for e in plan.lost),
            )
            number = committer.commit(granted, draft, lambda: self._require_keys(plan))
        committer.publish({*changes, *self._unseen(entries)}, arrays=committer.options.eager_arrays)
        with committer.lock:
            states = tuple(committer.state.partition(path) for path in changes)
        committer.checkpoint_if_due()
        return Outcome(number, plan.verdicts, states, plan.lost)

    def _job(self, granted: Granted, plan: PartitionPlan) -> PartitionJob:
        base = granted.base(plan.path)
        return PartitionJob(
            collection=self._committer.ref,
            token=granted.token,
            seconds=granted.grant.seconds,
            attempt=uuid.uuid4().hex,
            partition=plan.path,
            change=plan.change,
            base=Version(base.commit, base.generation, base.rows),
            generation=base.generation + (plan.change is Change.REWRITE),
            owners=tuple((e.id, e.shares[plan.path].intervals) for e in plan.owners),
            inserted=tuple(e.id for e in plan.inserted),
            removed=plan.removed,
        )

    def _require_keys(self, plan: Plan) -> None:
        """Raise `FencedError` if another writer committed a version of one of the plan's objects meanwhile."""
        ledger = self._committer.state.ledger
        replaced = {(e.identity.bucket, e.identity.key): e.id for e in plan.replaced}
        for entry in plan.accepted:
            key = (entry.identity.bucket, entry.identity.key)
            present = ledger.latest(*key)
            if (present.id if present is not None else None) != replaced.get(key):
                raise FencedError(
                    f"{self._committer.store.url}: another writer committed {entry.identity.key}; merging again"
                )

    def _unseen(self, entries: Iterable[GranuleEntry]) -> list[str]:
        """Partitions to be published before readers see granules; also those that their commit only took rows from."""
        committer = self._committer
        offered = list(entries)
        with committer.lock:
            state, added = committer.state, committer.state.ledger.added
            pending = [state.partition(path) for path in committer.unpublished()]
            since = min((added[e.id][0] for e in offered if e.id in added), default=state.number + 1)
        shares = {path for entry in offered for path in entry.shares}
        return [p.path for p in pending if p.path in shares or p.commit >= since]


def _change(granted: Granted, result: JobResult) -> PartitionChange:
    base = granted.base(result.partition)
    axis = result.axis
    if axis is not None and base.axis is not None and result.generation == base.generation:
        axis = (min(axis[0], base.axis[0]), max(axis[1], base.axis[1]))
    return PartitionChange(result.rows, result.generation, axis, granted.flips.get(result.partition))
