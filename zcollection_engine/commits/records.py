"""Records of the commit log, and their JSON.

A record is one object ``.zcommits/<20-digit number>.json``, created only if absent; its creation is the decision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from zcollection_engine.errors import FormatError
from zcollection_engine.identity import GranuleEntry

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Creation:
    """Record 0: the collection exists, with this configuration.

    Attributes
    ----------
    transaction
        Id of the attempt that created it.
    time
        UTC.
    config
        What ``_zcollection.json`` says: schema, partitioning, merge strategy.
    immutable
        SHA-256 of each variable without the partitioned dimension, staged under the transaction's id.
    """

    kind: ClassVar[str] = "create"
    transaction: str
    time: datetime
    config: Mapping[str, Any]
    immutable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """Gives one transaction its partitions; its number is the token, a later grant fences it.

    Attributes
    ----------
    owner, session
        Which writer (a stable name) and which run of it.
    seconds
        Without a sign of life for this long, by the observer's own clock, the grant may be taken over.
    """

    kind: ClassVar[str] = "grant"
    transaction: str
    time: datetime
    owner: str
    session: str
    seconds: float
    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """A sign of life of the grant ``token``."""

    kind: ClassVar[str] = "renew"
    transaction: str
    time: datetime
    token: int


@dataclass(frozen=True, slots=True)
class Release:
    """Gives the grant ``token`` back without a commit."""

    kind: ClassVar[str] = "release"
    transaction: str
    time: datetime
    token: int


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """A partition after a commit.

    Attributes
    ----------
    rows
        Number of rows.
    generation
        Of all its arrays; says which key space holds the chunks.
    axis
        Smallest and greatest axis value, None without rows.
    flipped
        When, by the store's clock, the generation that this commit was based on had become visible; None for none.
    """

    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    flipped: datetime | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """The decision about all partitions of a transaction; releases the grant ``token``.

    Attributes
    ----------
    partitions
        New state of each partition touched; those that a granule belongs to without changing them are absent.
    granules
        Added to the ledger.
    removed
        Ids of granules that are no longer in: replaced by a newer version of their key.
    lost
        Ids of granules whose rows should have come back but whose source is gone.
    published
        Every commit up to this number is known to be published.
    """

    kind: ClassVar[str] = "commit"
    transaction: str
    time: datetime
    token: int
    partitions: Mapping[str, PartitionChange]
    granules: tuple[GranuleEntry, ...]
    removed: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    published: int = 0


Record = Creation | Grant | Renewal | Release | Commit


def encode(record: Record) -> bytes:
    """Serialise a record."""
    body: dict[str, Any] = {"format_version": FORMAT_VERSION, "kind": record.kind}
    body |= {"transaction": record.transaction, "time": _time(record.time)}
    match record:
        case Creation():
            body |= {"config": record.config, "immutable": dict(record.immutable)}
        case Grant():
            body |= {"owner": record.owner, "session": record.session, "seconds": record.seconds}
            body |= {"partitions": list(record.partitions)}
        case Renewal() | Release():
            body |= {"token": record.token}
        case Commit():
            body |= {
                "token": record.token,
                "partitions": {path: _change_to_json(change) for path, change in record.partitions.items()},
                "granules": [granule.to_json() for granule in record.granules],
                "removed": [str(i) for i in record.removed],
                "lost": [str(i) for i in record.lost],
                "published": record.published,
            }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(data: bytes, *, name: str) -> Record:
    """Read a record; raises `FormatError`, which names ``name``, for one this version cannot read."""
    try:
        body = json.loads(data)
        version = body["format_version"]
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{name} has format version {version}; this zcollectiond reads up to {FORMAT_VERSION}: use a newer one"
            )
        return _decode(body, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{name} is not a record of a commit log: {error!r}") from error


def _decode(body: Mapping[str, Any], name: str) -> Record:
    common = {"transaction": body["transaction"], "time": _parse_time(body["time"])}
    match body["kind"]:
        case Creation.kind:
            return Creation(**common, config=body["config"], immutable=body["immutable"])
        case Grant.kind:
            return Grant(
                **common,
                owner=body["owner"],
                session=body["session"],
                seconds=body["seconds"],
                partitions=tuple(body["partitions"]),
            )
        case Renewal.kind:
            return Renewal(**common, token=body["token"])
        case Release.kind:
            return Release(**common, token=body["token"])
        case Commit.kind:
            return Commit(
                **common,
                token=body["token"],
                partitions={path: _change_from_json(change) for path, change in body["partitions"].items()},
                granules=tuple(GranuleEntry.from_json(granule) for granule in body["granules"]),
                removed=tuple(int(i) for i in body["removed"]),
                lost=tuple(int(i) for i in body["lost"]),
                published=body["published"],
            )
        case kind:
            raise FormatError(f"{name}: record kind {kind!r} is not known to this version; use a newer zcollectiond")


def _change_to_json(change: PartitionChange) -> dict[str, Any]:
    return {
        "rows": change.rows,
        "generation": change.generation,
        "axis": list(change.axis) if change.axis else None,
        "flipped": _time(change.flipped) if change.flipped else None,
    }


def _change_from_json(data: Mapping[str, Any]) -> PartitionChange:
    axis = data["axis"]
    flipped = data["flipped"]
    return PartitionChange(
        data["rows"],
        data["generation"],
        (axis[0], axis[1]) if axis else None,
        _parse_time(flipped) if flipped else None,
    )


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"the time {text!r} has no time zone")
    return time
