"""Run schedules and gather what they came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.exploration.actors import Owner, engine_reader, last_writer, plain_reader
from tests.exploration.observer import Observer
from tests.exploration.rules import RULES
from tests.exploration.world import Settings, StoreFactory, World, settings_for
from tests.exploration.zarr2 import Zarr2Observer, zarr2_settings
from zcollection_engine.testing.inline import repeatable, tasks_for_threads
from zcollection_engine.testing.processes import Process
from zcollection_engine.testing.schedule import ScheduleError
from zcollection_engine.testing.scheduled import VirtualMemoryStore

#: Names the schedules in Zarr v2 where else a rule is named.
ZARR2 = "zarr2"


@dataclass
class Summary:
    """What many schedules came to.

    Attributes
    ----------
    violations
        Report of each schedule that failed, by seed.
    counts
        How often what happened.
    """

    schedules: int = 0
    violations: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Take in another one."""
        self.schedules += other.schedules
        self.violations |= other.violations
        self.counts += other.counts


def run_schedule(seed: int, settings: Settings | None = None, store: StoreFactory = VirtualMemoryStore) -> World:
    """Run one schedule; raises `ScheduleError`. Must be called in `tasks_for_threads`."""
    world = prepare(seed, settings, store)
    with repeatable(world.schedule):
        world.schedule.run()
    return world


def prepare(seed: int, settings: Settings | None = None, store: StoreFactory = VirtualMemoryStore) -> World:
    """Make a schedule ready to run."""
    chosen = settings or settings_for(seed)
    world = World(seed, chosen, store, Zarr2Observer if chosen.zarr_format == 2 else Observer)
    schedule = world.schedule
    owners = [Owner(world, name) for name in "ABCDEFGH"[: world.settings.writers]]

    def restart(process: Process) -> None:
        world.count("deaths" if process.dead else "presumed dead")
        for owner in owners:
            if owner.lives[-1].process is process:
                owner.start(after=schedule.random.random() * 20)

    schedule.on_death = restart
    for owner in owners:
        owner.start(after=schedule.random.random() * 3)
    for kind, number in ((plain_reader, world.settings.plain_readers), (engine_reader, world.settings.engine_readers)):
        for index in range(number):
            process = world.process(f"{kind.__name__[:6]}{index}", steady=True)
            schedule.spawn(process, process.name, kind(world, process))
    process = world.process("last", steady=True)
    schedule.spawn(process, "last", last_writer(world, owners))
    return world


def run_many(seeds: range, settings: Settings | None = None, store: StoreFactory = VirtualMemoryStore) -> Summary:
    """Run a schedule for each seed."""
    summary = Summary()
    for seed in seeds:
        world = prepare(seed, settings, store)
        try:
            with repeatable(world.schedule):
                world.schedule.run()
        except ScheduleError as error:
            summary.violations[seed] = str(error)
        summary.schedules += 1
        summary.counts.update(world.counts)
        summary.counts["operations"] += len(world.schedule.trace)
        summary.counts.update(world.observer.counts)
    return summary


def run_zarr2(seeds: range) -> Summary:
    """Run a schedule in Zarr v2 for each seed."""
    summary = Summary()
    for seed in seeds:
        summary.add(run_many(range(seed, seed + 1), zarr2_settings(seed)))
    return summary


def explore(task: tuple[range, str | None]) -> Summary:
    """Run a schedule for each seed, with one of `RULES` switched off, with none, or in Zarr v2 (``"zarr2"``)."""
    seeds, drop = task
    if drop is None or drop == ZARR2:
        with tasks_for_threads():
            return run_many(seeds) if drop is None else run_zarr2(seeds)
    rule = RULES[drop]
    with tasks_for_threads(), rule.off():
        return run_many(seeds, rule.settings, rule.store)
