"""What a granule has in a partition: rows, and closed intervals of the axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Interval = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Share:
    """What one granule has in one partition.

    Attributes
    ----------
    rows
        Number of rows, before other granules took some.
    intervals
        Closed intervals of the axis that the granule owns, ascending and disjoint, in the axis's stored unit
        (nanoseconds since 1970 for a time).
    """

    rows: int
    intervals: tuple[Interval, ...]

    @property
    def first(self) -> Any:
        return self.intervals[0][0]

    @property
    def last(self) -> Any:
        return self.intervals[-1][1]

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "intervals": [list(i) for i in self.intervals]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Share:
        return cls(data["rows"], tuple((lo, hi) for lo, hi in data["intervals"]))


class Change(StrEnum):
    """What a transaction does to a partition's arrays.

    A copy takes the rows of an older version; filling gives new arrays their fill values.
    """

    NONE = "none"
    APPEND = "append"
    REWRITE = "rewrite"
    COPY = "copy"
    FILL = "fill"


def uncovered(pieces: Iterable[Interval], covers: Iterable[Interval]) -> bool:
    """Tell whether any point of the closed intervals ``pieces`` lies in none of the closed intervals ``covers``."""
    ordered = sorted(covers)
    for low, high in pieces:
        reached, met = low, False
        for start, end in ordered:
            if start > reached:
                break
            if end >= reached:
                reached, met = end, True
        if not met or reached < high:
            return True
    return False


def overlap(a: Iterable[Interval], b: Iterable[Interval]) -> tuple[Interval, ...]:
    """Intersection of two sets of closed intervals."""
    others = tuple(b)
    return tuple((max(l1, l2), min(h1, h2)) for l1, h1 in a for l2, h2 in others if max(l1, l2) <= min(h1, h2))
