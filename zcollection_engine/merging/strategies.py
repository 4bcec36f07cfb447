"""The merge strategies of a collection.

Source of the rules: a partition's content is a function of the set of its granules and their ranks, never of the order
in which they came. Rows are ordered by axis, then by rank, then by their place in the granule. ``docs/merging.md``
draws each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.merging.keys import last_of_each_key, outranked_within, steps
from zcollection_engine.merging.shares import Interval, overlap, uncovered
from zcollection_engine.schema import Schema

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Owners = Sequence[Sequence[Interval]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a partition, in any order.

    Attributes
    ----------
    axis
        Axis value of each row, shape (n,).
    rank
        Position of each row's granule among the owners, shape (n,); -1 for a row of unknown origin.
    columns
        Other row variables, by path, that the strategy asks for; shape (n,).
    """

    axis: Values
    rank: Values
    columns: Mapping[str, Values] = field(default_factory=dict)

    def take(self, rows: Values) -> Rows:
        return Rows(self.axis[rows], self.rank[rows], {path: values[rows] for path, values in self.columns.items()})


class Strategy(Protocol):
    """A merge strategy.

    Owners are the granules with a share in a partition, as the intervals of each, in ascending rank.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Paths of the row variables besides the axis that `keep` reads."""

    @property
    def appends(self) -> bool:
        """Whether granules that lie strictly behind all others leave the rows of those as they are."""

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        """Closed intervals that a granule with these axis values (any order, at least one) owns."""

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        """Tell which rows stay, shape (n,)."""

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        """Tell whether granules of higher rank that own ``above`` certainly leave no row inside ``pieces``."""

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        """Parts of a granule's ``pieces`` in which one of higher rank that owns ``above`` may have taken rows."""

    @property
    def tells_origin(self) -> bool:
        """Whether `origin` can be told."""

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        """Number of the owner that each row of a merged partition comes from; -1 where that cannot be told."""

    def bound(self, schema: Schema) -> Strategy:
        """Return the strategy for a collection; raises `InvalidInputError` if it does not fit."""

    def to_json(self) -> dict[str, Any]:
        """The strategy as recorded with the collection."""


def _hull(axis: Values) -> tuple[Interval, ...]:
    return ((axis.min().item(), axis.max().item()),)


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
class TimeSeries:
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
    def columns(self) -> tuple[str, ...]:
        return ()

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

    def bound(self, schema: Schema) -> Strategy:
        return self

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "time_series", "tolerance": self.tolerance}


@dataclass(frozen=True, slots=True)
class Replace:
    """Only the rows of the granule of highest rank that touches the partition."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def appends(self) -> bool:
        return False

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        return _hull(axis)

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

    def bound(self, schema: Schema) -> Strategy:
        return self

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "replace"}


@dataclass(frozen=True, slots=True)
class Concat:
    """All rows of all granules."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def appends(self) -> bool:
        return True

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        return _hull(axis)

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        return np.ones(rows.axis.shape, np.bool_)

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        return False

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        return ()

    @property
    def tells_origin(self) -> bool:
        return False

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        return np.full(axis.shape, -1, np.intp)

    def bound(self, schema: Schema) -> Strategy:
        return self

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "concat"}


@dataclass(frozen=True, slots=True)
class Upsert:
    """One row for each key: of the rows with the same key the one of highest rank stays, in a granule the last one.

    Parameters
    ----------
    key
        Paths of the row variables that make the key; empty: the axis. Rows are compared by their stored values; NaN
        equals NaN.
    axis
        Path of the collection's axis; `bound` sets it.
    within
        Distance of the axis, in its stored unit, at which two rows have the same key, if all other columns of the key
        are equal: from the highest rank down, a row stays unless one that stays lies so near. Rows of one granule only
        meet where they are equal. Needs the axis in the key. With it the result depends on the order in which granules
        come: a row that took another's place may lose its own later.
    """

    key: tuple[str, ...] = ()
    within: int | float | None = None
    axis: str = ""

    def __post_init__(self) -> None:
        if self.within is not None and not 0 < self.within < math.inf:
            raise InvalidInputError(f"within is {self.within!r}; it must be greater than 0 and finite, or not set")

    @property
    def has_axis(self) -> bool:
        return not self.key or self.axis in self.key

    def bound(self, schema: Schema) -> Strategy:
        for path in self.key:
            variable = schema.by_path.get(path)
            if variable is None or variable.dimensions != (schema.dimension,):
                raise InvalidInputError(
                    f"{path!r} cannot be in the key of an upsert: it is no variable of the one dimension"
                    f" {schema.dimension!r}"
                )
        strategy = replace(self, axis=schema.axis)
        if self.within is not None and not strategy.has_axis:
            raise InvalidInputError(f"within is a distance of the axis: put {schema.axis!r} into the key")
        return strategy

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(path for path in self.key if path != self.axis)

    @property
    def appends(self) -> bool:
        return self.has_axis and self.within is None

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        return _hull(axis)

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        exact = [rows.columns[path] for path in self.columns]
        kept = last_of_each_key([*exact, rows.axis] if self.has_axis else exact, rows.rank)
        if self.within is None:
            return kept
        chosen = np.flatnonzero(kept)
        nearest = rows.take(chosen)
        beaten = outranked_within([nearest.columns[p] for p in self.columns], nearest.axis, nearest.rank, self.within)
        kept[chosen[beaten]] = False
        return kept

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        return False

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        if not self.has_axis:
            return tuple(pieces)
        margin = self.within or 0
        return overlap([(low - margin, high + margin) for low, high in above], pieces)

    @property
    def tells_origin(self) -> bool:
        return False

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        return np.full(axis.shape, -1, np.intp)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "upsert", "key": list(self.key), "within": self.within, "axis": self.axis}


@dataclass(frozen=True, slots=True)
class Custom:
    """A user's function decides; the result may depend on the order in which granules come.

    Parameters
    ----------
    function
        ``module:function``; called as ``function(existing, inserted, axis=..., dim=...)`` with `xarray.Dataset` and
        returning one, see `zcollection_engine.merging.custom`.
    """

    function: str

    def __post_init__(self) -> None:
        module, colon, name = self.function.partition(":")
        if not (module and colon and name):
            raise InvalidInputError(f"merge function {self.function!r} is not spelt as 'module:function'")

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def appends(self) -> bool:
        return False

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        return _hull(axis)

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        raise InvalidInputError(f"{self.function} merges datasets, not single rows")

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        return False

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        return ()

    @property
    def tells_origin(self) -> bool:
        return False

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        return np.full(axis.shape, -1, np.intp)

    def bound(self, schema: Schema) -> Strategy:
        return self

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "callable", "function": self.function}


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
