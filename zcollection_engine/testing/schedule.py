"""A deterministic scheduler: several tasks, each a real thread, of which exactly one runs at a time.

A task gives way only at a switch point: before and after every operation on a `ScheduledStore`, in `Clock.sleep`, and
where it waits for another task. Who goes on is drawn from a seeded generator, so that a seed always gives the same
schedule. Time is virtual: it passes with every operation and jumps ahead when all tasks wait.

Tasks belong to a process, which may be paused or die as a whole. A dead process is not resumed before the schedule is
over; its threads then end without another operation on a store.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import math
import random
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from zcollection_engine.testing.processes import Disturbances, Process, Step

#: When virtual time begins.
START = datetime(2024, 1, 1, tzinfo=UTC)

#: Steps that a task goes before another one may be chosen; short and long bursts find different faults.
_BURSTS = (0, 0, 1, 4, 19)


class Killed(BaseException):
    """Ends the thread of a task that its schedule resumes no more. Not an `Exception`: nobody may handle it."""


class ScheduleError(AssertionError):
    """A schedule ended badly; says with which seed, and what happened last."""


def _closed() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(eq=False)
class Task:
    """A thread of a process."""

    name: str
    process: Process
    schedule: Schedule
    wake: float = 0.0
    burst: int = 0
    done: bool = False
    waiting: list[Task] = field(default_factory=list)
    gate: threading.Lock = field(default_factory=_closed)
    thread: threading.Thread = field(init=False)


_TASKS: dict[int, Task] = {}


def current_task() -> Task | None:
    """The task that the calling thread is; None for any other thread."""
    return _TASKS.get(threading.get_ident())


class VirtualClock:
    """A process's clock: virtual time, with the process's skew on the wall clock."""

    def __init__(self, schedule: Schedule, skew: float = 0.0) -> None:
        self._schedule = schedule
        self._start = START + timedelta(seconds=skew)

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._schedule.now)

    def monotonic(self) -> float:
        return self._schedule.now

    def sleep(self, seconds: float) -> None:
        self._schedule.sleep(max(seconds, 0.001))  # no real sleep is shorter


class Schedule:
    """Runs tasks one step at a time, in an order drawn from ``seed``.

    Parameters
    ----------
    seed
        Decides everything.
    disturbances
        What happens to processes that are not steady.
    patience
        Real seconds without a switch after which the schedule counts as stuck.
    max_steps
        Switch points after which the schedule counts as one that never ends.
    """

    def __init__(
        self, seed: int, disturbances: Disturbances | None = None, *, patience: float = 60.0, max_steps: int = 200_000
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.identifiers = random.Random(seed)  # noqa: S311 - the same
        self.disturbances = disturbances or Disturbances()
        self.now = 0.0
        self.steps = 0
        self.deaths = 0
        self.trace: list[Step] = []
        self.failure: str | None = None
        #: Called when a process died or is presumed dead.
        self.on_death: Callable[[Process], None] = lambda _: None
        self._patience = patience
        self._max_steps = max_steps
        self._live: list[Task] = []
        self._all: list[Task] = []
        self._ended = False
        self._over = threading.Event()
        self._beat = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the trace: equal for equal schedules."""
        return hashlib.sha256("\n".join(map(str, self.trace)).encode()).hexdigest()

    def spawn(self, process: Process, name: str, function: Callable[[], None], *, after: float = 0.0) -> Task:
        """Add a task; it starts when it is chosen, not before ``after`` seconds."""
        task = Task(name, process, self, wake=self.now + after)
        task.thread = threading.Thread(target=self._main, args=(task, function), name=name, daemon=True)
        self._live.append(task)
        self._all.append(task)
        task.thread.start()
        return task

    def run(self) -> None:
        """Run until no live task is left; raises `ScheduleError` if the schedule failed."""
        if self._live:
            self._choose(None).gate.release()
            self._watch_over()
        self._unwind()
        if self.failure is not None:
            raise ScheduleError(self.report())

    def report(self, last: int = 60) -> str:
        """Return what failed and the end of the trace."""
        steps = "\n".join(map(str, self.trace[-last:]))
        return f"seed {self.seed}: {self.failure}\nthe last operations:\n{steps}"

    def fail(self, message: str) -> None:
        """End the schedule because something is wrong; the calling task goes no further."""
        if self.failure is None:
            self.failure = message
        self._end()
        raise Killed

    def switch(self) -> None:
        """Let any task that can run go on, perhaps the calling one."""
        task = current_task()
        if task is None:
            return
        self._check_alive(task)
        task.wake = 0.0
        self._disturb(task.process)
        self._give_way(task)

    def sleep(self, seconds: float) -> None:
        """Let others go on for some virtual time."""
        task = current_task()
        if task is None:
            self.now += seconds
        else:
            self.wait(task, self.now + seconds)

    def wait(self, task: Task, until: float = math.inf) -> None:
        """Let others go on until a virtual time, or until somebody calls `wake` for the task, which calls this."""
        self._check_alive(task)
        task.wake, task.burst = until, 0
        self._give_way(task)

    def wake(self, task: Task) -> None:
        """Make a waiting task able to run."""
        task.wake = min(task.wake, self.now)

    def elapse(self) -> None:
        """Let an operation's duration pass."""
        self.now += 1e-6 + self.random.random() * 2 * self.disturbances.latency

    def happens(self, probability: float) -> bool:
        """Draw whether something happens."""
        return probability > 0 and self.random.random() < probability

    def pause_length(self) -> float:
        """Draw the length of a pause."""
        return self.random.random() * self.disturbances.longest

    def _main(self, task: Task, function: Callable[[], None]) -> None:
        _TASKS[threading.get_ident()] = task
        task.gate.acquire()
        try:
            self._check_alive(task)
            function()
        except Killed:
            pass
        except BaseException:  # noqa: BLE001 - whatever it is, it is told in the schedule's report
            if not self._ended:
                self.failure = f"task {task.name} failed:\n{traceback.format_exc()}"
            self._end()
        finally:
            del _TASKS[threading.get_ident()]
            with contextlib.suppress(Killed):
                self._leave(task)

    def _leave(self, task: Task) -> None:
        task.done = True
        for other in task.waiting:
            self.wake(other)
        if self._ended:
            return
        self._live.remove(task)
        if self._live:
            self._choose(None).gate.release()
        else:
            self._end()

    def _give_way(self, task: Task) -> None:
        self.steps += 1
        if self.steps > self._max_steps:
            self.fail(f"not finished after {self._max_steps} steps")
        if not self._live:
            self._end()
            raise Killed
        chosen = self._choose(task)
        if chosen is not task:
            chosen.gate.release()
            task.gate.acquire()
            self._check_alive(task)

    def _check_alive(self, task: Task) -> None:
        if self._ended or task.process.dead:
            raise Killed

    def _choose(self, task: Task | None) -> Task:
        self._beat += 1
        if task is not None and task.burst > 0 and self._ready(task):
            task.burst -= 1
            return task
        ready = [t for t in self._live if self._ready(t)]
        if not ready:
            self.now = min(max(t.wake, t.process.resumes) for t in self._live)
            if math.isinf(self.now):
                self.fail(f"every task waits for another one: {', '.join(t.name for t in self._live)}")
            ready = [t for t in self._live if self._ready(t)]
        chosen = self.random.choice(ready)
        chosen.burst = self.random.choice(_BURSTS)
        return chosen

    def _ready(self, task: Task) -> bool:
        return task.wake <= self.now and task.process.resumes <= self.now and not task.process.dead

    def _disturb(self, process: Process) -> None:
        if process.steady:
            return
        if self.happens(self.disturbances.pause):
            process.resumes = self.now + self.pause_length()
        risks = self.disturbances
        if self.deaths == risks.deaths or not self.happens(risks.death + risks.presumed):
            return
        self.deaths += 1
        if self.happens(risks.presumed / (risks.death + risks.presumed)):
            process.resumes = self.now + self.pause_length()
        else:
            process.dead = True
            self._live = [t for t in self._live if t.process is not process]
        self.on_death(process)

    def _end(self) -> None:
        self._ended = True
        self._over.set()

    def _watch_over(self) -> None:
        beat = -1
        while not self._over.wait(self._patience):
            if beat == self._beat:
                self.failure = f"stuck for {self._patience:g} s of real time:\n{_stacks()}"
                self._end()
            beat = self._beat

    def _unwind(self) -> None:
        """End all threads that are left: each meets `Killed` where it waits."""
        for task in self._all:
            if task.gate.locked():
                task.gate.release()
            task.thread.join(self._patience)
            if task.thread.is_alive():
                raise ScheduleError(f"{self.report()}\ntask {task.name} does not end:\n{_stacks()}")


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()
