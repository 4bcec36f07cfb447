"""What a merge strategy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.merging.shares import Interval
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


def hull(axis: Values) -> tuple[Interval, ...]:
    """The one interval from the smallest value to the greatest."""
    return ((axis.min().item(), axis.max().item()),)


class Strategy(ABC):
    """A merge strategy.

    Owners are the granules with a share in a partition, as the intervals of each, in ascending rank. What is given here
    is true of a strategy that nothing is known of.
    """

    __slots__ = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Paths of the row variables besides the axis that `keep` reads."""
        return ()

    @property
    def appends(self) -> bool:
        """Whether granules that lie strictly behind all others leave the rows of those as they are."""
        return False

    @property
    def tells_origin(self) -> bool:
        """Whether `origin` can be told."""
        return False

    def intervals(self, axis: Values) -> tuple[Interval, ...]:
        """Closed intervals that a granule with these axis values (any order, at least one) owns."""
        return hull(axis)

    @abstractmethod
    def keep(self, rows: Rows, owners: Owners) -> Mask:
        """Tell which rows stay, shape (n,)."""

    def hides(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> bool:
        """Tell whether granules of higher rank that own ``above`` certainly leave no row inside ``pieces``."""
        return False

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        """Parts of a granule's ``pieces`` in which one of higher rank that owns ``above`` may have taken rows."""
        return ()

    def origin(self, axis: Values, owners: Owners) -> npt.NDArray[np.intp]:
        """Number of the owner that each row of a merged partition comes from; -1 where that cannot be told."""
        return np.full(axis.shape, -1, np.intp)

    def bound(self, schema: Schema) -> Strategy:
        """Return the strategy for a collection; raises `InvalidInputError` if it does not fit."""
        return self

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The strategy as recorded with the collection."""
