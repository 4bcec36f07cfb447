"""Orders in which granules are delivered, and the feeding of many collections side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

SEEDS = (1, 2, 3, 4, 5)


def orders(items: Sequence[T], seeds: Sequence[int] = SEEDS) -> dict[str, list[T]]:
    """Sorted, reversed and seeded shuffles, by a name that is good in a path."""
    found = {"sorted": list(items), "reversed": list(reversed(items))}
    for seed in seeds:
        shuffled = list(items)
        random.Random(seed).shuffle(shuffled)  # noqa: S311 - a fixed order, no secret
        found[f"shuffle-{seed}"] = shuffled
    return found


def side_by_side(
    deliveries: Mapping[str, Sequence[T]],
    put: Callable[[str, T], None],
    until: Callable[[Callable[[], bool]], None],
    count: Callable[[str], int],
) -> None:
    """Deliver one granule at a time to each collection, the next one when the previous one is visible.

    Parameters
    ----------
    deliveries
        In their order, by collection.
    put
        Delivers a granule to a collection.
    until
        Waits for a condition.
    count
        How many granules are visible in a collection.
    """
    waiting: dict[str, Iterator[T]] = {name: iter(items) for name, items in deliveries.items()}
    delivered = dict.fromkeys(waiting, 0)

    def advance() -> bool:
        for name in [name for name in waiting if count(name) >= delivered[name]]:
            for item in islice(waiting[name], 1):
                put(name, item)
                delivered[name] += 1
                break
            else:
                del waiting[name]
        return not waiting

    until(advance)
