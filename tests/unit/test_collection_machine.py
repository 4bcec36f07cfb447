"""Any series of changes by one writer, against the definition of what a collection holds."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import xarray as xr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine_support import (
    DAY_16,
    DAY_17,
    FakeClock,
    Rows,
    S3LikeStore,
    engine_rows,
    heights,
    offer_of,
    plain_columns,
    plain_rows,
    rows_of,
    small_schema,
)
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.commits.opening import Moment
from zcollection_engine.errors import SnapshotExpiredError
from zcollection_engine.granules.model import Granule
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.ingest import LocalExecutor
from zcollection_engine.layout.formats import Format, format_of
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.planning import Verdict
from zcollection_engine.transaction import WriterOptions

DAY = 86_400
HOUR = 3_600
PATHS = (DAY_16, DAY_17)


@dataclass
class Held:
    """A granule that is in: its rows in the partitions in which it still has a share."""

    entry: GranuleEntry
    rows: dict[str, Rows]


@dataclass
class Content:
    """What a collection holds, and where the engine keeps it."""

    held: dict[int, Held] = field(default_factory=dict)
    title: str = "a small collection"
    #: Generation and rows by path, as the engine tells them: what decides how long rows can be read.
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def rows(self) -> dict[str, Rows]:
        """The definition: no row that a granule of a higher rank owns."""
        found: dict[str, Rows] = {}
        ranked = sorted(self.held.values(), key=lambda h: h.entry.rank)
        for path in PATHS:
            shares = [h.rows[path] for h in ranked if path in h.rows]
            kept = [
                (row[0], rank, row)
                for rank, share in enumerate(shares)
                for row in share
                if not any(higher[0][0] <= row[0] <= higher[-1][0] for higher in shares[rank + 1 :])
            ]
            if kept:
                found[path] = [row for _, _, row in sorted(kept)]
        return found

    def owners(self, path: str) -> list[int]:
        return [i for i, h in sorted(self.held.items(), key=lambda item: item[1].entry.rank) if path in h.rows]

    def may_be_gone(self, now: Content, paths: Sequence[str], layout: Format) -> bool:
        """Whether rows of this content lie where later generations were written."""
        known = [p for p in paths if p in self.places]
        return any(now.places[p][0] >= layout.overwritten_by(self.places[p][0]) for p in known)


class Sources(LocalExecutor):
    """Reads every granule again that was ever committed."""

    def __init__(self, store: S3LikeStore) -> None:
        super().__init__(store)
        self.payloads: dict[int, Granule] = {}

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Granule]:
        return {e.id: self.payloads[e.id] for e in entries}


class CollectionMachine(RuleBasedStateMachine):
    """Deliveries, drops, rollbacks, checkpoints and restarts of one writer; readers of any commit."""

    schema = small_schema(chunk_rows=3)

    @initialize(every=st.sampled_from([1, 7, 1000]))
    def create(self, every: int) -> None:
        self.clock = FakeClock()
        self.store = S3LikeStore(f"memory://{uuid.uuid4().hex}", self.clock)
        self.options = WriterOptions("me", checkpoint_records=every)
        self.writer = create_collection(
            self.store,
            self.schema,
            DatePartitioning("time", "day"),
            writer=self.options,
            clock=self.clock,
        )
        self.sources = Sources(self.store)
        self.now = Content()
        self.ever: set[int] = set()
        self.commits: dict[int, Content] = {0: Content()}
        self.times: dict[int, Any] = {}
        self.reader = open_collection(self.store)
        self.read_at = 0

    def committed(self, number: int) -> None:
        self.now.places = {p: (s.generation, s.rows) for p, s in self.writer.state.partitions.items()}
        self.commits[number] = copy.deepcopy(self.now)
        self.times[number] = self.writer.state.last_time
        assert number == self.writer.commit == max(self.commits)

    @rule(
        key=st.sampled_from("pqrst"),
        precedence=st.integers(0, 4),
        hours=st.sets(st.integers(0, 47), min_size=1, max_size=5),
        offset=st.integers(0, 99),
    )
    def deliver(self, key: str, precedence: int, hours: set[int], offset: int) -> None:
        self._offer(key, precedence, sorted(hours), offset)

    @rule(
        key=st.sampled_from("uvwxyz"), precedence=st.integers(0, 4), first=st.integers(20, 40), count=st.integers(1, 4)
    )
    def deliver_the_latest(self, key: str, precedence: int, first: int, count: int) -> None:
        """Mostly behind everything else, so that rows are appended, too."""
        last = max((r[0] for h in self.now.held.values() for rows in h.rows.values() for r in rows), default=0) // HOUR
        start = max(first, last + 1)
        if start + count < 48:
            self._offer(key, precedence, list(range(start, start + count)), 0)

    def _offer(self, key: str, precedence: int, hours: list[int], offset: int) -> None:
        seconds = [h * HOUR for h in hours]
        offer = offer_of(self.writer, heights(seconds, offset=offset), key, precedence=precedence)
        entry = offer.entry
        expected = self._verdict(entry)
        outcome = self.writer.commit_offers([offer], self._executor(entry.id, offer.payload, expected))
        assert outcome.verdicts == {entry.id: expected}
        assert outcome.lost == ()
        if expected is not Verdict.COMMITTED:
            assert outcome.commit is None
            return
        for identity in [i for i, h in self.now.held.items() if h.entry.identity.key == key]:
            del self.now.held[identity]
        rows: dict[str, Rows] = {}
        for second in seconds:
            rows.setdefault(PATHS[second // DAY], []).append((second, second + offset))
        self.now.held[entry.id] = Held(entry, rows)
        self.ever.add(entry.id)
        assert outcome.commit is not None
        self.committed(outcome.commit)

    def _executor(self, identity: int, payload: Granule, expected: Verdict) -> Sources:
        if expected is Verdict.COMMITTED:
            self.sources.payloads[identity] = payload
        return self.sources

    def _verdict(self, entry: GranuleEntry) -> Verdict:
        if entry.id in self.now.held:
            return Verdict.KNOWN
        present = [h.entry for h in self.now.held.values() if h.entry.identity.key == entry.identity.key]
        if present and present[0].rank > entry.rank:
            return Verdict.SUPERSEDED
        return Verdict.WITHDRAWN if entry.id in self.ever else Verdict.COMMITTED

    @precondition(lambda self: self.now.rows())
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        paths = data.draw(st.sets(st.sampled_from(sorted(self.now.rows())), min_size=1))
        number = self.writer.drop_partitions(sorted(paths))
        for held in self.now.held.values():
            for path in paths:
                held.rows.pop(path, None)
        self.committed(number)

    @precondition(lambda self: len(self.commits) > 1)
    @rule(data=st.data(), by_time=st.booleans())
    def roll_back(self, data: st.DataObject, by_time: bool) -> None:
        # Recent commits are the ones whose rows are still there.
        number = data.draw(st.sampled_from(sorted(self.commits)[-4:]))
        self._roll_back(number, self.times[number] if by_time and number in self.times else number)

    @precondition(lambda self: len(self.commits) > 1)
    @rule(times=st.integers(1, 2))
    def undo(self, times: int) -> None:
        """Undone twice, it is done again."""
        for _ in range(times):
            number = sorted(self.commits)[-2]
            self._roll_back(number, number)

    def _roll_back(self, number: int, to: Moment) -> None:
        then = self.commits[number]
        if self._is_same(then):
            return
        changed = [p for p, place in then.places.items() if place[1] and self.now.places[p] != place]
        expired = then.may_be_gone(self.now, changed, format_of(self.schema))
        before = {i.key: i.etag for i in self.store.list()}
        try:
            made = self.writer.rollback(to)
        except SnapshotExpiredError:
            assert expired
            assert {i.key: i.etag for i in self.store.list()} == before
            return
        assert not expired
        self.now = copy.deepcopy(then)
        self.committed(made)

    def _is_same(self, then: Content) -> bool:
        shares = [{i: sorted(h.rows) for i, h in content.held.items()} for content in (self.now, then)]
        places = [{p: s for p, s in content.places.items() if s[1]} for content in (self.now, then)]
        return shares[0] == shares[1] and places[0] == places[1] and self.now.title == then.title

    @rule(title=st.sampled_from(["one", "two"]))
    def set_title(self, title: str) -> None:
        self.now.title = title
        self.committed(self.writer.set_attributes({"title": title}))

    @rule()
    def checkpoint(self) -> None:
        self.writer.checkpoint()

    @rule()
    def restart(self) -> None:
        self.writer = open_collection(self.store, mode="w", writer=self.options, clock=self.clock)

    @rule()
    def refresh_the_reader(self) -> None:
        self.reader.refresh()
        self.read_at = max(self.commits)
        self._check_view(self.reader, self.now)

    @rule()
    def read_as_of_the_last_refresh(self) -> None:
        self._check_view(self.reader, self.commits[self.read_at])

    @rule(data=st.data(), by_time=st.booleans())
    def read_an_older_commit(self, data: st.DataObject, by_time: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.commits)))
        at = self.times[number] if by_time and number in self.times else number
        self._check_view(open_collection(self.store, at=at), self.commits[number])

    def _check_view(self, view: Collection, content: Content) -> None:
        expected = content.rows()
        assert {p.path: (p.rows, p.granules) for p in view.partitions()} == {
            path: (len(rows), len(content.owners(path))) for path, rows in expected.items()
        }
        assert sorted(e.id for e in view.granules()) == sorted(content.held)
        assert view.schema.attributes["title"] == content.title
        try:
            loaded = view.load(decode=False)
            assert isinstance(loaded, xr.Dataset)
            found = rows_of(loaded)
        except SnapshotExpiredError:
            assert content.may_be_gone(self.now, sorted(expected), format_of(self.schema))
            return
        assert found == [row for path in PATHS for row in expected.get(path, [])]

    @invariant()
    def every_reader_sees_what_the_definition_says(self) -> None:
        expected = self.now.rows()
        assert engine_rows(self.store) == expected
        assert plain_rows(self.store) == expected
        columns = {path: values for path, values in plain_columns(self.store, "height").items() if values}
        assert columns == {path: [h for _, h in rows] for path, rows in expected.items()}

    @invariant()
    def the_ledger_is_that_of_the_definition(self) -> None:
        for ledger in (self.writer.state.ledger, open_collection(self.store).state.ledger):
            assert len(ledger) == len(self.now.held)
            assert sorted(e.id for e in ledger) == sorted(self.now.held)
            for path in PATHS:
                assert [e.id for e in ledger.owners(path)] == self.now.owners(path)
            assert {i for i in self.ever if ledger.was_removed(i)} == self.ever - self.now.held.keys()
        assert self.writer.state.held == {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.clear()


class Zarr2Machine(CollectionMachine):
    """The same in Zarr v2, where rewrites are copied to what plain readers read."""

    schema = replace(CollectionMachine.schema, zarr_format=2)


TestCollection = CollectionMachine.TestCase
TestCollection.settings = settings(max_examples=25, stateful_step_count=25)

TestZarr2Collection = Zarr2Machine.TestCase
TestZarr2Collection.settings = settings(max_examples=25, stateful_step_count=25)
