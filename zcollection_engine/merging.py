"""Merge strategies: which rows of which granules a partition keeps. Pure functions of sets, without I/O.

Source of the rule: every strategy here is a function of the set of granules and their ranks, never of the order in
which they came. ``time_series``: a granule owns the closed intervals of its axis; inside them, rows of granules of
lower rank are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import FormatError

Interval = tuple[Any, Any]
Values = npt.NDArray[Any]


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
    """What a transaction does to a partition's arrays; a copy takes the rows of an older version."""

    NONE = "none"
    APPEND = "append"
    REWRITE = "rewrite"
    COPY = "copy"


class Strategy(Protocol):
    """A merge strategy."""

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        """Closed intervals that a granule with these axis values (any order, at least one) owns."""

    def keep(self, axis: Values, rank: Values, owners: Sequence[Sequence[Interval]]) -> npt.NDArray[np.bool_]:
        """Tell which rows stay.

        Parameters
        ----------
        axis
            Axis value of each row, shape (n,).
        rank
            Position of each row's granule in ``owners``, shape (n,).
        owners
            Intervals of each granule, in ascending rank.
        """

    def to_json(self) -> dict[str, Any]:
        """The strategy as recorded with the collection."""


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """A granule owns the closed interval of its axis; rows of lower rank inside it are dropped.

    Parameters
    ----------
    tolerance
        Gap of the axis, in its stored unit (nanoseconds for a time), beyond which the interval is cut, so that other
        granules can fill the gap. None: never cut.
    """

    tolerance: int | None = None

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        ordered = np.sort(axis)
        cuts = np.empty(0, np.intp) if self.tolerance is None else np.flatnonzero(np.diff(ordered) > self.tolerance) + 1
        return tuple((piece[0].item(), piece[-1].item()) for piece in np.split(ordered, cuts))

    def keep(self, axis: Values, rank: Values, owners: Sequence[Sequence[Interval]]) -> npt.NDArray[np.bool_]:
        order = np.argsort(axis, kind="stable")
        ordered, ranks = axis[order], rank[order]
        highest = np.full(axis.shape, -1, np.intp)
        for number, intervals in enumerate(owners):
            for low, high in intervals:
                rows = slice(np.searchsorted(ordered, low, "left"), np.searchsorted(ordered, high, "right"))
                highest[rows] = number
        kept = np.empty(axis.shape, np.bool_)
        kept[order] = ranks >= highest
        return kept

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "time_series", "tolerance": self.tolerance}


def strategy_from_json(data: Mapping[str, Any]) -> Strategy:
    """Read a strategy; raises `FormatError` for one that this version does not know."""
    if data.get("strategy") == "time_series":
        return TimeSeries(data.get("tolerance"))
    raise FormatError(f"merge strategy {data.get('strategy')!r} is not known to this version; there is 'time_series'")


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a merged partition, in their final order.

    Attributes
    ----------
    take
        Row numbers into the existing rows followed by the inserted ones, shape (rows,).
    existing
        Number of existing rows offered.
    """

    take: npt.NDArray[np.intp]
    existing: int

    @property
    def is_identity(self) -> bool:
        """True if the merge keeps just the existing rows as they are."""
        return self.take.size == self.existing and bool(np.array_equal(self.take, np.arange(self.existing)))


def select(
    strategy: Strategy,
    axis: Values,
    origin: npt.NDArray[np.uint64],
    owners: Sequence[tuple[int, Sequence[Interval]]],
    *,
    existing: int,
    removed: Iterable[int] = (),
) -> Selection:
    """Choose and order the rows of a partition.

    Parameters
    ----------
    strategy
        The collection's strategy.
    axis, origin
        Axis value and granule id of each row, shape (n,): the existing rows first, then those inserted.
    owners
        (id, intervals) of every granule that has a share in the partition afterwards, in ascending rank.
    existing
        How many of the rows exist already.
    removed
        Ids of granules whose existing rows go, before anything else.
    """
    numbers = {identity: number for number, (identity, _) in enumerate(owners)}
    ids, inverse = np.unique(origin, return_inverse=True)
    rank_of = np.array([numbers.get(int(i), -1) for i in ids], np.intp)
    rank = rank_of[inverse] if ids.size else np.empty(0, np.intp)
    alive = np.ones(axis.shape, np.bool_)
    gone = np.fromiter(removed, np.uint64)
    alive[:existing] = ~np.isin(origin[:existing], gone)
    alive &= rank >= 0
    rows = np.flatnonzero(alive)
    rows = rows[strategy.keep(axis[rows], rank[rows], [intervals for _, intervals in owners])]
    return Selection(rows[np.lexsort((rows, rank[rows], axis[rows]))], existing)


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
