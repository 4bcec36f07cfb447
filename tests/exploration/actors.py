"""Who acts in a schedule: writers with a table of weighted actions, readers, and a last writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dask

from tests.exploration.granules import CHUNK_ROWS, PATHS, Specimen
from tests.exploration.observer import COLUMNS, chunk_keys, decode_chunk, fill_of
from tests.exploration.world import World
from zcollection_engine import Collection, open_collection
from zcollection_engine.errors import InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.testing.processes import Process


class Owner:
    """A writer by its name: when a life of it ends, or seems to, another one delivers everything again and goes on."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.delivered: list[Specimen] = []
        self.left = world.settings.actions
        self.lives: list[Writer] = []

    def start(self, *, after: float = 0.0) -> None:
        """Begin a life."""
        process = self.world.process(f"{self.name}{len(self.lives) + 1}")
        self.lives.append(Writer(self, process, after))

    @property
    def done(self) -> bool:
        """Whether no life of it will do anything more."""
        return all(life.task.done or life.process.dead for life in self.lives)


class Writer:
    """One life of an owner: carries out actions drawn from `ACTIONS`."""

    def __init__(self, owner: Owner, process: Process, after: float) -> None:
        self.world = owner.world
        self.process = process
        self.collection: Collection
        self._owner = owner
        self.task = self.world.schedule.spawn(process, process.name, self._live, after=after)

    def reopen(self) -> None:
        """Open the collection as another session of the same owner."""
        self.collection = self.world.open_for_writing(self.process, self._owner.name)

    def offer(self, *specimens: Specimen) -> None:
        """Deliver granules as one transaction."""
        self._owner.delivered += specimens
        self.world.offer(self.collection, specimens)

    def _live(self) -> None:
        self.reopen()
        if self._owner.delivered:
            self.world.offer(self.collection, list(self._owner.delivered))
        while self._owner.left:
            self._owner.left -= 1
            name = self._draw()
            self.world.count(name)
            ACTIONS[name].carry_out(self)

    def _draw(self) -> str:
        settings = self.world.settings
        weights = {
            name: settings.weights.get(name, action.weight)
            for name, action in ACTIONS.items()
            if settings.amending or not action.amends
        }
        return self.world.schedule.random.choices(list(weights), list(weights.values()))[0]


@dataclass(frozen=True)
class Action:
    """Something that a writer does; ``weight`` says how often, ``amends`` that the result depends on the order."""

    weight: int
    carry_out: Callable[[Writer], None]
    amends: bool = False


def _collect(writer: Writer) -> None:
    """Collect garbage that became old enough while the others were at work."""
    random = writer.world.schedule.random
    writer.world.schedule.sleep(random.random() * 2 * MIN_AGE.total_seconds())
    retention = random.choice((timedelta(0), MIN_AGE, 2 * MIN_AGE))
    report = writer.world.persist(
        lambda: writer.collection.collect_garbage(dry_run=False, min_age=MIN_AGE, retention=retention)
    )
    for kind, number in report.objects.items():
        writer.world.counts[f"collected: {kind}"] += number


def _drop(writer: Writer) -> None:
    path = writer.world.schedule.random.choice(PATHS)
    try:
        writer.world.persist(lambda: writer.collection.drop_partitions([path]))
    except NotFoundError:
        writer.world.count("drops of nothing")


def _roll_back(writer: Writer) -> None:
    observer = writer.world.observer
    to = writer.world.schedule.random.choice([0, *observer.commits][-5:])
    try:
        number = writer.world.persist(lambda: writer.collection.rollback(max(to, 0)))
    except (InvalidInputError, SnapshotExpiredError):
        writer.world.count("rollbacks to nothing")
        return
    target = observer.commits[max(n for n in observer.commits if n <= to)]
    for path in observer.commits[number].changed:
        if observer.commits[number].rows.get(path) != target.rows.get(path):
            writer.world.schedule.fail(f"commit {number} rolled {path} back to {to}, and gives other rows")


def _retract(writer: Writer) -> None:
    """Take a granule out; those that had lost rows to it are read again."""
    known = sorted(writer.world.observer.last.ledger)
    if not known:
        writer.world.count("retractions of nothing")
        return
    chosen = writer.world.schedule.random.choice(known)
    try:
        writer.world.retract(writer.collection, chosen)
    except NotFoundError:
        writer.world.count("retractions of nothing")


def _set_attributes(writer: Writer) -> None:
    title = f"title {writer.world.schedule.random.randrange(1000)}"
    writer.world.persist(lambda: writer.collection.set_attributes({"title": title}))


#: Garbage is older than the longest pause.
MIN_AGE = timedelta(seconds=60)

#: Everything that a writer may do. A further operation of the engine is a further line.
ACTIONS: dict[str, Action] = {
    "append": Action(6, lambda w: w.offer(w.world.catalogue.following())),
    "late": Action(4, lambda w: w.offer(w.world.catalogue.late())),
    "overlap": Action(3, lambda w: w.offer(w.world.catalogue.overlapping())),
    "again": Action(2, lambda w: w.offer(w.world.catalogue.again())),
    "newer": Action(2, lambda w: w.offer(w.world.catalogue.newer())),
    "midnight": Action(2, lambda w: w.offer(w.world.catalogue.midnight())),
    "empty": Action(2, lambda w: w.offer(w.world.catalogue.empty())),
    "batch": Action(2, lambda w: w.offer(w.world.catalogue.following(), w.world.catalogue.late())),
    "arrays": Action(1, lambda w: w.world.persist(w.collection.publish_arrays)),
    "reopen": Action(1, lambda w: w.reopen()),
    "checkpoint": Action(1, lambda w: w.world.persist(w.collection.checkpoint)),
    "garbage": Action(2, _collect),
    "attributes": Action(1, _set_attributes),
    "drop": Action(3, _drop, amends=True),
    "rollback": Action(3, _roll_back, amends=True),
    "retract": Action(3, _retract, amends=True),
}


def last_writer(world: World, owners: list[Owner]) -> Callable[[], None]:
    """Delivers, when all writers have ended, every granule once more, completes what is left and checks the end."""

    def act() -> None:
        while not all(owner.done for owner in owners):
            world.schedule.sleep(5.0)
        process = world.process("last", steady=True)
        collection = world.open_for_writing(process, "last")
        if world.offered:
            world.offer(collection, list(world.offered))
        collection.roll_forward()
        world.check_end(collection)
        world.schedule.sleep(300.0)
        collection.collect_garbage(dry_run=False, min_age=MIN_AGE, retention=timedelta(0))
        world.check_end(world.open_for_writing(process, "last"))

    return act


def plain_reader(world: World, process: Process) -> Callable[[], None]:
    """Reads a partition's document, then chunk after chunk, as slowly as ``reader_grace`` allows."""
    schedule, random = world.schedule, world.schedule.random

    def act() -> None:
        store, _ = world.view(process)
        for _ in range(4):
            schedule.sleep(random.random() * 10)
            read_once(store, random.choice(PATHS))

    def read_once(store: Any, path: str) -> None:
        opened = schedule.now
        try:
            document = json.loads(store.get(f"{path}/zarr.json").data)
        except NotFoundError:
            return
        commit = document["attributes"]["zcollection_commit"]
        arrays = document["consolidated_metadata"]["metadata"]
        keys = [(name, key) for name in COLUMNS for key in chunk_keys(path, name, arrays[name])]
        random.shuffle(keys)
        steps = sorted(random.random() * world.settings.grace for _ in keys)
        found: dict[str, Any] = {}
        for (name, key), step in zip(keys, steps, strict=True):
            schedule.sleep(opened + step - schedule.now)
            try:
                found[key] = decode_chunk(store.get(key).data, name)
            except NotFoundError:
                found[key] = (fill_of(name),) * CHUNK_ROWS if world.settings.lenient else ()
        if schedule.now > opened + world.settings.grace:
            world.count("plain reads that took too long")
            return
        world.count("plain reads")
        expected = world.observer.commits[commit].rows.get(path, ())
        for column, name in enumerate(COLUMNS):
            values = [v for key in chunk_keys(path, name, arrays[name]) for v in found[key]]
            if values[: len(expected)] != [row[column] for row in expected]:
                schedule.fail(f"a plain reader saw {values} in {path}/{name}, commit {commit} is {expected}")

    return act


def engine_reader(world: World, process: Process) -> Callable[[], None]:
    """Opens the collection, waits, reads everything: one commit, or `SnapshotExpiredError`."""
    schedule = world.schedule

    def act() -> None:
        store, clock = world.view(process)
        for _ in range(2):
            schedule.sleep(schedule.random.random() * 25)
            collection = open_collection(store, clock=clock)
            schedule.sleep(schedule.random.choice((0.0, schedule.random.random() * 30)))
            read_once(collection)

    def read_once(collection: Collection) -> None:
        paths = [p.path for p in collection.partitions()]
        found: dict[str, list[tuple[int, ...]]] = {}
        try:
            for path in paths:
                dataset: Any = collection.load([path], decode=False)
                schedule.sleep(schedule.random.random() * 5)
                # One column after another: the order of several would follow from Dask's names for them.
                with dask.config.set(scheduler="synchronous"):
                    columns = [dataset[name].values.tolist() for name in COLUMNS]
                found[path] = list(zip(*columns, strict=True))
        except SnapshotExpiredError:
            world.count("snapshots that expired")
            return
        world.count("engine reads")
        expected = {path: list(rows) for path, rows in world.observer.commits[collection.commit].rows.items()}
        if found != expected:
            schedule.fail(f"an engine reader saw {found} as commit {collection.commit}, which is {expected}")

    return act
