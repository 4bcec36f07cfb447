"""Many cases side by side, and what became of them."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.fuzz.checks import ALONE, LIMITS, Verdict, check, open_alone
from zcollection_engine.testing.sandbox import Outcome, Sandbox

_PRELOAD = ("tests.fuzz.warm",)
_PLACE = re.compile(r'File "[^"]*?([^/"]+)", line (\d+) in (\w+)')


@dataclass
class Summary:
    """How cases ended.

    Attributes
    ----------
    counts
        By end: "equal", "refused: <code>", "crashed by signal ...", and what is never to be.
    by_damage, by_seed
        The same by the name of a damage, and of the file.
    crashes
        Of each case in which the library crashed: where it was called.
    hungry
        Resident memory of cases for which the library alone takes more, unlimited, than `LIMITS` give to the whole
        reading.
    violations
        Of each case that ended otherwise than it may: how.
    """

    counts: Counter[str] = field(default_factory=Counter)
    by_damage: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_seed: Counter[tuple[str, str]] = field(default_factory=Counter)
    crashes: dict[int, str] = field(default_factory=dict)
    hungry: dict[int, int] = field(default_factory=dict)
    violations: dict[int, str] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        return self.counts.total()

    def add(self, number: int, outcome: Outcome) -> None:
        """Count one case."""
        verdict = outcome.value
        if not isinstance(verdict, Verdict):
            self._add_failure(number, outcome)
            return
        self.counts[verdict.end] += 1
        self.by_damage.update((damage, verdict.end) for damage in verdict.damages)
        self.by_seed[verdict.seed, verdict.end] += 1

    def update(self, other: Summary) -> None:
        """Count the cases of another summary."""
        self.counts.update(other.counts)
        self.by_damage.update(other.by_damage)
        self.by_seed.update(other.by_seed)
        self.crashes.update(other.crashes)
        self.hungry.update(other.hungry)
        self.violations.update(other.violations)

    def __str__(self) -> str:
        lines = [f"{count:8d} {end}" for end, count in self.counts.most_common()]
        lines += [f"case {number}: {what}" for number, what in sorted(self.crashes.items())]
        lines += [
            f"case {number}: the library alone takes {nbytes >> 20} MiB" for number, nbytes in self.hungry.items()
        ]
        lines += [f"\nVIOLATION, case {number}: {what}" for number, what in sorted(self.violations.items())]
        return "\n".join(lines)

    def _add_failure(self, number: int, outcome: Outcome) -> None:
        self.counts[str(outcome).partition(":")[0]] += 1
        if outcome.kind == "crashed" and outcome.status < 0:
            place = _PLACE.search(outcome.output)
            self.crashes[number] = f"{outcome}, in {' '.join(place.groups()) if place else 'no Python code'}"
        else:
            self.violations[number] = f"{outcome}\n{outcome.output}"


def run_cases(seed: int, numbers: Iterable[int], *, processes: int | None = None, measure: bool = False) -> Summary:
    """Run cases and tell what became of them.

    Parameters
    ----------
    seed, numbers
        Which cases.
    processes
        How many sandboxes run side by side; by default one for each processor.
    measure
        Whether to fill ``hungry``.
    """
    shares = processes or len(os.sched_getaffinity(0))
    pending = iter(numbers)
    guard = threading.Lock()
    summary = Summary()

    def work() -> None:
        with Sandbox(_PRELOAD, LIMITS) as sandbox:
            while True:
                with guard:
                    number = next(pending, None)
                if number is None:
                    return
                outcome = sandbox.run(check, seed, number)
                alone = sandbox.run(open_alone, seed, number, limits=ALONE) if measure else None
                with guard:
                    summary.add(number, outcome)
                    if alone is not None and alone.peak_nbytes > LIMITS.memory_nbytes:
                        summary.hungry[number] = alone.peak_nbytes

    with ThreadPoolExecutor(shares) as pool:
        for worker in [pool.submit(work) for _ in range(shares)]:
            worker.result()
    return summary
