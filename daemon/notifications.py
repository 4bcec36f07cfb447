"""What the bodies of object-store notifications say. Pure functions, no I/O.

Each dialect is a function that takes a decoded JSON object and returns None when it is not written in that
dialect. A new dialect is one more function in ``DIALECTS``. Formats follow the vendors' own documentation:

- S3 event notifications: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
- SNS: https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
- EventBridge: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html

Nothing is dropped without a trace: whatever a body holds comes back as an object created, as a quiet reason,
or as a reason for not having been understood.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

#: S3 events that are not about new content. A kind neither here nor a creation is reported as unknown.
QUIET_EVENTS = frozenset(
    {
        "IntelligentTiering",
        "LifecycleExpiration",
        "LifecycleTransition",
        "ObjectAcl",
        "ObjectRemoved",
        "ObjectRestore",
        "ObjectTagging",
        "ReducedRedundancyLostObject",
        "Replication",
    }
)

#: SNS in SNS in SNS is the most that relays are seen to do.
_DEEPEST_ENVELOPE = 3


@dataclass(frozen=True, slots=True)
class Notification:
    """An object that was created, as its event tells it.

    Attributes
    ----------
    bucket, key
        Where it is; the key is decoded.
    etag, size
        Version and bytes, None when the event does not tell.
    event_time
        When the store finished the request, in UTC.
    sequencer
        Order of the events of one key, as the store writes it.
    event
        The record itself.
    """

    bucket: str
    key: str
    etag: str | None
    size: int | None
    event_time: datetime | None
    sequencer: str | None
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """All that one body says.

    Attributes
    ----------
    created
        Objects that landed.
    quiet
        One reason for each thing that needs no action: "test event", "ObjectRemoved", "directory marker", ...
    unknown
        One reason for each thing that was not understood.
    """

    created: tuple[Notification, ...] = ()
    quiet: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def parse(body: str) -> Parsed:
    """Read the body of one message.

    Never raises: a body that is not understood is told in ``unknown``.
    """
    return _parse(body, depth=0)


def _parse(body: str, depth: int) -> Parsed:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Parsed(unknown=(f"the body is not JSON: {error}",))
    if not isinstance(document, dict):
        return Parsed(unknown=(f"the body is a JSON {type(document).__name__}, not an object",))
    for dialect in DIALECTS:
        parsed = dialect(document, depth)
        if parsed is not None:
            return parsed
    fields = ", ".join(sorted(document)[:8]) or "none"
    return Parsed(unknown=(f"no notification format that is known has these fields: {fields}",))


def _test_event(document: Mapping[str, Any], _depth: int) -> Parsed | None:
    """What S3 sends once when a notification is configured."""
    return Parsed(quiet=("test event",)) if document.get("Event") == "s3:TestEvent" else None


def _s3_records(document: Mapping[str, Any], _depth: int) -> Parsed | None:
    """S3 event notification, version 2.x: ``{"Records": [...]}``."""
    records = document.get("Records")
    if not isinstance(records, list):
        return None
    if not records:
        return Parsed(quiet=("no records",))
    return _join([_s3_record(record) for record in records])


def _sns(document: Mapping[str, Any], depth: int) -> Parsed | None:
    """SNS without raw delivery: the message is a string in an envelope."""
    kind = document.get("Type")
    if "TopicArn" not in document or not isinstance(kind, str):
        return None
    if kind in {"SubscriptionConfirmation", "UnsubscribeConfirmation"}:
        return Parsed(quiet=(f"SNS {kind}",))
    message = document.get("Message")
    if kind != "Notification" or not isinstance(message, str):
        return Parsed(unknown=(f"an SNS message of the type {kind!r} without a text in Message",))
    if depth >= _DEEPEST_ENVELOPE:
        return Parsed(unknown=(f"more than {_DEEPEST_ENVELOPE} SNS envelopes in one another",))
    return _parse(message, depth + 1)


def _event_bridge(document: Mapping[str, Any], _depth: int) -> Parsed | None:
    """EventBridge: one object a message, the key is not escaped."""
    if document.get("source") != "aws.s3" or not isinstance(document.get("detail-type"), str):
        return None
    kind = document["detail-type"]
    if kind != "Object Created":
        known = kind.startswith("Object ")
        return Parsed(quiet=(kind,)) if known else Parsed(unknown=(f"an EventBridge event {kind!r}",))
    return _created(document.get("detail"), decode=str, event=document, time=document.get("time"))


#: All dialects in the order in which they are tried.
DIALECTS: tuple[Callable[[Mapping[str, Any], int], Parsed | None], ...] = (
    _test_event,
    _s3_records,
    _sns,
    _event_bridge,
)


def _s3_record(record: object) -> Parsed:
    if not isinstance(record, dict):
        return Parsed(unknown=(f"a record is a JSON {type(record).__name__}, not an object",))
    source, version, name = (record.get(k) for k in ("eventSource", "eventVersion", "eventName"))
    if source != "aws:s3":
        return Parsed(unknown=(f"a record of the event source {source!r}; only 'aws:s3' is known",))
    if not isinstance(version, str) or version.partition(".")[0] != "2":
        return Parsed(unknown=(f"a record of the event version {version!r}; only 2.x is known",))
    kind = name.partition(":")[0] if isinstance(name, str) else ""
    if kind in QUIET_EVENTS:
        return Parsed(quiet=(kind,))
    if kind != "ObjectCreated":
        return Parsed(unknown=(f"a record of the event {name!r}",))
    return _created(record.get("s3"), decode=_decode_key, event=record, time=record.get("eventTime"))


def _created(entity: object, *, decode: Callable[[str], str], event: Mapping[str, Any], time: object) -> Parsed:
    """Read ``{"bucket": {"name": ...}, "object": {"key": ..., ...}}``, which S3 and EventBridge share."""
    bucket, found = _member(entity, "bucket").get("name"), _member(entity, "object")
    key = found.get("key")
    if not isinstance(bucket, str) or not isinstance(key, str) or not bucket or not key:
        return Parsed(unknown=(f"a created object without a bucket or a key: bucket {bucket!r}, key {key!r}",))
    try:
        key = decode(key)
        f"{bucket}/{key}".encode()
    except UnicodeError:
        return Parsed(unknown=(f"the key {key!r} in the bucket {bucket!r} is not UTF-8",))
    if key.endswith("/"):
        return Parsed(quiet=("directory marker",))
    notification = Notification(
        bucket=bucket,
        key=key,
        etag=_etag(found.get("eTag", found.get("etag"))),
        size=_size(found.get("size")),
        event_time=_utc(time),
        sequencer=found.get("sequencer") if isinstance(found.get("sequencer"), str) else None,
        event=event,
    )
    return Parsed(created=(notification,))


def _decode_key(key: str) -> str:
    return unquote_plus(key, errors="strict")


def _member(entity: object, name: str) -> Mapping[str, Any]:
    member = entity.get(name) if isinstance(entity, dict) else None
    return member if isinstance(member, dict) else {}


def _etag(value: object) -> str | None:
    return (value.strip('"') or None) if isinstance(value, str) else None


def _size(value: object) -> int | None:
    """Some relays write numbers as text. What is no number is left out: the store knows better anyway."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _utc(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _join(parts: list[Parsed]) -> Parsed:
    return Parsed(
        created=tuple(n for part in parts for n in part.created),
        quiet=tuple(reason for part in parts for reason in part.quiet),
        unknown=tuple(reason for part in parts for reason in part.unknown),
    )
