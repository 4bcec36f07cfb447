"""Rows with equal or near keys: which of them stays. Pure functions on numpy arrays."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def codes(columns: Sequence[Values]) -> npt.NDArray[np.intp]:
    """Return a number for each row, shape (n,): equal where all columns are equal. NaN equals NaN; text is compared."""
    found = np.zeros(columns[0].size, np.intp)
    for column in columns:
        inverse = _numbers_of_texts(column) if column.dtype == object else _numbers(column)
        found = _numbers(found * (inverse.max(initial=0) + 1) + inverse)
    return found


def steps(ordered: Values) -> Values:
    """Return the distances of neighbours in an ascending array, exact: those of integers have unsigned types."""
    found = np.diff(ordered)
    return found.view(f"u{found.itemsize}") if found.dtype.kind == "i" else found


def _numbers(values: Values) -> npt.NDArray[np.intp]:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.intp)


def _numbers_of_texts(texts: Values) -> npt.NDArray[np.intp]:
    # numpy's own texts have a fixed width and lose NUL characters at their ends.
    seen: dict[str, int] = {}
    return np.fromiter((seen.setdefault(text, len(seen)) for text in texts), np.intp, texts.size)


def last_of_each_key(columns: Sequence[Values], rank: Values) -> Mask:
    """Tell, of the rows with the same key, the one of highest rank and, of those, the last one. Shape (n,)."""
    code = codes(columns)
    order = np.lexsort((np.arange(code.size), rank, code))
    is_last = np.ones(code.size, np.bool_)
    is_last[:-1] = code[order][1:] != code[order][:-1]
    kept = np.empty(code.size, np.bool_)
    kept[order] = is_last
    return kept


def outranked_within(columns: Sequence[Values], axis: Values, rank: Values, distance: float) -> Mask:
    """Tell which rows give way to one of higher rank at most ``distance`` away on the axis, shape (n,).

    From the highest rank down, a row stays unless one that stays, of higher rank and with equal ``columns``, is so
    near.
    """
    beaten = np.zeros(axis.shape, np.bool_)
    for cluster in _clusters(columns, axis, rank, distance):
        staying: list[tuple[Any, Any]] = []
        for row in cluster[np.lexsort((axis[cluster], -rank[cluster]))]:
            here, mine = axis[row].item(), rank[row].item()
            if _has_near(staying, here, mine, distance):
                beaten[row] = True
            else:
                staying.insert(bisect_left(staying, (here, mine)), (here, mine))
    return beaten


def _clusters(columns: Sequence[Values], axis: Values, rank: Values, distance: float) -> Iterator[Values]:
    """Groups of rows that are chained by such distances and come from more than one granule."""
    code = codes(columns) if columns else np.zeros(axis.shape, np.intp)
    order = np.lexsort((axis, code))
    if not order.size:
        return
    apart = steps(axis[order]) > distance
    cuts = np.flatnonzero(apart | (np.diff(code[order]) != 0)) + 1
    for cluster in np.split(order, cuts):
        if cluster.size > 1 and np.ptp(rank[cluster]) > 0:
            yield cluster


def _has_near(staying: Sequence[tuple[Any, Any]], here: Any, rank: Any, distance: float) -> bool:
    place = bisect_left(staying, (here - distance,))
    while place < len(staying) and staying[place][0] <= here + distance:
        if staying[place][1] > rank:
            return True
        place += 1
    return False
