"""The ledger gives the same answers from memory and from the tables of checkpoints: those of plain dictionaries."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_support import entry
from tests.ledger_support import WHEN, LedgerModel, Step, change, commit_of, commits, loaded
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.ledger import EmptyBase, Ledger
from zcollection_engine.commits.records import Commit, Creation, Record
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.commits.tables import LedgerTables
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.stores.memory import MemoryStore

A, B = "cycle=1", "cycle=2"

steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(commits, commits, st.tuples(st.just("checkpoint")), st.tuples(st.just("reload"))), max_size=14
)


class Bench:
    """The same log in memory alone, and over checkpoints in a store."""

    def __init__(self) -> None:
        self.store = MemoryStore(f"memory://{uuid.uuid4().hex}")
        self.model = LedgerModel()
        self.plain = CollectionState()
        self.tabled = CollectionState()
        self.records: list[Record] = []
        self.append(Creation("first", WHEN))

    def append(self, record: Record) -> None:
        self.plain.apply(len(self.records), record)
        self.tabled.apply(len(self.records), record)
        self.records.append(record)
        if isinstance(record, Commit):
            self.model.apply(record)

    def do(self, step: Step) -> None:
        if step == ("checkpoint",):
            if self.tabled.checkpoint < self.tabled.number:
                Checkpoints(self.store).write(self.tabled)
        elif step == ("reload",):
            self.tabled = loaded(self.store, self.records)
        else:
            commit = commit_of(step, self.model, self.plain)
            if commit is not None:
                self.append(commit)

    def check(self) -> None:
        assert isinstance(self.plain.ledger.base, EmptyBase)
        self.model.check(self.plain.ledger)
        self.model.check(self.tabled.ledger)


@settings(max_examples=250)
@given(steps)
def test_any_series_of_commits_and_checkpoints_gives_the_answers_of_plain_dictionaries(series: list[Step]) -> None:
    bench = Bench()
    for step in series:
        bench.do(step)
        bench.check()
    bench.do(("checkpoint",))
    bench.check()
    bench.do(("reload",))
    assert isinstance(bench.tabled.ledger.base, LedgerTables)
    bench.check()
    bench.store.clear()


@pytest.fixture(params=[False, True], ids=["in memory", "in tables"])
def checkpointing(request: pytest.FixtureRequest) -> tuple[Step, ...]:
    """What is done between two commits."""
    return (("checkpoint",), ("reload",)) if request.param else ()


class Story(Bench):
    """Commits one after another, with a checkpoint and a reload between them, or without."""

    def __init__(self, between: tuple[Step, ...]) -> None:
        super().__init__()
        self._between = between

    def commit(
        self, *added: GranuleEntry, removed: tuple[GranuleEntry, ...] = (), dropped: tuple[str, ...] = ()
    ) -> None:
        touched = {path for e in (*added, *removed) for path in e.shares} | set(dropped)
        changes = {path: change(self.plain, path, int(path not in dropped)) for path in sorted(touched)}
        self.append(Commit("t", WHEN, 0, changes, added, removed, dropped=dropped))
        for step in self._between:
            self.do(step)
        self.check()

    @property
    def ledger(self) -> Ledger:
        return self.tabled.ledger


def test_a_granule_that_comes_back_after_it_was_taken_out_is_in_again(checkpointing: tuple[Step, ...]) -> None:
    story = Story(checkpointing)
    one = entry("k", 1, {A: [1], B: [2]})
    story.commit(one)
    story.commit(removed=(one,))
    assert story.ledger.was_removed(one.id)
    assert list(story.ledger) == []
    story.commit(one)
    assert not story.ledger.was_removed(one.id)
    assert list(story.ledger) == [one]
    assert story.ledger.get(one.id) == one


def test_a_granule_of_a_dropped_partition_stays_known_and_keeps_its_other_shares(
    checkpointing: tuple[Step, ...],
) -> None:
    story = Story(checkpointing)
    one = entry("k", 1, {A: [1], B: [2]})
    story.commit(one)
    story.commit(dropped=(A,))
    found = story.ledger.get(one.id)
    assert found is not None
    assert story.ledger.living(found).shares == {B: one.shares[B]}
    assert story.ledger.latest("bucket", "k") == found


def test_a_granule_that_lost_every_partition_is_known_without_shares(checkpointing: tuple[Step, ...]) -> None:
    story = Story(checkpointing)
    one = entry("k", 1, {A: [1]})
    story.commit(one)
    story.commit(dropped=(A,))
    story.commit(removed=(story.model.living(one.id),))
    bare = GranuleEntry(one.identity, one.url, one.precedence, {})
    story.commit(bare)
    assert story.ledger.get(one.id) == bare
    assert story.ledger.latest("bucket", "k") == bare
    assert list(story.ledger) == [bare]
    story.commit(entry("l", 1, {A: [7]}))
    assert story.ledger.get(one.id) == bare


def test_a_partition_that_fills_again_after_it_was_dropped_has_only_what_came_since(
    checkpointing: tuple[Step, ...],
) -> None:
    story = Story(checkpointing)
    old, new = entry("k", 1, {A: [1]}), entry("l", 1, {A: [3]})
    story.commit(old)
    story.commit(dropped=(A,))
    story.commit(new)
    assert story.ledger.owners(A) == [new]
    assert story.ledger.count(A) == 1
    assert {e.id for e in story.ledger} == {old.id, new.id}


def test_a_key_is_found_in_its_own_bucket_only(checkpointing: tuple[Step, ...]) -> None:
    story = Story(checkpointing)
    one = entry("k", 1, {A: [1]})
    story.commit(one)
    assert story.ledger.latest("bucket", "k") == one
    assert story.ledger.latest("", "k") is None
    assert story.ledger.latest("bucket", "") is None


def test_lookups_are_ready_after_warming(checkpointing: tuple[Step, ...]) -> None:
    story = Story(checkpointing)
    story.commit(entry("k", 1, {A: [1]}))
    story.ledger.warm()
    if isinstance(story.ledger.base, LedgerTables):
        assert story.ledger.base.index is not None
