"""One schedule: a collection on a shared store, writers and readers, and what must hold at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

from tests.exploration.granules import DAY_SECONDS, Specimen, configuration, contents, newest, offer_of, whole
from tests.exploration.observer import Observer
from zcollection_engine import Collection, config, create_collection, open_collection
from zcollection_engine.errors import BusyError, ConflictError, StorageError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.ingest import LocalExecutor
from zcollection_engine.planning import Verdict
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.testing.processes import Disturbances, Process
from zcollection_engine.testing.schedule import Schedule, VirtualClock
from zcollection_engine.testing.scheduled import ScheduledStore, VirtualMemoryStore
from zcollection_engine.transaction import Outcome, WriterOptions

URL = "memory://exploration/shared"

#: Makes the store that all processes of a schedule share.
StoreFactory = Callable[[str, Schedule], VirtualMemoryStore]


@dataclass(frozen=True)
class Settings:
    """What a schedule is like.

    Attributes
    ----------
    writers, actions
        How many writers, and how many actions each of them carries out.
    plain_readers, engine_readers
        How many of each.
    grace, grant
        ``reader_grace`` and ``grant_seconds`` of every writer, seconds.
    skew
        Greatest error of a wall clock, seconds.
    lenient
        See `Observer`.
    amending
        Whether partitions are dropped and commits rolled back; the content then depends on the order.
    weights
        Of actions, where others than those of the table are wanted.
    zarr_format
        Of the collection.
    """

    writers: int = 3
    actions: int = 3
    plain_readers: int = 2
    engine_readers: int = 0
    grace: float = 12.0
    grant: float = 8.0
    skew: float = 20.0
    disturbances: Disturbances = field(default_factory=Disturbances)
    lenient: bool = False
    amending: bool = False
    weights: Mapping[str, int] = field(default_factory=dict)
    zarr_format: int = 3


def settings_for(seed: int) -> Settings:
    """Settings drawn from a seed: calm schedules, troubled ones, with and without reader_grace."""
    kind = seed % 5
    if kind == 0:
        return Settings(disturbances=Disturbances(pause=0.002, longest=30.0))
    troubled = Disturbances(
        pause=0.004,
        death=0.0012,
        presumed=0.0006,
        slow=0.004,
        failed=0.002,
        lost=0.003,
        longest=24.0,
        deaths=3,
        latency=0.08,
    )
    if kind == 1:
        return Settings(disturbances=troubled, engine_readers=1)
    if kind == 2:
        return Settings(disturbances=troubled, grace=0.0, plain_readers=0, engine_readers=2)
    if kind == 3:
        return Settings(disturbances=troubled, actions=4)
    return Settings(disturbances=troubled, actions=4, amending=True, engine_readers=1)


class Catalogue:
    """Makes granules: some that follow all others, some that come late, overlap, or replace another version."""

    def __init__(self, schedule: Schedule) -> None:
        self._random = schedule.random
        self._number = 0
        self._end = DAY_SECONDS - 60
        self.made: list[Specimen] = []

    def following(self) -> Specimen:
        """Rows behind all others; sooner or later in the second partition."""
        start = self._end + self._random.randrange(1, 4)
        return self._make(start, self._random.randrange(1, 5), step=self._random.choice((1, 1, 20)))

    def late(self) -> Specimen:
        """Rows before or among others, of the lowest precedence or the highest."""
        return self._make(DAY_SECONDS - self._random.randrange(1, 80), self._random.randrange(1, 4))

    def overlapping(self) -> Specimen:
        """An interval that covers rows of others."""
        return self._make(DAY_SECONDS - self._random.randrange(-6, 60), 2, step=self._random.randrange(2, 9))

    def midnight(self) -> Specimen:
        """Rows in both partitions."""
        return self._make(DAY_SECONDS - 2, 4)

    def empty(self) -> Specimen:
        """Rows behind all others, of fill values."""
        return self._make(self._end + 1, self._random.randrange(2, 5), number=0)

    def again(self) -> Specimen:
        """A granule that was delivered before."""
        return self._random.choice(self.made) if self.made else self.following()

    def newer(self) -> Specimen:
        """Another version of an object, with other rows; versions may arrive in any order."""
        if not self.made:
            return self.following()
        old = self._random.choice(self.made)
        start = old.seconds[0] + self._random.randrange(0, 3)
        return self._make(start, len(old.seconds), key=old.key, version=self._number + 2)

    def _make(
        self,
        start: int,
        rows: int,
        *,
        step: int = 1,
        key: str | None = None,
        version: int = 1,
        number: int | None = None,
    ) -> Specimen:
        self._number += 1
        seconds = tuple(start + i * step for i in range(rows))
        made = Specimen(
            key or f"granule-{self._number}",
            version,
            self._random.randrange(1, 5) if version == 1 else 4 + version,
            self._number if number is None else number,
            seconds,
        )
        self._end = max(self._end, seconds[-1])
        self.made.append(made)
        return made


class World:
    """What the tasks of one schedule share."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        store: StoreFactory = VirtualMemoryStore,
        observer: type[Observer] = Observer,
    ) -> None:
        self.settings = settings
        self.schedule = Schedule(seed, settings.disturbances)
        self.store = store(URL, self.schedule)
        for key, data in _new_collection(settings.zarr_format).items():
            self.store.put(key, data)
        config._CONFIGS.clear()  # what this process has read must not depend on the schedules before
        self.observer = observer(
            self.store,
            lambda: self.schedule.now,
            grace=settings.grace,
            fail=self.schedule.fail,
            lenient=settings.lenient,
        )
        self.catalogue = Catalogue(self.schedule)
        self.offered: dict[Specimen, None] = {}
        self.counts: Counter[str] = Counter()

    def process(self, name: str, *, steady: bool = False) -> Process:
        """A process whose wall clock is wrong."""
        skew = (self.schedule.random.random() * 2 - 1) * self.settings.skew
        return Process(name, skew=0.0 if steady else skew, steady=steady)

    def view(self, process: Process) -> tuple[ObjectStore, VirtualClock]:
        """The store and the clock of a process."""
        store = ScheduledStore(self.store, self.schedule, process, self.observer)
        return store, VirtualClock(self.schedule, process.skew)

    def open_for_writing(self, process: Process, owner: str) -> Collection:
        """Open the collection as a writer, however often the storage fails."""
        store, clock = self.view(process)
        options = WriterOptions(
            owner=owner,
            grant_seconds=self.settings.grant,
            reader_grace=timedelta(seconds=self.settings.grace),
            eager_arrays=self.schedule.random.random() < 0.5,
            checkpoint_records=self.schedule.random.choice((5, 12, 100)),
        )
        return self.persist(lambda: open_collection(store, mode="w", clock=clock, writer=options))

    def persist(self, attempt: Callable[[], Any]) -> Any:
        """Try until nothing stands in the way, as a daemon does."""
        while True:
            try:
                return attempt()
            except BusyError as error:
                self.schedule.sleep(error.retry_after)
            except (ConflictError, StorageError):
                self.schedule.sleep(self.schedule.random.random() * 2)

    def offer(self, collection: Collection, specimens: Sequence[Specimen]) -> None:
        """Commit granules and check what the outcome claims."""
        self.offered.update(dict.fromkeys(specimens))
        self.observer.know(specimens)
        executor = Rereading(collection, self.offered)
        offers = [offer_of(s) for s in specimens]
        outcome: Outcome = self.persist(lambda: collection.commit_offers(offers, executor))
        self._check_outcome(outcome, specimens, collection.state.number)

    def retract(self, collection: Collection, granule: int) -> None:
        """Take a granule out."""
        executor = Rereading(collection, self.offered)
        outcome: Outcome = self.persist(lambda: collection.retract([granule], executor=executor, timeout=0.0))
        if outcome.lost:
            self.schedule.fail(f"rows of {outcome.lost} are said to be lost")

    def count(self, what: str) -> None:
        """Count something for the summary."""
        self.counts[what] += 1

    def _check_outcome(self, outcome: Outcome, specimens: Sequence[Specimen], known: int) -> None:
        """An outcome speaks of the log up to record ``known``; others may have brought a granule again since."""
        for specimen in specimens:
            verdict = outcome.verdicts[specimen.id]
            self.count(verdict.value)
            if verdict in (Verdict.SUPERSEDED, Verdict.WITHDRAWN):
                continue
            commits = self.observer.commits.items()
            number = max((n for n, seen in commits if n <= known and specimen.id in seen.touched), default=None)
            if number is None:
                self.schedule.fail(f"{specimen} is said to be {verdict.value} and never was in a commit")
            else:
                self._check_visible(number, specimen)
        if outcome.lost:
            self.schedule.fail(f"rows of {outcome.lost} are said to be lost")

    def _check_visible(self, number: int, specimen: Specimen) -> None:
        for path in self.observer.commits[number].touched[specimen.id]:
            if self.observer.shown.get(self.observer.documents(path)[0], -1) < number:
                self.schedule.fail(f"{specimen} is said to be visible, and {path} does not show commit {number}")

    def check_end(self, collection: Collection) -> None:
        """Every granule is in, each row once, and every document shows it."""
        last = self.observer.last
        if not self.settings.amending:
            wanted = newest(self.offered)
            if last.rows != contents(whole(wanted)) or last.ledger != {s.id for s in wanted}:
                self.schedule.fail(f"the collection holds {last.rows}, its granules give {contents(whole(wanted))}")
        self.observer.check_all()
        self._check_documents(collection)
        self._check_state(collection)

    def _check_documents(self, collection: Collection) -> None:
        title = collection.schema.attributes["title"]
        commits = self.observer.commits
        for path in {path for seen in commits.values() for path in seen.changed}:
            shown = {key: number for key, number in self.observer.shown.items() if key.startswith(f"{path}/")}
            changed = max(number for number, seen in commits.items() if path in seen.changed)
            if set(shown) != set(self.observer.documents(path)) or set(shown.values()) != {changed}:
                self.schedule.fail(f"{path} was changed last by commit {changed}; its documents show {shown}")
            if self._attributes(path)["title"] != title:
                self.schedule.fail(f"{path} has the title {self._attributes(path)['title']!r}, not {title!r}")
        summary = self._attributes("")
        if (summary["title"], summary["zcollection_commit"]) != (title, self.observer.last.number):
            self.schedule.fail(f"the root group tells {summary}, not {title!r} and {self.observer.last.number}")

    def _attributes(self, path: str) -> dict[str, Any]:
        name = ".zattrs" if self.settings.zarr_format == 2 else "zarr.json"
        found: dict[str, Any] = json.loads(self.store.get(f"{path}/{name}".lstrip("/")).data)
        return found if self.settings.zarr_format == 2 else found["attributes"]

    def _check_state(self, collection: Collection) -> None:
        """What a fresh look at the log says is what its records said one after another."""
        last = self.observer.last
        found = {p.path: p.rows for p in collection.partitions()}, {e.id for e in collection.granules()}
        wanted = {path: len(rows) for path, rows in last.rows.items()}, set(last.ledger)
        if (found, collection.commit) != (wanted, last.number):
            self.schedule.fail(f"opened anew: {found} at {collection.commit}; the log said {wanted} at {last.number}")


class Rereading(LocalExecutor):
    """Runs jobs in this process and finds every granule again."""

    def __init__(self, collection: Collection, offered: Iterable[Specimen]) -> None:
        super().__init__(collection.store)
        self._offered = offered

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Any]:
        known = {s.id: s for s in self._offered}
        return {entry.id: offer_of(known[entry.id]).payload for entry in entries}


@lru_cache(maxsize=2)
def _new_collection(zarr_format: int) -> dict[str, bytes]:
    """The objects of a collection without granules, made in a schedule so that they are always the same."""
    schedule, made = Schedule(0), configuration(zarr_format)
    store = VirtualMemoryStore("memory://exploration/empty", schedule)

    def act() -> None:
        create_collection(store, made.schema, made.partitioning, strategy=made.strategy, clock=VirtualClock(schedule))

    schedule.spawn(Process("creator"), "creator", act)
    schedule.run()
    return {info.key: store.get(info.key).data for info in store.list()}
