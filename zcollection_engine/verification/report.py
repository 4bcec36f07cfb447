"""What a verification finds, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

#: How closely chunks are looked at: not at all; whether they are there; whether they decode and hold what they should.
Chunks = Literal["none", "present", "decode"]

FORMAT_VERSION = 1


class Severity(StrEnum):
    """Whether a finding is damage, or a state in which a living collection may be."""

    FAULT = "fault"
    NOTE = "note"


class Code(StrEnum):
    """What was found; stable, for machines.

    Documents: ``UNPUBLISHED`` and ``LAGGING`` are what a crash or a writer at work leaves; ``MISSING``, ``STALE``
    (goes back behind what is known to be published), ``DAMAGED`` (no document that publication writes), ``CONFLICTING``
    (a whole document of the same commit that says something else than the log) and ``NEWER`` (a whole document of a
    commit that the log does not have) are not. ``BAD_COPY``: of a chunk of Zarr v2 that readers are shown as a copy.
    """

    UNPUBLISHED = "unpublished"
    LAGGING = "lagging_document"
    MISSING = "missing_document"
    STALE = "stale_document"
    DAMAGED = "damaged_document"
    CONFLICTING = "conflicting_document"
    NEWER = "newer_document"
    MISSING_CHUNK = "missing_chunk"
    DAMAGED_CHUNK = "damaged_chunk"
    BAD_COPY = "bad_copy"
    UNSORTED_AXIS = "unsorted_axis"
    AXIS_BOUNDS = "axis_bounds"
    UNKNOWN_GRANULE = "unknown_granule"
    TOO_MANY_ROWS = "too_many_rows"
    IMMUTABLE_DIFFERS = "immutable_differs"
    LOST_GRANULE = "lost_granule"
    CHANGED_MEANWHILE = "changed_meanwhile"

    @property
    def severity(self) -> Severity:
        return Severity.NOTE if self in _NOTES else Severity.FAULT


_NOTES = frozenset({Code.UNPUBLISHED, Code.LAGGING, Code.LOST_GRANULE, Code.CHANGED_MEANWHILE})

#: Findings about documents, which follow from the log alone.
DOCUMENT_CODES = frozenset(
    {Code.UNPUBLISHED, Code.LAGGING, Code.MISSING, Code.STALE, Code.DAMAGED, Code.CONFLICTING, Code.NEWER}
)

#: Findings about chunks whose rows cannot be read.
CHUNK_CODES = frozenset({Code.MISSING_CHUNK, Code.DAMAGED_CHUNK})

#: Findings about rows that can be read.
ROW_CODES = frozenset(
    {Code.UNSORTED_AXIS, Code.AXIS_BOUNDS, Code.UNKNOWN_GRANULE, Code.TOO_MANY_ROWS, Code.IMMUTABLE_DIFFERS}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the log says.

    Attributes
    ----------
    code
        What it is.
    partition
        Path of the partition; empty for what belongs to the whole collection.
    key
        The object, below the collection; for a finding about rows, the array.
    message
        What is wrong and what to do.
    """

    code: Code
    partition: str
    key: str
    message: str

    @property
    def severity(self) -> Severity:
        return self.code.severity

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code.value,
            "severity": self.severity.value,
            "partition": self.partition,
            "key": self.key,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """What was looked at, and what needs no explanation by the log.

    Attributes
    ----------
    partitions, documents, chunks, rows
        Checked. Rows are those whose axis and origin were decoded.
    garbage, garbage_bytes
        Chunks outside every shape and key space that the log knows: the housekeeping's business.
    foreign
        Objects with names that nothing of ours has.
    """

    partitions: int = 0
    documents: int = 0
    chunks: int = 0
    rows: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    foreign: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes
    ----------
    url
        Root of the collection.
    started, ended
        UTC.
    number, commit
        Last record and last commit of the log that were known in the end; -1 for no commit.
    chunks
        How closely chunks were looked at.
    counts
        What was checked.
    foreign
        Some of the keys that nothing of ours has.
    findings
        By partition and key.
    """

    url: str
    started: datetime
    ended: datetime
    number: int
    commit: int
    chunks: Chunks
    counts: Counts
    foreign: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault; notes may be there."""
        return not self.faults

    @property
    def faults(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.FAULT)

    @property
    def notes(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity is Severity.NOTE)

    def by_code(self) -> Mapping[Code, int]:
        """Number of findings of each code."""
        return Counter(f.code for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "started": self.started.astimezone(UTC).isoformat(timespec="microseconds"),
            "ended": self.ended.astimezone(UTC).isoformat(timespec="microseconds"),
            "number": self.number,
            "commit": self.commit,
            "chunks": self.chunks,
            "ok": self.ok,
            "counts": asdict(self.counts),
            "foreign": list(self.foreign),
            "findings": [finding.to_json() for finding in self.findings],
        }
