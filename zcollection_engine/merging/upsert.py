"""The strategy that keeps one row for each key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.merging.keys import last_of_each_key, outranked_within
from zcollection_engine.merging.shares import Interval, overlap
from zcollection_engine.merging.strategy import Mask, Owners, Rows, Strategy
from zcollection_engine.schema import Schema


@dataclass(frozen=True, slots=True)
class Upsert(Strategy):
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

    def takes(self, pieces: Sequence[Interval], above: Sequence[Interval]) -> tuple[Interval, ...]:
        if not self.has_axis:
            return tuple(pieces)
        margin = self.within or 0
        return overlap([(low - margin, high + margin) for low, high in above], pieces)

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "upsert", "key": list(self.key), "within": self.within, "axis": self.axis}
