"""Random logs for tests of the ledger and of checkpoints, and what they mean by plain dictionaries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.engine_support import entry
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.ledger import Ledger
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import (
    EVERYTHING,
    Commit,
    Creation,
    Grant,
    PartitionChange,
    Record,
    Release,
    Renewal,
)
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.stores.base import ObjectStore

WHEN = datetime(2024, 1, 1, tzinfo=UTC)
PATHS = ("cycle=1", "cycle=2", "cycle=3")
KEYS = "pqrs"

Step = tuple[Any, ...]


@dataclass
class LedgerModel:
    """A ledger as the definition has it."""

    present: dict[int, GranuleEntry] = field(default_factory=dict)
    shares: dict[int, set[str]] = field(default_factory=dict)
    known: dict[int, GranuleEntry] = field(default_factory=dict)

    def apply(self, commit: Commit) -> None:
        for gone in commit.removed:
            del self.present[gone.id], self.shares[gone.id]
        for path in commit.dropped:
            for paths in self.shares.values():
                paths.discard(path)
        for new in commit.granules:
            self.present[new.id] = self.known[new.id] = new
            self.shares[new.id] = set(new.shares)

    def of_key(self, key: str) -> GranuleEntry | None:
        found = [e for e in self.present.values() if e.identity.key == key]
        assert len(found) <= 1
        return found[0] if found else None

    def living(self, identity: int) -> GranuleEntry:
        found = self.present[identity]
        return replace(found, shares={p: s for p, s in found.shares.items() if p in self.shares[identity]})

    def owners(self, path: str) -> list[GranuleEntry]:
        return sorted((e for i, e in self.present.items() if path in self.shares[i]), key=lambda e: e.rank)

    def check(self, ledger: Ledger) -> None:
        """Compare every answer of a ledger."""
        assert len(ledger) == len(self.present)
        assert sorted(e.id for e in ledger) == sorted(self.present)
        for path in (*PATHS, "cycle=4"):
            owners = ledger.owners(path)
            assert [(e.identity, e.rank, e.shares[path]) for e in owners] == [
                (e.identity, e.rank, e.shares[path]) for e in self.owners(path)
            ]
            assert ledger.count(path) == len(owners)
        for identity in self.known:
            expected = self.present.get(identity)
            found = ledger.get(identity)
            assert (identity in ledger) is (expected is not None)
            assert ledger.was_removed(identity) is (expected is None)
            assert (
                (found.identity, found.url, found.rank)
                == ((expected.identity, expected.url, expected.rank) if expected else (None, None, None))
                if found
                else expected is None
            )
            if found is not None:
                assert ledger.living(found) == self.living(identity)
        for key in (*KEYS, "never"):
            latest, of_key = ledger.latest("bucket", key), self.of_key(key)
            assert (latest.id if latest else None) == (of_key.id if of_key else None)
            assert ledger.latest("other", key) is None
        assert (ledger.get(7), 7 in ledger, ledger.was_removed(7)) == (None, False, False)


def change(state: CollectionState, path: str, rows: int) -> PartitionChange:
    old = state.partition(path)
    return PartitionChange(rows, old.generation + 1, (0, rows) if rows else None, WHEN)


def commit_of(step: Step, model: LedgerModel, state: CollectionState) -> Commit | None:
    """The commit that a step stands for; None if it does not fit what is in."""
    kind, *arguments = step
    dropped: tuple[str, ...] = ()
    removed: list[GranuleEntry] = []
    added: list[GranuleEntry] = []
    if kind == "add":
        added = _new_versions(model, *arguments)
        removed = _replaced(model, added)
    elif kind == "take" and model.present:
        removed = [model.living(_nth(model.present, *arguments))]
    elif kind == "back" and model.known.keys() - model.present.keys():
        added = [model.known[_nth(model.known.keys() - model.present.keys(), *arguments)]]
        removed = _replaced(model, added)
    elif kind == "again" and model.present:
        # A rollback takes a granule out and in again when its shares have changed.
        number, kept = arguments
        chosen = model.present[_nth(model.present, number)]
        removed = [model.living(chosen.id)]
        added = [replace(chosen, shares={p: s for p, s in chosen.shares.items() if p in kept})]
    elif kind == "drop":
        dropped = tuple(sorted(p for p in arguments[0] if p in state.partitions))
    if not (removed or added or dropped):
        return None
    touched = {path for e in (*removed, *added) for path in e.shares}
    changes = {p: change(state, p, 1) for p in sorted(touched)} | {p: change(state, p, 0) for p in dropped}
    return Commit(
        uuid.uuid4().hex, WHEN, 0, changes, tuple(added), tuple(removed), operation=OPERATIONS[kind], dropped=dropped
    )


OPERATIONS = {"add": "merge", "take": "rollback", "back": "rollback", "again": "rollback", "drop": "drop"}


def _nth(ids: Iterable[int], number: int) -> int:
    found = sorted(ids)
    return found[number % len(found)]


def _new_versions(model: LedgerModel, batch: Sequence[tuple[str, int, set[str]]]) -> list[GranuleEntry]:
    made = [
        entry(key, precedence, {path: [1, 5] for path in sorted(paths)}, etag=f"{precedence} {sorted(paths)}")
        for key, precedence, paths in batch
    ]
    return [e for e in {e.identity.key: e for e in made}.values() if e.id not in model.present]


def _replaced(model: LedgerModel, added: Iterable[GranuleEntry]) -> list[GranuleEntry]:
    return [model.living(old.id) for e in added if (old := model.of_key(e.identity.key)) is not None]


paths = st.sets(st.sampled_from(PATHS), min_size=1)
commits: st.SearchStrategy[Step] = st.one_of(
    st.tuples(
        st.just("add"),
        st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 2), paths), min_size=1, max_size=3),
    ),
    st.tuples(st.just("take"), st.integers(0, 9)),
    st.tuples(st.just("back"), st.integers(0, 9)),
    st.tuples(st.just("again"), st.integers(0, 9), st.sets(st.sampled_from(PATHS))),
    st.tuples(st.just("drop"), paths),
)


def records_of(steps: Sequence[Step]) -> list[Record]:
    """A log whose commits, grants and configurations follow from steps."""
    state, model = CollectionState(), LedgerModel()
    records: list[Record] = []

    def append(record: Record) -> None:
        state.apply(len(records), record)
        records.append(record)
        if isinstance(record, Commit):
            model.apply(record)

    append(Creation("first", WHEN))
    for step in steps:
        now = WHEN + timedelta(minutes=len(records))
        match step:
            case ("grant", paths, owner):
                wanted = tuple(sorted(paths)) or (EVERYTHING,)
                append(Grant(uuid.uuid4().hex, now, owner, "s", 30.0, wanted))
            case ("renew", number):
                append(Renewal("t", now, number % len(records)))
            case ("release", number):
                append(Release("t", now, number % len(records)))
            case ("config", name):
                append(Commit(uuid.uuid4().hex, now, 0, {}, operation="attributes", config=name))
            case ("published",):
                append(Commit(uuid.uuid4().hex, now, 0, {}, published=state.last_commit))
            case _:
                commit = commit_of(step, model, state)
                if commit is not None:
                    append(replace(commit, time=now, token=max((h.token for h in state.held.values()), default=0)))
    return records


any_step: st.SearchStrategy[Step] = st.one_of(
    commits,
    st.tuples(st.just("grant"), st.sets(st.sampled_from(PATHS)), st.sampled_from(["me", "other"])),
    st.tuples(st.just("renew"), st.integers(0, 9)),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("config"), st.sampled_from(["second", "third"])),
    st.tuples(st.just("published")),
)


def write_log(store: ObjectStore, records: Sequence[Record]) -> None:
    log = CommitLog(store)
    for number, record in enumerate(records):
        log.append(number, record)


def folded(records: Sequence[Record]) -> CollectionState:
    state = CollectionState()
    state.apply_all(enumerate(records))
    return state


def loaded(store: ObjectStore, records: Sequence[Record]) -> CollectionState:
    """The newest checkpoint in a store with the records behind it."""
    checkpoints = Checkpoints(store)
    numbers = checkpoints.numbers()
    state = checkpoints.load(numbers[-1]) if numbers else CollectionState()
    state.apply_all(list(enumerate(records))[state.number + 1 :])
    return state


def table_of(ledger: Ledger) -> dict[str, Any]:
    """Everything a ledger says of partitions and granules, in plain values."""
    return {
        "size": len(ledger),
        "granules": sorted((e.id, e.rank, e.url) for e in ledger),
        "shares": {path: [(e.id, e.shares[path]) for e in ledger.owners(path)] for path in PATHS},
        "counts": {path: ledger.count(path) for path in PATHS},
        "keys": {key: (found.id if (found := ledger.latest("bucket", key)) else None) for key in KEYS},
    }
