"""What each merge strategy keeps of a set of granules: its definition in plain Python, none of the engine's code.

A granule has a name, a rank and rows in one partition. A row is a tuple, its axis value first. An oracle takes granules
in any order and returns (name, place in the granule) of the rows that stay, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = tuple[Any, ...]
Kept = tuple[Any, int]
Key = Callable[[Row], Hashable]


@dataclass(frozen=True)
class Given:
    """What a granule has in a partition."""

    name: Any
    rank: tuple[Any, ...]
    rows: Sequence[Row]


def replace(granules: Iterable[Given]) -> list[Kept]:
    """Only the rows of the highest granule."""
    return _ordered(granules, lambda ranked, number, _: number == len(ranked) - 1)


def concat(granules: Iterable[Given]) -> list[Kept]:
    """All rows."""
    return _ordered(granules, lambda *_: True)


def time_series(granules: Iterable[Given], tolerance: int | None = None) -> list[Kept]:
    """Rows inside an interval of a higher granule go."""

    def stays(ranked: Sequence[Given], number: int, place: int) -> bool:
        value = ranked[number].rows[place][0]
        above = [i for higher in ranked[number + 1 :] for i in intervals([row[0] for row in higher.rows], tolerance)]
        return not any(low <= value <= high for low, high in above)

    return _ordered(granules, stays)


def upsert(granules: Iterable[Given], key: Key = lambda row: row[0]) -> list[Kept]:
    """Of the rows with the same key the last one of the highest granule stays."""

    def stays(ranked: Sequence[Given], number: int, place: int) -> bool:
        behind = [row for higher in ranked[number + 1 :] for row in higher.rows]
        mine, *later = ranked[number].rows[place:]
        return key(mine) not in {key(row) for row in (*later, *behind)}

    return _ordered(granules, stays)


def upsert_within(granules: Iterable[Given], within: float, key: Key = lambda row: ()) -> list[Kept]:
    """One row for each key, then from the highest rank down those that no row which stays lies near.

    ``key`` is what must be equal besides the axis.
    """
    granules = list(granules)
    ranked = sorted(granules, key=lambda g: g.rank)
    single = set(upsert(granules, lambda row: (row[0], key(row))))
    staying: set[Kept] = set()
    for granule in reversed(ranked):
        taken = [row for other in ranked for p, row in enumerate(other.rows) if (other.name, p) in staying]
        staying |= {
            (granule.name, place)
            for place, row in enumerate(granule.rows)
            if (granule.name, place) in single
            and not any(key(row) == key(other) and abs(row[0] - other[0]) <= within for other in taken)
        }
    return _ordered(granules, lambda ranked, number, place: (ranked[number].name, place) in staying)


def intervals(values: Iterable[Any], tolerance: int | None) -> list[tuple[Any, Any]]:
    """Closed intervals that hold the values, cut at gaps longer than the tolerance."""
    found: list[list[Any]] = []
    for value in sorted(values):
        if found and (tolerance is None or value - found[-1][1] <= tolerance):
            found[-1][1] = value
        else:
            found.append([value, value])
    return [(low, high) for low, high in found]


def _ordered(granules: Iterable[Given], stays: Callable[[Sequence[Given], int, int], bool]) -> list[Kept]:
    """Rows that stay, by axis, rank and place in the granule."""
    ranked = sorted(granules, key=lambda g: g.rank)
    rows = [(row[0], number, place) for number, g in enumerate(ranked) for place, row in enumerate(g.rows)]
    return [(ranked[number].name, place) for _, number, place in sorted(rows) if stays(ranked, number, place)]
