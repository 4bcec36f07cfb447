"""Transactions that merge nothing: plan, take a grant, let jobs copy or fill, commit, publish.

What each of them does is planned in `zcollection_engine.amendments` and `zcollection_engine.schemachanges`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.records import EVERYTHING, Commit, PartitionChange
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionRef, StoredConfig, store_config
from zcollection_engine.errors import ConflictError, FencedError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import PartitionJob
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.transaction import Executor

_DEFEATS = 10


@dataclass(frozen=True)
class Amendment:
    """What a transaction is going to do, planned on record ``number``.

    Attributes
    ----------
    paths
        Partitions to be granted.
    copies
        By path: the version, an older one or the present one, whose rows the partition gets in its next generation.
    emptied
        Partitions that lose their rows.
    dropped
        Those of them in which no granule has a share any more.
    filled
        Variables that are new: they get fill values, in every partition that is not copied beside its other arrays.
    unlisted
        Variables that are dropped.
    granules, removed, withdrawn
        See `Commit`.
    config, new_config
        The configuration to go back to, or one that is new.
    """

    number: int
    operation: str
    paths: tuple[str, ...]
    copies: Mapping[str, PartitionState] = field(default_factory=dict)
    emptied: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    granules: tuple[GranuleEntry, ...] = ()
    removed: tuple[GranuleEntry, ...] = ()
    withdrawn: tuple[GranuleEntry, ...] = ()
    config: str | None = None
    new_config: StoredConfig | None = None

    @property
    def rewritten(self) -> set[str]:
        """Partitions that get a new generation."""
        return {*self.copies, *self.emptied}


class Amender:
    """Runs amendments. Thread-safe.

    Parameters
    ----------
    committer
        Of the collection.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    def run(self, plan: Callable[[Committer, CollectionState], Amendment], executor: Executor) -> int:
        """Make an amendment and make it visible; returns the number of its commit.

        Parameters
        ----------
        plan
            Called on the folded log, again after every defeat by another writer; what it raises is raised.
        executor
            Runs the jobs.

        Raises
        ------
        BusyError
            If another writer holds one of the partitions, or a reader may still need the key space it goes to.
        ConflictError
            If other writers won again and again.
        """
        committer = self._committer
        defeats = 0
        while True:
            with committer.lock:
                committer.refresh()
                amendment = plan(committer, committer.state)
                committer.require_free(amendment.paths)
                for path in amendment.rewritten:
                    committer.require_space(committer.state.partition(path), committer.clock.now())
            granted = committer.grant(amendment.number, amendment.paths)
            if granted is None:
                continue
            try:
                number = self._commit(granted, amendment, executor)
            except ConflictError as error:
                defeats += 1
                if defeats == _DEFEATS:
                    raise ConflictError(f"{committer.store.url}: other writers won {defeats} times: {error}") from error
                continue
            everything = EVERYTHING in amendment.paths
            committer.publish(committer.unpublished() if everything else amendment.rewritten, arrays=True)
            committer.publisher.withdraw(granted.bases, amendment.unlisted)
            committer.checkpoint_if_due()
            return number

    def _commit(self, granted: Granted, amendment: Amendment, executor: Executor) -> int:
        committer = self._committer
        with committer.holding(granted):
            committer.prepare(granted, amendment.rewritten)
            draft = self._draft(granted, amendment, executor)
            return committer.commit(granted, draft, lambda: self._require_granules(draft))

    def _draft(self, granted: Granted, amendment: Amendment, executor: Executor) -> Commit:
        config = amendment.config
        if amendment.new_config is not None:
            config = granted.transaction
            store_config(self._committer.store, config, amendment.new_config)
        ref = replace(self._committer.ref, config=config or self._committer.ref.config)
        jobs = [_job(granted, amendment, ref, source) for source in amendment.copies.values()]
        if amendment.filled:
            bases = [base for path, base in granted.bases.items() if base.rows and path not in amendment.copies]
            jobs += [_job(granted, amendment, ref, base, fill=True) for base in bases]
        results = executor.run(jobs, {}) if jobs else []
        changes = {r.partition: PartitionChange(r.rows, r.generation, r.axis) for r in results if r.changed}
        for path in amendment.emptied:
            changes[path] = PartitionChange(0, granted.base(path).generation + 1, None)
        return Commit(
            granted.transaction,
            granted.grant.time,
            granted.token,
            {path: replace(change, flipped=granted.flips.get(path)) for path, change in changes.items()},
            amendment.granules,
            amendment.removed,
            operation=amendment.operation,
            dropped=amendment.dropped,
            withdrawn=amendment.withdrawn,
            config=config,
        )

    def _require_granules(self, draft: Commit) -> None:
        """Raise `FencedError` if another writer took out what is to go, or brought in a version of what is to come.

        The grant does not keep others from it where a granule has a share in no partition that was granted.
        """
        ledger = self._committer.state.ledger
        leaving = {entry.id for entry in draft.removed}
        present = (ledger.latest(e.identity.bucket, e.identity.key) for e in draft.granules)
        unexpected = {entry.id for entry in present if entry is not None} - leaving
        if unexpected or not all(map(ledger.has_as_planned, draft.removed)):
            raise FencedError(f"{self._committer.store.url}: another writer changed the same granules; planning again")


def _job(
    granted: Granted, amendment: Amendment, ref: CollectionRef, source: PartitionState, *, fill: bool = False
) -> PartitionJob:
    return PartitionJob(
        collection=ref,
        token=granted.token,
        seconds=granted.grant.seconds,
        attempt=uuid.uuid4().hex,
        partition=source.path,
        change=Change.FILL if fill else Change.COPY,
        base=Version(source.commit, source.generation, source.rows),
        generation=granted.base(source.path).generation + (not fill),
        owners=(),
        inserted=(),
        filled=amendment.filled,
        imported=source.is_imported,
    )
