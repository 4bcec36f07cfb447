"""What garbage collection may remove, and what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.stores.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class GarbageRules:
    """What may be removed.

    Attributes
    ----------
    min_age
        Nothing younger is removed, by the store's clock; more than any transaction or request lasts.
    retention
        Every commit younger than this stays readable as far as its data are there now: neither its records nor chunks
        that were retired since are removed.
    """

    min_age: timedelta = timedelta(hours=24)
    retention: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        for name, value in (("min_age", self.min_age), ("retention", self.retention)):
            if value < timedelta(0):
                raise InvalidInputError(f"{name} is {value}; it must not be negative")


@dataclass(slots=True)
class GarbageReport:
    """What was removed, or would be.

    Attributes
    ----------
    dry_run
        Whether nothing was removed.
    objects, size
        By kind ("chunk", "checkpoint", "record", "table", "config", "staged", "probe", "part"): number of objects, and
        bytes; those of the kind "part", which no listing shows, are counted only when removed, and without bytes.
    busy
        Partitions with garbage that were left alone, or would be, since another writer holds them; each with the
        reason.
    foreign
        Number of objects that are none of ours; they are never touched.
    """

    dry_run: bool
    objects: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    busy: dict[str, str] = field(default_factory=dict)
    foreign: int = 0

    def add(self, kind: str, infos: Iterable[ObjectInfo]) -> None:
        """Count objects."""
        for info in infos:
            self.objects[kind] += 1
            self.size[kind] += info.size
