"""What amendments do that leave the schema alone: drop partitions, roll back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zcollection_engine.amending import Amendment
from zcollection_engine.commits.records import EVERYTHING
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import StoredConfig, load_config
from zcollection_engine.errors import InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.history import NetChange, records_between, same_rows
from zcollection_engine.layout.formats import format_of
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectStore


def plan_drop(committer: Committer, state: CollectionState, paths: Sequence[str]) -> Amendment:
    """Empty partitions; their granules stay known, so that a redelivery does not bring them back.

    Raises
    ------
    NotFoundError
        If a partition has no rows.
    InvalidInputError
        If none is named.
    """
    for path in paths:
        if not state.partition(path).rows:
            raise NotFoundError(f"{committer.store.url}: no partition {path!r}; partitions() lists them")
    if not paths:
        raise InvalidInputError("name the partitions to be dropped; partitions() lists them")
    chosen = tuple(sorted(set(paths)))
    return Amendment(state.number, "drop", chosen, emptied=chosen, dropped=chosen)


def plan_rollback(committer: Committer, state: CollectionState, target: CollectionState) -> Amendment:
    """Give the collection the content it had, as a new commit; what came in since stays out when delivered again.

    Raises
    ------
    SnapshotExpiredError
        If the log no longer reaches back, or data of a partition are gone.
    InvalidInputError
        If the last commit has the same content.
    """
    store = committer.store
    net = NetChange.of(records_between(store, target.number, state.number))
    changed = {p.path: target.partition(p.path) for p in state.partitions.values() if not _same(p, target)}
    copies = {path: old for path, old in changed.items() if old.rows}
    for path, old in copies.items():
        _require_data(store.url, committer.config.schema, state.partition(path), old)
    moved = set().union(*(_moved(path, state, target) for path in changed))
    removed = [e for e in map(state.ledger.get, {*net.granules, *moved}) if e is not None]
    added = [e for e in map(target.ledger.get, {*net.removed, *moved}) if e is not None]
    config, new_config = _config_of(store, state, target)
    if not (changed or removed or added or config or new_config):
        raise InvalidInputError(f"{store.url}: record {target.number} has the content of the last commit already")
    leaving = tuple(state.ledger.living(entry) for entry in removed)
    coming = tuple(target.ledger.living(entry) for entry in added)
    shares = {path for entry in (*leaving, *coming) for path in entry.shares}
    return Amendment(
        state.number,
        "rollback",
        (EVERYTHING,) if config or new_config else tuple(sorted({*changed, *shares})),
        copies,
        tuple(path for path, old in changed.items() if not old.rows),
        granules=coming,
        removed=leaving,
        withdrawn=tuple(replace(e, shares={}) for i, e in net.passing.items() if i not in target.ledger),
        config=config,
        new_config=new_config,
    )


def _config_of(
    store: ObjectStore, state: CollectionState, target: CollectionState
) -> tuple[str | None, StoredConfig | None]:
    """The configuration to go back to: the old one, or one that also knows which variables there were since."""
    if target.config == state.config:
        return None, None
    now, then = load_config(store, state.config), load_config(store, target.config)
    present, past = set(now.config.schema.by_path), set(then.config.schema.by_path)
    if past - present:
        raise SnapshotExpiredError(
            f"{store.url}: {', '.join(sorted(past - present))} was dropped since; a variable that was dropped cannot"
            " come back with its values"
        )
    retired = tuple(sorted({*now.config.retired, *then.config.retired, *(present - past)}))
    if retired == then.config.retired:
        return target.config, None
    return None, replace(then, config=replace(then.config, retired=retired))


def _same(partition: PartitionState, target: CollectionState) -> bool:
    old = target.partition(partition.path)
    return same_rows(partition if partition.rows else None, old if old.rows else None)


def _moved(path: str, state: CollectionState, target: CollectionState) -> set[int]:
    """Ids of granules with a share in a partition in one of two states only: they may be in all the same."""
    return {e.id for e in state.ledger.owners(path)} ^ {e.id for e in target.ledger.owners(path)}


def can_go_back(schema: Schema, now: PartitionState, old: PartitionState) -> bool:
    """Tell whether a partition can get older rows again: their chunks must not have been written again."""
    return now.generation < format_of(schema).overwritten_by(old.generation)


def _require_data(url: str, schema: Schema, now: PartitionState, old: PartitionState) -> None:
    if not can_go_back(schema, now, old):
        raise SnapshotExpiredError(
            f"{url}: partition {old.path} was rewritten {now.generation - old.generation} times since; its old rows are"
            " gone",
            partition=old.path,
        )
