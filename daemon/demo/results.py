"""What came of a demonstration, and whether that is what had to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from daemon.demo.delivery import Delivered
from daemon.demo.granules import DemoGranule, Kind
from daemon.journal import Entry, State
from zcollection_engine.view import Partition


class Outcome(StrEnum):
    """What became of a delivery."""

    IN = "in the collection"
    REPLACED = "replaced"
    RECOGNISED = "recognised"
    QUARANTINED = "quarantined"
    SKIPPED = "skipped"
    LOST = "not settled"


_STATES = {State.COMMITTED: Outcome.IN, State.QUARANTINED: Outcome.QUARANTINED, State.SKIPPED: Outcome.SKIPPED}
_FATES = {
    Kind.REPEATED: Outcome.RECOGNISED,
    Kind.TRUNCATED: Outcome.QUARANTINED,
    Kind.WRONG_SCHEMA: Outcome.QUARANTINED,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A delivery and what became of it; ``entry`` is None where the daemon did nothing."""

    delivered: Delivered
    outcome: Outcome
    entry: Entry | None

    @property
    def granule(self) -> DemoGranule:
        return self.delivered.granule


@dataclass(frozen=True)
class Results:
    """What came of a demonstration.

    Attributes
    ----------
    delivered
        Every delivery, in their order.
    backlog
        How many of them were made before the daemon started.
    entries
        What the daemon reported, in its order.
    partitions
        Of the collection.
    objects
        Sizes in bytes by key, relative to the collection's root.
    """

    delivered: Sequence[Delivered]
    backlog: int
    entries: Sequence[Entry]
    partitions: Sequence[Partition]
    objects: Mapping[str, int]

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """Every delivery with its outcome."""
        entries = {(entry.key, entry.etag): entry for entry in self.entries}
        last = {d.granule.key: d.etag for d in self.delivered}
        seen: set[tuple[str, str]] = set()
        found = []
        for delivered in self.delivered:
            version = (delivered.granule.key, delivered.etag)
            entry = entries.get(version)
            if version in seen:
                found.append(Judged(delivered, Outcome.RECOGNISED, None))
                continue
            seen.add(version)
            outcome = _STATES.get(entry.state, Outcome.LOST) if entry else Outcome.LOST
            if outcome is Outcome.IN and last[delivered.granule.key] != delivered.etag:
                outcome = Outcome.REPLACED
            found.append(Judged(delivered, outcome, entry))
        return tuple(found)

    @property
    def rows(self) -> int:
        return sum(partition.rows for partition in self.partitions)

    def with_outcome(self, outcome: Outcome) -> list[Judged]:
        """The deliveries that came to an outcome."""
        return [judged for judged in self.judged if judged.outcome is outcome]

    def latencies(self, *, backlog: bool) -> list[float]:
        """Seconds from event to visible, ascending, of what waited before the daemon started or of what came after."""
        part = self.judged[: self.backlog] if backlog else self.judged[self.backlog :]
        visible = (j.entry for j in part if j.outcome in {Outcome.IN, Outcome.REPLACED})
        return sorted(entry.latency for entry in visible if entry is not None and entry.latency is not None)

    def surprises(self) -> list[str]:
        """What is not as the demonstration was made to be; one line each, empty when all is well."""
        found = []
        changed = {j.granule.key for j in self.judged if j.granule.kind is Kind.CHANGED}
        for judged in self.judged:
            is_first = judged.granule.key in changed and judged.granule.kind is not Kind.CHANGED
            expected = Outcome.REPLACED if is_first else _FATES.get(judged.granule.kind, Outcome.IN)
            if judged.outcome is not expected:
                why = f" ({judged.entry.reason}: {judged.entry.message})" if judged.entry else ""
                found.append(f"{judged.granule.key}: {judged.outcome}{why}, expected: {expected}")
        rows = sum(judged.granule.rows for judged in self.with_outcome(Outcome.IN))
        if rows != self.rows:
            found.append(f"the collection has {self.rows} rows, its granules have {rows}")
        return found
