"""What the bodies of notifications are taken to say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.notifications import QUIET_EVENTS, Parsed, parse


def s3_record(key: str = "granules/a.nc", **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "eventVersion": "2.5",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": "2024-05-06T07:08:09.123Z",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": "landing", "arn": "arn:aws:s3:::landing"},
            "object": {"key": key, "size": 4096, "eTag": "d41d8cd9-2", "sequencer": "0055AED6DCD90281E5"},
        },
    }
    return {**record, **changes}


def s3_object(**fields: Any) -> dict[str, Any]:
    return {"bucket": {"name": "landing"}, "object": fields}


def sns(message: str, **changes: Any) -> dict[str, Any]:
    envelope = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-1:1:topic"}
    return {**envelope, "Message": message, **changes}


def event_bridge(key: str = "granules/a.nc", **changes: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "time": "2024-05-06T07:08:09Z",
        "detail": {
            "version": "0",
            "bucket": {"name": "landing"},
            "object": {"key": key, "size": 4096, "etag": "d41d8cd9-2", "sequencer": "00"},
            "reason": "PutObject",
        },
        **changes,
    }


def parse_records(*records: Any) -> Parsed:
    return parse(json.dumps({"Records": list(records)}))


def test_an_s3_record_tells_all_of_the_identity() -> None:
    record = s3_record()
    (found,) = parse_records(record).created
    assert (found.bucket, found.key, found.etag, found.size) == (
        "landing",
        "granules/a.nc",
        "d41d8cd9-2",
        4096,
    )
    assert found.event_time == datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    assert found.sequencer == "0055AED6DCD90281E5"
    assert found.event == record


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("a+b.nc", "a b.nc"),
        ("in%2Fa%2Bb.nc", "in/a+b.nc"),
        ("in/a%20b%25.nc", "in/a b%.nc"),
        ("date%3D2024-01-01/%C3%A9.nc", "date=2024-01-01/é.nc"),
    ],
)
def test_keys_of_s3_records_are_decoded(written: str, key: str) -> None:
    assert [n.key for n in parse_records(s3_record(written)).created] == [key]


def test_keys_of_eventbridge_are_taken_as_they_are() -> None:
    (found,) = parse(json.dumps(event_bridge("a+b%20c.nc"))).created
    assert found.key == "a+b%20c.nc"
    assert (found.bucket, found.etag, found.size) == ("landing", "d41d8cd9-2", 4096)


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.3", "2.9", "2.10"])
def test_every_minor_version_and_unknown_fields_are_understood(version: str) -> None:
    parsed = parse_records(s3_record(eventVersion=version, somethingNew={"a": 1}))
    assert len(parsed.created) == 1


@pytest.mark.parametrize("cause", ["Put", "Post", "Copy", "CompleteMultipartUpload", "SomethingNew"])
def test_every_way_of_creation_counts(cause: str) -> None:
    assert len(parse_records(s3_record(eventName=f"ObjectCreated:{cause}")).created) == 1


def test_every_record_of_a_message_counts() -> None:
    records = [s3_record(f"{number}.nc") for number in range(4)]
    parsed = parse_records(*records[:2], s3_record(eventVersion="3.0"), *records[2:], s3_record("folder/"))
    assert [n.key for n in parsed.created] == ["0.nc", "1.nc", "2.nc", "3.nc"]
    assert parsed.quiet == ("directory marker",)
    assert len(parsed.unknown) == 1


def test_envelopes_of_sns_are_opened_also_in_one_another() -> None:
    body = json.dumps({"Records": [s3_record()]})
    once = json.dumps(sns(body))
    assert parse(once) == parse(json.dumps(sns(once))) == parse(body)
    assert parse(json.dumps(sns(json.dumps(event_bridge())))).created


def test_envelopes_without_end_are_refused() -> None:
    body = json.dumps({"Records": [s3_record()]})
    for _ in range(5):
        body = json.dumps(sns(body))
    assert "envelopes" in parse(body).unknown[0]


@pytest.mark.parametrize("kind", sorted(QUIET_EVENTS))
def test_events_without_new_content_are_quiet(kind: str) -> None:
    assert parse_records(s3_record(eventName=f"{kind}:Anything")) == Parsed(quiet=(kind,))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "landing"}, "test event"),
        ({"Records": []}, "no records"),
        ({"Records": [s3_record("folder/")]}, "directory marker"),
        (event_bridge("folder/"), "directory marker"),
        (event_bridge(**{"detail-type": "Object Deleted"}), "Object Deleted"),
        (sns("", Type="SubscriptionConfirmation"), "SNS SubscriptionConfirmation"),
        (sns("", Type="UnsubscribeConfirmation"), "SNS UnsubscribeConfirmation"),
        (sns(json.dumps({"Event": "s3:TestEvent"})), "test event"),
    ],
)
def test_control_messages_are_quiet(body: dict[str, Any], reason: str) -> None:
    assert parse(json.dumps(body)) == Parsed(quiet=(reason,))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "list"),
        ("3", "int"),
        (json.dumps({"files": ["a.nc"], "cid": 3}), "cid, files"),
        (json.dumps({}), "none"),
        (json.dumps({"Records": "text"}), "Records"),
        (json.dumps({"Records": ["text"]}), "str"),
        (json.dumps({"Records": [s3_record(eventSource="minio:s3")]}), "minio:s3"),
        (json.dumps({"Records": [s3_record(eventVersion="3.0")]}), "3.0"),
        (json.dumps({"Records": [s3_record(eventVersion=2)]}), "event version 2"),
        (json.dumps({"Records": [s3_record(eventName=None)]}), "event None"),
        (json.dumps({"Records": [s3_record(eventName="ObjectEaten:All")]}), "ObjectEaten"),
        (json.dumps({"Records": [s3_record(s3=None)]}), "without a bucket or a key"),
        (json.dumps({"Records": [s3_record(s3=s3_object(key=7))]}), "without a bucket or a key"),
        (json.dumps({"Records": [s3_record("%FF.nc")]}), "UTF-8"),
        (json.dumps({"Records": [s3_record("\ud800.nc")]}), "UTF-8"),
        (json.dumps(event_bridge(detail="text")), "without a bucket or a key"),
        (json.dumps(event_bridge(**{"detail-type": "AWS API Call via CloudTrail"})), "CloudTrail"),
        (json.dumps(sns("no JSON")), "not JSON"),
        (json.dumps(sns("", Message=None)), "Message"),
    ],
)
def test_what_is_not_understood_is_told_with_the_reason(body: str, reason: str) -> None:
    parsed = parse(body)
    assert parsed.created == parsed.quiet == ()
    assert reason in parsed.unknown[0]


@pytest.mark.parametrize(
    ("told", "size"),
    [
        (0, 0),
        ("17", 17),
        (None, None),
        ("many", None),
        (-1, None),
        (True, None),
        (1.5, None),
        ("9" * 5000, None),
    ],
)
def test_a_size_that_is_no_number_is_left_to_the_store(told: object, size: int | None) -> None:
    (found,) = parse_records(s3_record(s3=s3_object(key="a.nc", size=told))).created
    assert found.size == size


@pytest.mark.parametrize(("told", "etag"), [('"abc"', "abc"), ("abc-3", "abc-3"), ("", None), (None, None), (3, None)])
def test_etags_have_no_quotes(told: object, etag: str | None) -> None:
    (found,) = parse_records(s3_record(s3=s3_object(key="a.nc", eTag=told))).created
    assert found.etag == etag


@pytest.mark.parametrize("told", [None, "", "yesterday", 17, "0001-01-01T00:00:00+23:59"])
def test_a_time_that_is_none_does_not_cost_the_object(told: object) -> None:
    (found,) = parse_records(s3_record(eventTime=told)).created
    assert found.event_time is None


@pytest.mark.parametrize("told", ["2024-05-06 07:08:09", "2024-05-06T09:08:09+02:00", "2024-05-06T07:08:09Z"])
def test_times_are_in_utc(told: str) -> None:
    (found,) = parse_records(s3_record(eventTime=told)).created
    assert found.event_time == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("eventVersion", "eventSource", "eventName", "eventTime", "s3")


@given(JSON)
def test_nothing_is_silent_whatever_the_body(document: object) -> None:
    parsed = parse(json.dumps(document))
    assert parsed.created or parsed.quiet or parsed.unknown


@given(st.lists(st.tuples(st.sampled_from(FIELDS), JSON), max_size=3))
def test_each_record_has_exactly_one_outcome_whatever_its_fields(changes: list[tuple[str, object]]) -> None:
    parsed = parse_records(s3_record(**dict(changes)), s3_record())
    assert len(parsed.created) + len(parsed.quiet) + len(parsed.unknown) == 2
