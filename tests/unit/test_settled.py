"""The documents about granules that will not go in."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.failures import Failure, Kind, judge
from daemon.journal import Entry, State
from daemon.settled import FORMAT_VERSION, Settled, SettledDocuments, document_key
from zcollection_engine.errors import (
    ConflictError,
    FormatError,
    PreconditionFailedError,
    SchemaMismatchError,
)
from zcollection_engine.stores.memory import MemoryStore

NOON = datetime(2026, 7, 30, 12, tzinfo=UTC)
QUARANTINED = Entry(
    "17",
    "s6a",
    "bucket",
    "in/é 1.nc",
    State.QUARANTINED,
    etag="abc",
    size=12,
    reason="schema_mismatch",
    message="variable 'ssh' has dtype int16",
    attempts=1,
    settled=NOON,
)
SKIPPED = replace(QUARANTINED, id="18", state=State.SKIPPED, reason="empty", message="no rows")
FAILURE = Failure(Kind.QUARANTINE, "schema_mismatch", "variable 'ssh' has dtype int16")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def documents(store: MemoryStore) -> SettledDocuments:
    return SettledDocuments(store)


def write(documents: SettledDocuments, entry: Entry, failure: Failure = FAILURE, **event: Any) -> None:
    documents.write(entry, replace(failure, reason=entry.reason), url="s3://bucket/in/1.nc", event=event)


def test_what_was_written_is_known_at_once_and_after_a_restart(store: MemoryStore, documents: SettledDocuments) -> None:
    write(documents, QUARANTINED)
    write(documents, SKIPPED)
    restarted = SettledDocuments(store)
    loaded = {entry.id: entry for entry in restarted.load()}
    assert loaded["17"] == QUARANTINED
    assert {identity: entry.state for identity, entry in loaded.items()} == {
        "17": State.QUARANTINED,
        "18": State.SKIPPED,
    }
    for known in (documents, restarted):
        assert known.find("s6a", "17") == Settled(State.QUARANTINED, "schema_mismatch")
        assert known.find("s6a", "18") == Settled(State.SKIPPED, "empty")
        assert known.find("other", "17") is None


def test_a_document_tells_all_that_is_known(store: MemoryStore, documents: SettledDocuments) -> None:
    with pytest.raises(SchemaMismatchError) as caught:
        raise SchemaMismatchError("variable 'ssh' has dtype int16")
    write(documents, QUARANTINED, judge(caught.value), eventName="ObjectCreated:Put")
    document = json.loads(store.get("quarantine/s6a/17.json").data)
    trace = document.pop("traceback")
    assert "SchemaMismatchError: variable 'ssh' has dtype int16" in trace
    assert "test_settled.py" in trace
    assert document == {
        "format_version": FORMAT_VERSION,
        "id": "17",
        "collection": "s6a",
        "url": "s3://bucket/in/1.nc",
        "bucket": "bucket",
        "key": "in/é 1.nc",
        "etag": "abc",
        "size": 12,
        "reason": "schema_mismatch",
        "message": "variable 'ssh' has dtype int16",
        "attempts": 1,
        "settled": "2026-07-30T12:00:00+00:00",
        "event": {"eventName": "ObjectCreated:Put"},
    }
    assert document_key(QUARANTINED) == "quarantine/s6a/17.json"


def test_a_granule_settled_again_has_its_newest_document(store: MemoryStore, documents: SettledDocuments) -> None:
    write(documents, QUARANTINED)
    write(documents, replace(QUARANTINED, attempts=5))
    assert [entry.attempts for entry in SettledDocuments(store).load()] == [5]


class Rival(MemoryStore):
    """A store in which another daemon writes the same document first, ``times`` times."""

    times = 1

    def replace(self, key: str, data: bytes, etag: str) -> str:
        if self.times > 0:
            self.times -= 1
            super().replace(key, b"{}", etag)
        return super().replace(key, data, etag)


def test_two_daemons_may_settle_a_granule_together() -> None:
    store = Rival(f"memory://{uuid.uuid4().hex}")
    documents = SettledDocuments(store)
    write(documents, QUARANTINED)
    write(documents, replace(QUARANTINED, attempts=2))
    assert [entry.attempts for entry in SettledDocuments(store).load()] == [2]


def test_a_document_that_never_stays_the_same_is_a_conflict() -> None:
    store = Rival(f"memory://{uuid.uuid4().hex}")
    store.times = 1000
    documents = SettledDocuments(store)
    write(documents, QUARANTINED)
    with pytest.raises(ConflictError, match=r"quarantine/s6a/17\.json was changed by others"):
        write(documents, replace(QUARANTINED, attempts=2))


class Vanishing(MemoryStore):
    """A store in which the document is removed between the look at it and its replacement."""

    def replace(self, key: str, data: bytes, etag: str) -> str:
        self.delete(key)
        raise PreconditionFailedError(f"{key} is gone")


def test_a_document_that_someone_removed_meanwhile_is_written_again() -> None:
    store = Vanishing(f"memory://{uuid.uuid4().hex}")
    documents = SettledDocuments(store)
    write(documents, QUARANTINED)
    write(documents, replace(QUARANTINED, attempts=2))
    assert [entry.attempts for entry in SettledDocuments(store).load()] == [2]


def test_a_message_that_was_not_understood_is_kept_and_settles_no_granule(
    store: MemoryStore, documents: SettledDocuments
) -> None:
    documents.write_unknown("m1", "<xml/>", "is not JSON")
    documents.write_unknown("m1", "<xml/>", "is not JSON")
    assert json.loads(store.get("messages/m1.json").data) == {
        "format_version": FORMAT_VERSION,
        "reason": "unknown_message",
        "message": "is not JSON",
        "body": "<xml/>",
    }
    assert SettledDocuments(store).load() == []


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"format_version": 1}', b'{"format_version": "1"}'])
def test_a_damaged_document_is_named_with_what_to_do(store: MemoryStore, data: bytes) -> None:
    store.create("quarantine/s6a/17.json", data)
    with pytest.raises(FormatError, match=r"quarantine/s6a/17\.json does not tell .* move it away"):
        SettledDocuments(store).load()


def test_a_document_of_a_newer_version_is_refused(store: MemoryStore, documents: SettledDocuments) -> None:
    write(documents, QUARANTINED)
    found = store.get("quarantine/s6a/17.json")
    newer = {**json.loads(found.data), "format_version": FORMAT_VERSION + 1}
    store.replace(found.info.key, json.dumps(newer).encode(), found.info.etag)
    with pytest.raises(FormatError, match=r"17\.json has format version 2; .* use a newer one"):
        SettledDocuments(store).load()
