"""Records of the log: what is written is what is read, and what cannot be read is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcollection_engine.commits.records import (
    FORMAT_VERSION,
    Commit,
    Creation,
    Grant,
    PartitionChange,
    Record,
    Release,
    Renewal,
    decode,
    encode,
)
from zcollection_engine.errors import FormatError
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ids = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 2**40)
axis_values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
bounds = st.tuples(axis_values, axis_values)

entries = st.builds(
    GranuleEntry,
    st.builds(GranuleIdentity, names, names, names, numbers),
    names,
    st.lists(st.integers(-(2**63), 2**63), max_size=3).map(tuple),
    st.dictionaries(names, st.builds(Share, numbers, st.lists(bounds, max_size=3).map(tuple)), max_size=2),
)
changes = st.builds(PartitionChange, numbers, numbers, st.none() | bounds, st.none() | moments)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Creation, names, moments),
    st.builds(Grant, names, moments, names, names, st.floats(0, 1e6), st.lists(names, max_size=3).map(tuple)),
    st.builds(Renewal, names, moments, numbers),
    st.builds(Release, names, moments, numbers),
    st.builds(
        Commit,
        names,
        moments,
        numbers,
        st.dictionaries(names, changes, max_size=2),
        st.lists(entries, max_size=2).map(tuple),
        st.lists(entries, max_size=2).map(tuple),
        st.lists(ids, max_size=3).map(tuple),
        numbers,
        st.sampled_from(["merge", "drop", "rollback", "attributes"]),
        st.lists(names, max_size=3).map(tuple),
        st.none() | names,
    ),
)

WHEN = datetime(2024, 1, 1, tzinfo=UTC)


@given(records)
def test_a_record_survives_json(record: Record) -> None:
    data = encode(record)
    again = decode(data, name="x")
    assert again == record
    assert encode(again) == data


@given(records)
def test_a_record_is_strict_json_and_tells_its_format(record: Record) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    body = json.loads(encode(record), parse_constant=refuse)
    assert (body["format_version"], body["kind"]) == (FORMAT_VERSION, record.kind)


def test_ids_are_text_so_that_readers_with_64_bit_floats_keep_them() -> None:
    entry = GranuleEntry(GranuleIdentity("b", "k", "e", 1), "", (1,))
    body = json.loads(encode(Commit("t", WHEN, 0, {}, (entry,), (entry,), (2**63 + 1,))))
    assert body["removed"][0]["id"] == str(entry.id)
    assert body["lost"] == [str(2**63 + 1)]
    assert body["granules"][0]["id"] == str(entry.id)


def test_times_are_written_in_utc() -> None:
    there = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    body = json.loads(encode(Renewal("t", there, 1)))
    assert body["time"] == "2024-01-01T00:00:00.000000Z"


def without(record: Record, member: str) -> bytes:
    body = json.loads(encode(record))
    del body[member]
    return json.dumps(body).encode()


def changed(record: Record, **members: Any) -> bytes:
    return json.dumps({**json.loads(encode(record)), **members}).encode()


GRANT = Grant("t", WHEN, "me", "s", 60.0, ("day=1",))
COMMIT = Commit("t", WHEN, 1, {"day=1": PartitionChange(1, 0, (0, 1))}, ())


def test_a_newer_format_is_refused_with_the_advice_to_use_a_newer_version() -> None:
    with pytest.raises(FormatError, match=r"s3://b/x\.json has format version 2.*newer"):
        decode(changed(GRANT, format_version=2, kind="something else"), name="s3://b/x.json")


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match=r"x\.json.*'compaction'"):
        decode(changed(GRANT, kind="compaction"), name="x.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"format_version": 1}',
        changed(GRANT, format_version="1"),
        changed(GRANT, format_version=None),
        changed(GRANT, time="yesterday"),
        changed(GRANT, time=5),
        changed(GRANT, time="2024-01-01T00:00:00"),
        changed(GRANT, partitions=7),
        changed(COMMIT, partitions=[]),
        changed(COMMIT, partitions={"day=1": {"rows": 1}}),
        changed(COMMIT, granules=[{"bucket": "b"}]),
        changed(COMMIT, removed=["x"]),
        changed(COMMIT, removed=[str(2**64 - 1)]),
        changed(COMMIT, lost=["x"]),
        changed(COMMIT, dropped=7),
        without(COMMIT, "operation"),
        without(GRANT, "seconds"),
        without(COMMIT, "token"),
        without(COMMIT, "kind"),
        encode(COMMIT)[:-1],
    ],
)
def test_garbage_is_refused_by_the_name_of_its_object(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"memory://c/\.zcommits/5\.json"):
        decode(data, name="memory://c/.zcommits/5.json")
