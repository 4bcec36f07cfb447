"""The transaction that merges granules: plan, take a grant, let the jobs write, commit, publish."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.records import Commit, PartitionChange
from zcollection_engine.committing import Committer
from zcollection_engine.errors import (
    ConflictError,
    FencedError,
    InvalidInputError,
    SchemaChangedError,
    SnapshotExpiredError,
)
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.planning import MergeRules, PartitionPlan, Plan, make_plan, named_granules
from zcollection_engine.transaction import Executor, Offer, Outcome

_DEFEATS = 10


@dataclass(frozen=True, slots=True)
class _Intent:
    """What a transaction shall bring in and take out."""

    operation: str
    offered: tuple[GranuleEntry, ...] = ()
    retracted: tuple[int | str, ...] = ()


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
        SchemaChangedError
            If a granule was fitted to a schema that is no longer in force: prepare it again.
        InvalidGranuleError
            If a granule's rows cannot be told from others, see `make_plan`.
        """
        payloads = {offer.entry.id: offer.payload for offer in offers}
        return self._run(_Intent("merge", tuple(offer.entry for offer in offers)), payloads, executor)

    def retract(self, granules: Sequence[int | str], executor: Executor) -> Outcome:
        """Take granules out, as one transaction; rows that they had taken from others come back from their sources.

        They stay out when they are delivered again; a newer version of their objects comes in.

        Parameters
        ----------
        granules
            Ids, or keys of objects.

        Raises
        ------
        NotFoundError
            If one of them is not in.
        InvalidInputError
            If none is named, or the collection cannot tell their rows from others.
        BusyError, ConflictError, StorageError
            As `commit`.
        """
        if not granules:
            raise InvalidInputError("name the granules to be retracted; granules() lists them")
        return self._run(_Intent("retract", retracted=tuple(granules)), {}, executor)

    def _run(self, intent: _Intent, payloads: dict[int, Any], executor: Executor) -> Outcome:
        committer = self._committer
        gone: set[int] = set()
        defeats = 0
        while True:
            plan = self._plan(intent, gone)
            missing = [e for e in plan.restored if e.id not in payloads]
            if missing:
                found = executor.reread(missing)
                payloads.update(found)
                gone.update(e.id for e in missing if e.id not in found)
                continue
            if not plan.is_change:
                committer.publish(self._unseen(intent.offered), arrays=committer.options.eager_arrays)
                return Outcome(None, plan.verdicts)
            granted = committer.grant(plan.number, plan.paths)
            if granted is None:
                continue
            try:
                return self._merge(granted, plan, intent, payloads, executor)
            except SchemaChangedError:
                raise
            except ConflictError as error:
                defeats += 1
                if defeats == _DEFEATS:
                    raise ConflictError(
                        f"{committer.store.url}: other writers won {defeats} times in a row; the last time: {error}"
                    ) from error

    def _plan(self, intent: _Intent, gone: set[int]) -> Plan:
        committer = self._committer
        with committer.lock:
            committer.refresh()
            try:
                plan = self._make_plan(intent, gone)
            except SnapshotExpiredError:
                committer.reload()  # the tables of an old checkpoint were collected; a newer one stands in its place
                plan = self._make_plan(intent, gone)
            if plan.is_change:
                committer.require_free(plan.paths)
                for path in plan.rewritten:
                    committer.require_space(committer.state.partition(path), committer.clock.now())
            return plan

    def _make_plan(self, intent: _Intent, gone: set[int]) -> Plan:
        state, config = self._committer.state, self._committer.config
        retracted = named_granules(state, intent.retracted, place=self._committer.store.url)
        rules = MergeRules(config.strategy, config.schema.keeps_provenance)
        return make_plan(state, rules, intent.offered, retracted=retracted, gone=gone)

    def _merge(
        self, granted: Granted, plan: Plan, intent: _Intent, payloads: Mapping[int, Any], executor: Executor
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
                operation=intent.operation,
                withdrawn=tuple(replace(e, shares={}) for e in plan.retracted),
            )
            number = committer.commit(granted, draft, lambda: self._require_keys(plan))
        committer.publish({*changes, *self._unseen(intent.offered)}, arrays=committer.options.eager_arrays)
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
            imported=base.is_imported,
            present=tuple((e.id, e.shares[plan.path].intervals) for e in plan.present),
            block_nbytes=self._committer.options.block_nbytes,
        )

    def _require_keys(self, plan: Plan) -> None:
        """Raise `FencedError` if another writer committed a version of one of the plan's objects meanwhile."""
        ledger = self._committer.state.ledger
        for entry in plan.replaced:
            if not ledger.has_as_planned(entry):
                raise FencedError(
                    f"{self._committer.store.url}: another writer changed what {entry.identity.key} has in partitions;"
                    " planning again"
                )
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
    if axis is not None and base.axis is not None and result.extends:
        axis = (min(axis[0], base.axis[0]), max(axis[1], base.axis[1]))
    return PartitionChange(result.rows, result.generation, axis, granted.flips.get(result.partition))
