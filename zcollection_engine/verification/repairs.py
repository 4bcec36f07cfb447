"""What a repair did and what it could not do, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from zcollection_engine.verification.report import Code, Finding, Severity

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was done.

    Attributes
    ----------
    code
        The finding that it settles.
    partition, key
        See `Finding`.
    message
        What was done.
    """

    code: Code
    partition: str
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Source:
    """A granule whose rows were lost.

    Attributes
    ----------
    id, key
        Its number in the row variable ``granule``; its key.
    url
        Where it can be read again; empty if nowhere.
    """

    id: str
    key: str
    url: str


@dataclass(frozen=True, slots=True)
class LostChunk:
    """A chunk inside a shape that is gone or does not decode; nothing was changed for it.

    Attributes
    ----------
    code
        Gone or damaged.
    partition, key
        Where.
    granules
        From which its rows came: just those if the origins of the rows can be read, else all of the partition.
    """

    code: Code
    partition: str
    key: str
    granules: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class OpenGrant:
    """A grant that nobody gave back: of a writer at work, or of one that died. The next writer waits and takes it over.

    Attributes
    ----------
    token
        Number of its record.
    owner, since, seconds
        Who took it, when (UTC), and after how many seconds without a sign of life it may be taken over.
    partitions
        Paths.
    """

    token: int
    owner: str
    since: datetime
    seconds: float
    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did and what it could not do.

    Attributes
    ----------
    url
        Root of the collection.
    actions
        What was done.
    lost
        Chunks that only a backup, or their granules, can bring back.
    grants
        Grants that are open.
    swept
        Hidden files of killed writers that were removed (POSIX).
    left
        Findings that are still true, chunks besides.
    """

    url: str
    actions: tuple[Action, ...]
    lost: tuple[LostChunk, ...]
    grants: tuple[OpenGrant, ...]
    swept: int
    left: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no fault is left."""
        return not self.lost and all(f.severity is Severity.NOTE for f in self.left)

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "ok": self.ok,
            "actions": [{**asdict(action), "code": action.code.value} for action in self.actions],
            "lost": [{**asdict(chunk), "code": chunk.code.value} for chunk in self.lost],
            "grants": [{**asdict(g), "since": g.since.astimezone(UTC).isoformat()} for g in self.grants],
            "swept": self.swept,
            "left": [finding.to_json() for finding in self.left],
        }
