"""Histories of granules, and a collection without files: plans carried out on plain arrays, as the jobs do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

from tests.merge_oracles import Given, Kept, Row
from zcollection_engine.commits.records import Commit, Creation, PartitionChange
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Candidates, Change, Share, Strategy, origins, select
from zcollection_engine.planning import MergeRules, PartitionPlan, Plan, make_plan

NOW = datetime(2024, 1, 1, tzinfo=UTC)

#: Partitions, and the axis value at which the second one begins.
A, B, EDGE = "cycle=1", "cycle=2", 8

#: Columns of a row, the axis first.
COLUMNS = ("time", "x", "word")
_XS = (0.5, -0.5, float("nan"), float("nan"))
_WORDS = ("", "a", "a\0", "ab")
_KEYS = "pqrst"

Content = dict[str, list[Kept]]
Oracle = Callable[[Iterable[Given]], list[Kept]]


def examples(times_default: float) -> settings:
    """So many times the examples of the hypothesis profile in force (100 by default)."""
    return settings(max_examples=round(times_default * settings().max_examples))


@dataclass(frozen=True)
class Version:
    """A version of a granule; rows as in `COLUMNS`."""

    key: str
    precedence: int
    rows: tuple[Row, ...]

    @cached_property
    def identity(self) -> GranuleIdentity:
        return GranuleIdentity("bucket", self.key, f"{self.precedence} {self.rows}", len(self.rows))

    @cached_property
    def id(self) -> int:
        return self.identity.id

    @property
    def rank(self) -> tuple[Any, ...]:
        return (self.precedence, self.key, self.identity.etag)

    def entry(self, strategy: Strategy) -> GranuleEntry:
        parts = {path: [row[0] for _, row in self.share(path)] for path in (A, B)}
        shares = {p: Share(len(v), strategy.intervals(np.array(v, np.int64))) for p, v in parts.items() if v}
        return GranuleEntry(self.identity, f"s3://bucket/{self.key}", (self.precedence,), shares)

    def share(self, path: str) -> list[tuple[int, Row]]:
        """(place, row) of the rows in a partition."""
        return [(place, row) for place, row in enumerate(self.rows) if (A if row[0] < EDGE else B) == path]


@dataclass(frozen=True)
class Retract:
    """A step that takes out what is in of a key, if anything is."""

    key: str


Step = list[Version] | Retract


def _version(drawn: bytes) -> Version:
    """One draw for a whole version: many small ones take hypothesis longer than the merging."""
    first, *others = drawn
    precedence, key = divmod(first, len(_KEYS))
    rows = tuple((byte % (2 * EDGE), _XS[byte >> 4 & 3], _WORDS[byte >> 6]) for byte in others)
    return Version(_KEYS[key], precedence % 4, rows)


versions = st.binary(min_size=1, max_size=8).map(_version)
batches = st.lists(versions, min_size=1, max_size=3)
deliveries = st.lists(batches, min_size=1, max_size=5)
steps: st.SearchStrategy[Step] = st.one_of(batches, batches, st.sampled_from(_KEYS).map(Retract))
histories = st.lists(steps, min_size=1, max_size=6)


class Model:
    """Which granules are in: of each key the newest version that was not taken out on purpose."""

    def __init__(self) -> None:
        self.present: dict[str, Version] = {}
        self.withdrawn: set[int] = set()

    def deliver(self, batch: Iterable[Version]) -> None:
        for version in batch:
            known = self.present.get(version.key)
            if version.id not in self.withdrawn and (known is None or known.rank < version.rank):
                self.present[version.key] = version

    def retract(self, key: str) -> Version | None:
        version = self.present.pop(key, None)
        if version is not None:
            self.withdrawn.add(version.id)
        return version

    def content(self, oracle: Oracle) -> Content:
        return merged(oracle, self.present.values())


def merged(oracle: Oracle, granules: Iterable[Version]) -> Content:
    """What an oracle makes of a set of granules, by partition; (id, place) of each row."""
    granules = list(granules)
    found = {}
    for path in (A, B):
        places = {version.id: [place for place, _ in version.share(path)] for version in granules}
        given = [Given(v.id, v.rank, [row for _, row in v.share(path)]) for v in granules if v.share(path)]
        found[path] = [(name, places[name][number]) for name, number in oracle(given)]
    return {path: kept for path, kept in found.items() if kept}


Table = Mapping[str, npt.NDArray[Any]]


class MergeLedger:
    """A collection in memory.

    Parameters
    ----------
    strategy
        Its strategy.
    provenance
        Whether rows tell their granule. What the test compares is kept apart from that.
    rewrite
        Merge with all existing rows, whatever the plan says.
    """

    def __init__(self, strategy: Strategy, *, provenance: bool = True, rewrite: bool = False) -> None:
        self.strategy = strategy
        self.provenance = provenance
        self.rewrite = rewrite
        self.state = CollectionState()
        self.state.apply(0, Creation("t", NOW))
        self.sources: dict[int, Version] = {}
        self.tables: dict[str, Table] = {}
        self.changes: set[Change] = set()

    def deliver(self, batch: Sequence[Version], gone: Iterable[int] = ()) -> Plan:
        self.sources.update({version.id: version for version in batch})
        return self._run([version.entry(self.strategy) for version in batch], [], gone)

    def retract(self, version: Version, gone: Iterable[int] = ()) -> Plan:
        found = self.state.ledger.get(version.id)
        assert found is not None
        return self._run([], [found], gone)

    def content(self) -> Content:
        pairs = {p: zip(t["source"].tolist(), t["place"].tolist(), strict=True) for p, t in self.tables.items()}
        return {path: found for path, kept in pairs.items() if (found := list(kept))}

    def _run(self, offered: Sequence[GranuleEntry], retracted: Sequence[GranuleEntry], gone: Iterable[int]) -> Plan:
        rules = MergeRules(self.strategy, self.provenance)
        plan = make_plan(self.state, rules, offered, retracted=retracted, gone=set(gone))
        changes = {}
        for planned in plan.partitions:
            self.changes.add(planned.change)
            part = replace(planned, change=Change.REWRITE) if self.rewrite else planned
            if part.change is not Change.NONE:
                self.tables[part.path] = self._merge(part)
                times = self.tables[part.path]["time"]
                bounds = (int(times.min()), int(times.max())) if times.size else None
                changes[part.path] = PartitionChange(times.size, 0, bounds)
        withdrawn = tuple(replace(e, shares={}) for e in plan.retracted)
        commit = Commit("t", NOW, 0, changes, plan.accepted, plan.replaced, withdrawn=withdrawn)
        self.state.apply(self.state.number + 1, commit)
        return plan

    def _merge(self, part: PartitionPlan) -> Table:
        present = self.tables.get(part.path, _table([], part.path))
        base = _table([], part.path) if part.change is Change.APPEND else present
        inserted = _table([self.sources[e.id] for e in part.inserted], part.path)
        joined = _joined(base, inserted)
        before = base["source"] if self.provenance else self._told(base["time"], part)
        candidates = Candidates(
            joined["time"],
            np.concatenate([before, inserted["source"]]),
            base["time"].size,
            {path: joined[path] for path in self.strategy.columns},
        )
        owners = [(e.id, e.shares[part.path].intervals) for e in part.owners]
        selection = select(self.strategy, candidates, owners, removed=part.removed)
        kept = {name: values[selection.take] for name, values in joined.items()}
        return _joined(present, kept) if part.change is Change.APPEND else kept

    def _told(self, axis: npt.NDArray[Any], part: PartitionPlan) -> npt.NDArray[np.uint64]:
        return origins(self.strategy, axis, [(e.id, e.shares[part.path].intervals) for e in part.present])


def _joined(first: Table, second: Table) -> Table:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _table(granules: Sequence[Version], path: str) -> Table:
    found = [(*row, version.id, place) for version in granules for place, row in version.share(path)]
    columns = list(zip(*found, strict=True)) or [()] * 5
    dtypes: tuple[type, ...] = (np.int64, np.float64, object, np.uint64, np.int64)
    names = (*COLUMNS, "source", "place")
    return {name: np.array(values, dtype) for name, values, dtype in zip(names, columns, dtypes, strict=True)}


def check_history(
    history: Sequence[Step], strategy: Strategy, oracle: Oracle, *, provenance: bool = True, rewrite: bool = False
) -> None:
    """See that after each step the rows are those that the oracle makes of the set of granules that are in.

    Histories deliver granules in any order and batching, so none of these can matter.
    """
    ledger, model = MergeLedger(strategy, provenance=provenance, rewrite=rewrite), Model()
    for step in history:
        if isinstance(step, Retract):
            if (version := model.retract(step.key)) is not None:
                ledger.retract(version)
        else:
            model.deliver(step)
            ledger.deliver(step)
        assert {e.id for e in ledger.state.ledger} == {v.id for v in model.present.values()}
        assert ledger.content() == model.content(oracle)


def check_history_with_sources_gone(
    history: Sequence[Step], strategy: Strategy, oracle: Oracle, *, key: Callable[[Row], Any] | None = None
) -> None:
    """See what remains where no granule can be read again: of each row that is missing the granule is named.

    No row is there twice or out of its order, and none that should not be. With a ``key``, a row of a lower granule may
    stand where the one that should is missing.
    """
    ledger, model = MergeLedger(strategy), Model()
    lost: set[int] = set()
    for step in history:
        before = {e.id for e in ledger.state.ledger}
        if isinstance(step, Retract):
            version = model.retract(step.key)
            plan = ledger.retract(version, before) if version is not None else None
        else:
            model.deliver(step)
            plan = ledger.deliver(step, before)
        assert plan is None or not plan.restored
        lost |= {e.id for e in plan.lost} if plan is not None else set()
        expected = model.content(oracle)
        missing = {row for path, rows in expected.items() for row in rows if row not in ledger.content().get(path, [])}
        assert {identity for identity, _ in missing} <= lost
        for path, found in ledger.content().items():
            wanted = set(expected.get(path, []))
            assert [row for row in found if row in wanted] == [row for row in expected.get(path, []) if row in found]
            strange = [row for row in found if row not in wanted]
            assert not strange or key is not None
            _check_substitutes(strange, missing, ledger.sources, key)


def _check_substitutes(
    strange: Sequence[Kept], missing: Iterable[Kept], sources: Mapping[int, Version], key: Callable[[Row], Any] | None
) -> None:
    """Each row that should not be there stands alone for one that is missing."""
    if key is not None:
        stand_ins = [key(sources[identity].rows[place]) for identity, place in strange]
        assert len(set(stand_ins)) == len(stand_ins)
        assert set(stand_ins) <= {key(sources[identity].rows[place]) for identity, place in missing}
