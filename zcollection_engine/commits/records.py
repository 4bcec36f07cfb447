"""Records of the commit log, and their JSON.

A record is one object ``.zcommits/<20-digit number>.json``, created only if absent; its creation is the decision.
"""

from __future__ import annotations

import json
from collections.abc import Collection as Members
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from zcollection_engine.errors import FormatError
from zcollection_engine.identity import GranuleEntry

FORMAT_VERSION = 1

#: Stands in a grant for all partitions, those that do not exist yet included.
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Creation:
    """Record 0: the collection exists.

    Attributes
    ----------
    transaction
        Id of the attempt that created it: the collection's identity, and the name of its first configuration, which is
        stored before this record.
    time
        UTC.
    """

    kind: ClassVar[str] = "create"
    transaction: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """Gives one transaction its partitions; its number is the token, a later grant fences it.

    Attributes
    ----------
    owner, session
        Which writer (a stable name) and which run of it.
    seconds
        Without a sign of life for this long, by the observer's own clock, the grant may be taken over.
    partitions
        Paths; `EVERYTHING` stands for the whole collection.
    """

    kind: ClassVar[str] = "grant"
    transaction: str
    time: datetime
    owner: str
    session: str
    seconds: float
    partitions: tuple[str, ...]

    def covers(self, paths: Members[str]) -> bool:
        """Tell whether the grant and ``paths`` have a partition in common."""
        return EVERYTHING in self.partitions or EVERYTHING in paths or any(p in paths for p in self.partitions)


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
    imported
        Whether it is taken over as it lies.
    """

    rows: int
    generation: int
    axis: tuple[Any, Any] | None
    flipped: datetime | None = None
    imported: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """The decision about all partitions of a transaction; releases the grant ``token``.

    Attributes
    ----------
    operation
        What the transaction was: "merge", "retract", "drop", "rollback", "attributes", "drift" (the policy), "add"
        or "remove" (variables), "import".
    partitions
        New state of each partition touched; those that a granule belongs to without changing them are absent.
    granules
        Added to the ledger.
    removed
        Granules that are no longer in: replaced by a newer version of their key, or rolled back.
    dropped
        Paths of partitions that lose all rows and all granules' shares; the granules themselves stay known.
    config
        Name of the configuration from now on; None while it stays.
    withdrawn
        Granules that a rollback went back behind, whether they were still in or not: they stay out when delivered
        again. Entries without shares.
    lost
        Ids of granules whose rows should have come back but whose source is gone.
    published
        Partitions whose last commit is not behind this number are known to be published.
    """

    kind: ClassVar[str] = "commit"
    transaction: str
    time: datetime
    token: int
    partitions: Mapping[str, PartitionChange]
    granules: tuple[GranuleEntry, ...] = ()
    removed: tuple[GranuleEntry, ...] = ()
    lost: tuple[int, ...] = ()
    published: int = 0
    operation: str = "merge"
    dropped: tuple[str, ...] = ()
    config: str | None = None
    withdrawn: tuple[GranuleEntry, ...] = ()


Record = Creation | Grant | Renewal | Release | Commit


def encode(record: Record) -> bytes:
    """Serialise a record."""
    body: dict[str, Any] = {"format_version": FORMAT_VERSION, "kind": record.kind}
    body |= {"transaction": record.transaction, "time": time_text(record.time)}
    match record:
        case Grant():
            body |= {"owner": record.owner, "session": record.session, "seconds": record.seconds}
            body |= {"partitions": list(record.partitions)}
        case Renewal() | Release():
            body |= {"token": record.token}
        case Commit():
            body |= {
                "operation": record.operation,
                "token": record.token,
                "partitions": {path: _change_to_json(change) for path, change in record.partitions.items()},
                "granules": [granule.to_json() for granule in record.granules],
                "removed": [granule.to_json() for granule in record.removed],
                "lost": [str(i) for i in record.lost],
                "published": record.published,
            }
            if record.dropped:
                body["dropped"] = list(record.dropped)
            if record.config is not None:
                body["config"] = record.config
            if record.withdrawn:
                body["withdrawn"] = [granule.to_json() for granule in record.withdrawn]
    return dump(body)


def dump(body: Mapping[str, Any]) -> bytes:
    """Serialise a JSON document of the log; the same document always gives the same bytes."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(data: bytes, *, name: str) -> dict[str, Any]:
    """Read a JSON document of the log.

    Raises
    ------
    FormatError
        If it is none, or one of a newer format; the message names ``name``.
    """
    try:
        body: dict[str, Any] = json.loads(data)
        version = body["format_version"]
        newer = version > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{name} is no document of a commit log: {error!r}") from error
    if newer:
        raise FormatError(
            f"{name} has format version {version}; this zcollectiond reads up to {FORMAT_VERSION}: use a newer one"
        )
    return body


def decode(data: bytes, *, name: str) -> Record:
    """Read a record; raises `FormatError`, which names ``name``, for one this version cannot read."""
    body = parse(data, name=name)
    try:
        return _decode(body, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{name} is no record of a commit log: {error!r}") from error


def _decode(body: Mapping[str, Any], name: str) -> Record:
    common = {"transaction": body["transaction"], "time": parse_time(body["time"])}
    match body["kind"]:
        case Creation.kind:
            return Creation(**common)
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
                removed=tuple(GranuleEntry.from_json(granule) for granule in body["removed"]),
                lost=tuple(int(i) for i in body["lost"]),
                published=body["published"],
                operation=body["operation"],
                dropped=tuple(body.get("dropped", ())),
                config=body.get("config"),
                withdrawn=tuple(GranuleEntry.from_json(granule) for granule in body.get("withdrawn", ())),
            )
        case kind:
            raise FormatError(f"{name}: record kind {kind!r} is not known to this version; use a newer zcollectiond")


def _change_to_json(change: PartitionChange) -> dict[str, Any]:
    body = {
        "rows": change.rows,
        "generation": change.generation,
        "axis": list(change.axis) if change.axis else None,
        "flipped": time_text(change.flipped) if change.flipped else None,
    }
    return {**body, "imported": True} if change.imported else body


def _change_from_json(data: Mapping[str, Any]) -> PartitionChange:
    axis = data["axis"]
    flipped = data["flipped"]
    return PartitionChange(
        data["rows"],
        data["generation"],
        (axis[0], axis[1]) if axis else None,
        parse_time(flipped) if flipped else None,
        data.get("imported", False),
    )


def time_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"the time {text!r} has no time zone")
    return time
