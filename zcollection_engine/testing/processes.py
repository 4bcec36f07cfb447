"""What the processes of a `Schedule` are, what may happen to them, and how their operations are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Disturbances:
    """What may happen to a process at a switch point.

    Attributes
    ----------
    pause, death, presumed
        Probabilities at each switch point: to be paused, to die, to be paused and presumed dead.
    slow, failed, lost
        Probabilities for each operation: to take as long as a pause, to fail undone, to fail although it was done.
    longest
        Of a pause, seconds.
    deaths
        How many processes may die or be presumed dead.
    latency
        Mean duration of an operation, seconds.
    """

    pause: float = 0.0
    death: float = 0.0
    presumed: float = 0.0
    slow: float = 0.0
    failed: float = 0.0
    lost: float = 0.0
    longest: float = 30.0
    deaths: int = 0
    latency: float = 0.1


@dataclass(eq=False)
class Process:
    """What is paused and dies as a whole.

    Attributes
    ----------
    skew
        Its wall clock's error, seconds.
    steady
        It is neither paused nor killed, and its operations do not fail.
    resumes
        Virtual time before which it stands still.
    """

    name: str
    skew: float = 0.0
    steady: bool = False
    resumes: float = 0.0
    dead: bool = False


@dataclass(frozen=True)
class Step:
    """One operation, as it is kept in the trace."""

    number: int
    time: float
    task: str
    method: str
    key: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.number:6d} {self.time:9.3f} s  {self.task:14s} {self.method:9s} {self.key}  {self.outcome}"
