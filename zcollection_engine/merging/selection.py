"""Choose and order the rows of a partition, from those that are there and those that come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.merging.shares import Interval
from zcollection_engine.merging.strategy import Rows, Strategy

Values = npt.NDArray[Any]
Owner = tuple[int, Sequence[Interval]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows offered to a partition: those that are there first, then those that come. All arrays have shape (n,).

    Attributes
    ----------
    axis
        Axis values.
    origin
        Granule ids; 0 where it is not known.
    columns
        By path, what else the strategy reads.
    existing
        How many of the rows are there already.
    """

    axis: Values
    origin: npt.NDArray[np.uint64]
    existing: int
    columns: Mapping[str, Values] = field(default_factory=dict)


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
    def is_extension(self) -> bool:
        """True if all existing rows stay where they are, and others may follow behind them."""
        head = self.take[: self.existing]
        return head.size == self.existing and bool(np.array_equal(head, np.arange(self.existing)))

    @property
    def is_identity(self) -> bool:
        """True if the merge keeps just the existing rows as they are."""
        return self.take.size == self.existing and self.is_extension


def select(
    strategy: Strategy, candidates: Candidates, owners: Sequence[Owner], *, removed: Iterable[int] = ()
) -> Selection:
    """Choose and order the rows of a partition.

    Parameters
    ----------
    strategy
        The collection's strategy.
    candidates
        The rows.
    owners
        (id, intervals) of every granule that has a share in the partition afterwards, in ascending rank.
    removed
        Ids of granules whose existing rows go, before anything else.
    """
    axis, origin, existing = candidates.axis, candidates.origin, candidates.existing
    numbers = {identity: number for number, (identity, _) in enumerate(owners)}
    ids, inverse = np.unique(origin, return_inverse=True)
    rank_of = np.array([numbers.get(int(i), -1) for i in ids], np.intp)
    rank = rank_of[inverse] if ids.size else np.empty(0, np.intp)
    alive = (rank >= 0) | (origin == 0)
    alive[:existing] &= ~np.isin(origin[:existing], np.fromiter(removed, np.uint64))
    chosen = np.flatnonzero(alive)
    rows = Rows(axis, rank, candidates.columns).take(chosen)
    chosen = chosen[strategy.keep(rows, [intervals for _, intervals in owners])]
    return Selection(chosen[np.lexsort((chosen, rank[chosen], axis[chosen]))], existing)


def origins(strategy: Strategy, axis: Values, owners: Sequence[Owner]) -> npt.NDArray[np.uint64]:
    """Return the granule of each row of a merged partition that keeps no provenance; 0 where it cannot be told.

    Parameters
    ----------
    axis
        Of the partition, ascending, shape (n,).
    owners
        Those with a share in it, in ascending rank.
    """
    numbers = strategy.origin(axis, [intervals for _, intervals in owners])
    ids = np.array([*(identity for identity, _ in owners), 0], np.uint64)
    return ids[numbers]
