"""The merge strategies of a collection.

Source of the rules: a partition's content is a function of the set of its granules and their ranks, never of the order
in which they came. Rows are ordered by axis, then by rank, then by their place in the granule. ``docs/merging.md``
draws each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.merging.custom import Custom
from zcollection_engine.merging.keys import steps
from zcollection_engine.merging.shares import Interval, overlap, uncovered
from zcollection_engine.merging.strategy import Mask, Owners, Rows, Strategy, Values
from zcollection_engine.merging.upsert import Upsert


def _highest(axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
    """Number of the highest owner of each value of an ascending axis; -1 where there is none."""
    highest = np.full(axis.shape, -1, np.intp)
    exact = axis.dtype.type  # numpy compares an unsigned integer with a signed one as floats
    for number, intervals in enumerate(owners):
        for low, high in intervals:
            start, end = np.searchsorted(axis, exact(low), "left"), np.searchsorted(axis, exact(high), "right")
            highest[start:end] = number
    return highest


@dataclass(frozen=True, slots=True)
class TimeSeries(Strategy):
    """A granule owns the closed interval of its axis; rows of lower rank inside it are dropped.

    Times that repeat inside a granule stay, in their order.

    Parameters
    ----------
    tolerance
        Gap of the axis, in its stored unit (nanoseconds for a time), beyond which the interval is cut, so that other
        granules can fill the gap. None: never cut.
    """

    tolerance: int | float | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise InvalidInputError(f"tolerance is {self.tolerance!r}; it must be 0 or more, or not set")

    @property
    def appends(self) -> bool:
        return True

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        ordered = np.sort(axis)
        cuts = np.empty(0, np.intp) if self.tolerance is None else np.flatnonzero(steps(ordered) > self.tolerance) + 1
        return tuple((piece[0].item(), piece[-1].item()) for piece in np.split(ordered, cuts))

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        order = np.argsort(rows.axis, kind="stable")
        kept = np.empty(rows.axis.shape, np.bool_)
        kept[order] = rows.rank[order] >= _highest(rows.axis[order], owners)
        return kept

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        return not uncovered(pieces, above)

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        return overlap(above, pieces)

    @property
    def tells_origin(self) -> bool:
        return True

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        return _highest(axis, owners)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "time_series", "tolerance": self.tolerance}


@dataclass(frozen=True, slots=True)
class Replace(Strategy):
    """Only the rows of the granule of highest rank that touches the partition."""

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        return np.asarray(rows.rank == len(owners) - 1)

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        return bool(above)

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        return tuple(pieces)

    @property
    def tells_origin(self) -> bool:
        return True

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        return np.full(axis.shape, len(owners) - 1, np.intp)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "replace"}


@dataclass(frozen=True, slots=True)
class Concat(Strategy):
    """All rows of all granules."""

    @property
    def appends(self) -> bool:
        return True

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        return np.ones(rows.axis.shape, np.bool_)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "concat"}


def strategy_from_json(data: Mapping[str, Any]) -> Strategy:
    """Read a strategy; raises `FormatError` for one that this version does not know."""
    match data.get("strategy"):
        case "time_series":
            return TimeSeries(data.get("tolerance"))
        case "replace":
            return Replace()
        case "concat":
            return Concat()
        case "upsert":
            return Upsert(tuple(data["key"]), data["within"], data["axis"])
        case "callable":
            return Custom(data["function"])
        case name:
            raise FormatError(
                f"merge strategy {name!r} is not known to this version; there are 'time_series', 'replace', 'concat',"
                " 'upsert' and 'callable'"
            )
