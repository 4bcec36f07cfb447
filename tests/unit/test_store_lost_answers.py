"""Conditional writes to a server whose answers get lost."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zcollection_engine.errors import (
    OutcomeUnknownError,
    PreconditionFailedError,
    StorageError,
)
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.objects import CloudStore
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.s3filesystem import S3FilesystemStore
from zcollection_engine.stores.settle import Patience, TransientError, settled_write

PATIENCE = Patience(attempts=3, first_pause=0.001)
KINDS = pytest.mark.parametrize("kind", [CloudStore, S3FilesystemStore])

#: Answers of a server that has done nothing.
UNDONE = {"busy": (503, "SlowDown"), "refused": (400, "InvalidRequest"), "unknown": (501, "NotImplemented")}

Kind = type[CloudStore] | type[S3FilesystemStore]


class Moody(ThreadingHTTPServer):
    """An S3 server of one object, which answers each PUT by the next mood.

    "ok": carry it out and say so. "lost": carry it out and answer 500. "busy": answer 503 and do nothing. "cut": carry
    it out and drop the connection. "taken": another writer's object of the same bytes gets there first, answer 500.
    "refused": do nothing and answer 400. "unknown": do nothing and answer 501, as servers do that have no conditions.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: bytes | None = None
        self.write_id = ""
        self.moods: deque[str] = deque()
        self.puts = 0

    @property
    def etag(self) -> str | None:
        return None if self.content is None else f'"{hashlib.sha1(self.content).hexdigest()}"'  # noqa: S324

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(endpoint_url=f"http://127.0.0.1:{self.server_address[1]}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moody

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.puts += 1
        mood = self.server.moods.popleft() if self.server.moods else "ok"
        if mood in UNDONE:
            status, code = UNDONE[mood]
            return self._answer(status, code=code)
        if mood == "taken":
            self.server.content, self.server.write_id = data, "another's"
            return self._answer(500, code="InternalError")
        if not self._condition_holds():
            return self._answer(412, code="PreconditionFailed")
        self.server.content = data
        self.server.write_id = self.headers["x-amz-meta-writeid"]
        if mood == "cut":
            self.close_connection = True
            return None
        return self._answer(500, code="InternalError") if mood == "lost" else self._answer(200)

    def do_GET(self) -> None:
        if self.server.content is None:
            return self._answer(404, code="NoSuchKey")
        return self._answer(200, self.server.content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _condition_holds(self) -> bool:
        if self.headers.get("If-None-Match") == "*":
            return self.server.content is None
        return self.headers.get("If-Match") == self.server.etag

    def _answer(self, status: int, data: bytes = b"", *, code: str | None = None) -> None:
        if code:
            data = f"<Error><Code>{code}</Code><Message>in a mood</Message></Error>".encode()
        self.send_response(status)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
            self.send_header("x-amz-meta-writeid", self.server.write_id)
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _serving() -> Iterator[Moody]:
    with Moody() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(aws_environment: None) -> Iterator[Moody]:
    with _serving() as server:
        yield server


@KINDS
@pytest.mark.parametrize("mood", ["lost", "cut"])
def test_a_create_whose_answer_was_lost_is_no_conflict_with_itself(kind: Kind, mood: str, server: Moody) -> None:
    server.moods.append(mood)
    store = kind("s3://bucket", server.options, patience=PATIENCE)
    assert f'"{store.create("x", b"ours")}"' == server.etag
    assert server.puts == 2
    assert server.content == b"ours"


@KINDS
@pytest.mark.parametrize("mood", ["lost", "cut"])
def test_a_replacement_whose_answer_was_lost_is_no_conflict_with_itself(kind: Kind, mood: str, server: Moody) -> None:
    store = kind("s3://bucket", server.options, patience=PATIENCE)
    etag = store.create("x", b"first")
    server.moods.append(mood)
    assert f'"{store.replace("x", b"second", etag)}"' == server.etag
    assert server.content == b"second"


@KINDS
def test_a_busy_server_is_asked_again(kind: Kind, server: Moody) -> None:
    server.moods.extend(["busy", "busy"])
    kind("s3://bucket", server.options, patience=PATIENCE).create("x", b"ours")
    assert server.content == b"ours"
    assert server.puts == 3


@KINDS
def test_a_conflict_behind_a_lost_answer_is_told_from_ones_own_success(kind: Kind, server: Moody) -> None:
    server.moods.append("taken")
    with pytest.raises(PreconditionFailedError, match="s3://bucket/x"):
        kind("s3://bucket", server.options, patience=PATIENCE).create("x", b"ours")
    assert server.write_id == "another's"


@KINDS
@pytest.mark.parametrize("mood", ["refused", "unknown"])
def test_a_refusal_is_final_and_certain(kind: Kind, mood: str, server: Moody) -> None:
    server.moods.append(mood)
    with pytest.raises(StorageError, match="in a mood") as caught:
        kind("s3://bucket", server.options, patience=PATIENCE).create("x", b"ours")
    assert not isinstance(caught.value, OutcomeUnknownError)
    assert server.puts == 1


@KINDS
def test_each_attempt_is_one_request(kind: Kind, server: Moody) -> None:
    server.moods.extend(["lost"] + ["busy"] * 20)
    with pytest.raises(OutcomeUnknownError, match=r"no answer to 3 attempts to write s3://bucket/x:"):
        kind("s3://bucket", server.options, patience=PATIENCE).create("x", b"ours")
    assert server.puts == 3


def test_a_plain_conflict_is_not_looked_into() -> None:
    store = MemoryStore("memory://settle")
    store.create("x", b"ours")
    with pytest.raises(PreconditionFailedError):
        settled_write(
            lambda: store.create("x", b"ours"), lambda: pytest.fail("asked after an answer"), key="x", patience=PATIENCE
        )


def test_a_conflict_with_what_is_gone_again_stays_a_conflict() -> None:
    answers: deque[Exception] = deque([TransientError("lost"), PreconditionFailedError("conflict")])

    def send() -> str:
        raise answers.popleft()

    with pytest.raises(PreconditionFailedError, match="conflict"):
        settled_write(send, lambda: None, key="x", patience=PATIENCE)


def test_any_other_error_ends_the_attempts() -> None:
    calls: list[None] = []

    def send() -> str:
        calls.append(None)
        raise StorageError("access denied")

    with pytest.raises(StorageError, match="access denied"):
        settled_write(send, lambda: pytest.fail("asked"), key="x", patience=PATIENCE)
    assert len(calls) == 1


def test_pauses_grow() -> None:
    pauses = [PATIENCE.pause(attempt) for attempt in range(12)]
    assert pauses[11] > pauses[4] > pauses[0] > 0
