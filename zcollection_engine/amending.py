"""Transactions that merge nothing: drop partitions, roll back, change attributes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.opening import Moment, load_state_at
from zcollection_engine.commits.records import EVERYTHING, Commit, PartitionChange
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import StoredConfig, load_config, store_config
from zcollection_engine.errors import ConflictError, FencedError, InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.history import NetChange, records_between, same_rows
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import PartitionJob
from zcollection_engine.layout import keyspaces
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.schema import PROVENANCE, Schema
from zcollection_engine.transaction import Executor

_DEFEATS = 10

#: Attributes of variables that say how stored numbers are read: changing them would change the data.
_MEANING = frozenset({"units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned"})


@dataclass(frozen=True)
class _Amendment:
    """What a transaction is going to do, planned on record ``number``.

    Attributes
    ----------
    paths
        Partitions to be granted.
    copies
        By path: the older version whose rows the partition gets.
    emptied
        Partitions that lose their rows.
    dropped
        Those of them in which no granule has a share any more.
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
    granules: tuple[GranuleEntry, ...] = ()
    removed: tuple[GranuleEntry, ...] = ()
    withdrawn: tuple[GranuleEntry, ...] = ()
    config: str | None = None
    new_config: StoredConfig | None = None


class Amender:
    """Drops, rolls back and re-labels. Thread-safe.

    Parameters
    ----------
    committer
        Of the collection.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer

    def drop(self, paths: Sequence[str]) -> int:
        """Empty partitions; their granules stay known, so that a redelivery does not bring them back.

        Returns
        -------
        int
            Number of the commit.

        Raises
        ------
        NotFoundError
            If a partition has no rows.
        InvalidInputError
            If none is named.
        BusyError
            If another writer holds one of them, or a reader may still need the key space it goes to.
        """
        return self._run(lambda state: self._plan_drop(state, paths), None)

    def rollback(self, to: Moment, executor: Executor) -> int:
        """Give the collection the content it had, as a new commit; what came in since stays out when delivered again.

        Returns
        -------
        int
            Number of the commit.

        Raises
        ------
        SnapshotExpiredError
            If the log no longer reaches back, or data of a partition are gone.
        InvalidInputError
            If there is no such commit, or it has the same content.
        """
        target = load_state_at(self._committer.store, to, self._committer.clock)
        return self._run(lambda state: self._plan_rollback(state, target), executor)

    def set_attributes(self, attributes: Mapping[str, Any], variable: str | None = None) -> int:
        """Change attributes of the collection or of one variable; None as a value removes one.

        Returns
        -------
        int
            Number of the commit.

        Raises
        ------
        NotFoundError
            If there is no such variable.
        InvalidInputError
            If an attribute decides what stored numbers mean.
        """
        return self._run(lambda state: self._plan_attributes(state, attributes, variable), None)

    def _run(self, plan: Callable[[CollectionState], _Amendment], executor: Executor | None) -> int:
        committer = self._committer
        defeats = 0
        while True:
            with committer.lock:
                committer.refresh()
                amendment = plan(committer.state)
                rewritten = {*amendment.copies, *amendment.emptied}
                committer.require_free(amendment.paths)
                for path in rewritten:
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
            changed = committer.unpublished() if everything else rewritten
            committer.publish(changed, arrays=True)
            committer.checkpoint_if_due()
            return number

    def _commit(self, granted: Granted, amendment: _Amendment, executor: Executor | None) -> int:
        committer = self._committer
        with committer.holding(granted):
            committer.prepare(granted, {*amendment.copies, *amendment.emptied})
            draft = self._draft(granted, amendment, executor)
            return committer.commit(granted, draft, lambda: self._require_granules(draft))

    def _draft(self, granted: Granted, amendment: _Amendment, executor: Executor | None) -> Commit:
        jobs = [self._copy_job(granted, source) for source in amendment.copies.values()]
        results = executor.run(jobs, {}) if executor is not None and jobs else []
        changes = {r.partition: PartitionChange(r.rows, r.generation, r.axis) for r in results}
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
            config=self._store_config(granted, amendment),
        )

    def _store_config(self, granted: Granted, amendment: _Amendment) -> str | None:
        if amendment.new_config is None:
            return amendment.config
        store_config(self._committer.store, granted.transaction, amendment.new_config)
        return granted.transaction

    def _require_granules(self, draft: Commit) -> None:
        """Raise `FencedError` if another writer took out what is to go, or brought in a version of what is to come.

        The grant does not keep others from it where a granule has a share in no partition that was granted.
        """
        ledger = self._committer.state.ledger
        leaving = {entry.id for entry in draft.removed}
        present = (ledger.latest(e.identity.bucket, e.identity.key) for e in draft.granules)
        unexpected = {entry.id for entry in present if entry is not None} - leaving
        if unexpected or not all(identity in ledger for identity in leaving):
            raise FencedError(f"{self._committer.store.url}: another writer changed the same granules; planning again")

    def _copy_job(self, granted: Granted, source: PartitionState) -> PartitionJob:
        return PartitionJob(
            collection=self._committer.ref,
            token=granted.token,
            seconds=granted.grant.seconds,
            attempt=uuid.uuid4().hex,
            partition=source.path,
            change=Change.COPY,
            base=Version(source.commit, source.generation, source.rows),
            generation=granted.base(source.path).generation + 1,
            owners=(),
            inserted=(),
        )

    def _plan_drop(self, state: CollectionState, paths: Sequence[str]) -> _Amendment:
        for path in paths:
            if not state.partition(path).rows:
                raise NotFoundError(f"{self._committer.store.url}: no partition {path!r}; partitions() lists them")
        if not paths:
            raise InvalidInputError("name the partitions to be dropped; partitions() lists them")
        chosen = tuple(sorted(set(paths)))
        return _Amendment(state.number, "drop", chosen, emptied=chosen, dropped=chosen)

    def _plan_attributes(
        self, state: CollectionState, attributes: Mapping[str, Any], variable: str | None
    ) -> _Amendment:
        committer = self._committer
        stored = load_config(committer.store, state.config)
        schema = _with_attributes(stored.config.schema, attributes, variable)
        new = StoredConfig(replace(stored.config, schema=schema), stored.immutable)
        return _Amendment(state.number, "attributes", (EVERYTHING,), new_config=new)

    def _plan_rollback(self, state: CollectionState, target: CollectionState) -> _Amendment:
        store = self._committer.store
        net = NetChange.of(records_between(store, target.number, state.number))
        changed = {p.path: target.partition(p.path) for p in state.partitions.values() if not _same(p, target)}
        copies = {path: old for path, old in changed.items() if old.rows}
        for path, old in copies.items():
            _require_data(store.url, state.partition(path), old)
        moved = set().union(*(_moved(path, state, target) for path in changed))
        removed = [e for e in map(state.ledger.get, {*net.granules, *moved}) if e is not None]
        added = [e for e in map(target.ledger.get, {*net.removed, *moved}) if e is not None]
        config = target.config if target.config != state.config else None
        if not (changed or removed or added or config):
            raise InvalidInputError(f"{store.url}: record {target.number} has the content of the last commit already")
        leaving = tuple(state.ledger.living(entry) for entry in removed)
        coming = tuple(target.ledger.living(entry) for entry in added)
        shares = {path for entry in (*leaving, *coming) for path in entry.shares}
        return _Amendment(
            state.number,
            "rollback",
            (EVERYTHING,) if config else tuple(sorted({*changed, *shares})),
            copies,
            tuple(path for path, old in changed.items() if not old.rows),
            granules=coming,
            removed=leaving,
            withdrawn=tuple(replace(e, shares={}) for i, e in net.passing.items() if i not in target.ledger),
            config=config,
        )


def _same(partition: PartitionState, target: CollectionState) -> bool:
    old = target.partition(partition.path)
    return same_rows(partition if partition.rows else None, old if old.rows else None)


def _moved(path: str, state: CollectionState, target: CollectionState) -> set[int]:
    """Ids of granules with a share in a partition in one of two states only: they may be in all the same."""
    return {e.id for e in state.ledger.owners(path)} ^ {e.id for e in target.ledger.owners(path)}


def can_go_back(now: PartitionState, old: PartitionState) -> bool:
    """Tell whether a partition can get older rows again: the next generation must not go to their own key space."""
    return now.generation + 1 - old.generation < keyspaces.SPACES


def _require_data(url: str, now: PartitionState, old: PartitionState) -> None:
    if not can_go_back(now, old):
        raise SnapshotExpiredError(
            f"{url}: partition {old.path} was rewritten {now.generation - old.generation} times since; its old rows are"
            " gone",
            partition=old.path,
        )


def _with_attributes(schema: Schema, attributes: Mapping[str, Any], variable: str | None) -> Schema:
    if variable is None:
        return replace(schema, attributes=_merged(schema.attributes, attributes))
    if variable not in schema.by_path or variable == PROVENANCE:
        raise NotFoundError(f"no variable {variable!r}; there are {', '.join(schema.by_path)}")
    fixed = sorted(_MEANING & attributes.keys())
    if fixed:
        raise InvalidInputError(
            f"attribute {fixed[0]!r} of {variable!r} says what the stored numbers mean and cannot be changed"
        )
    changed = replace(schema[variable], attributes=_merged(schema[variable].attributes, attributes))
    return replace(schema, variables=tuple(changed if v.path == variable else v for v in schema.variables))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**old, **new}.items() if value is not None}
