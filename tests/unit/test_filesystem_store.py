"""The store over any fsspec file system: versions and times as file systems spell them, and errors."""

from __future__ import annotations

import socket
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import fsspec
import pytest

from zcollection_engine.errors import StorageError
from zcollection_engine.stores.filesystem import FilesystemStore, _info

MOMENT = datetime(2023, 12, 16, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "entry",
    [
        {"LastModified": MOMENT},
        {"mtime": MOMENT.timestamp()},
        {"mtime": int(MOMENT.timestamp())},
        {"modificationTime": int(MOMENT.timestamp() * 1000)},
        {"updated": "2023-12-16T02:02:03+01:00"},
        {"modified": MOMENT.replace(tzinfo=None)},
        {"last_modified": MOMENT.astimezone(timezone(timedelta(hours=9)))},
        {"mtime": "yesterday", "created": MOMENT},
    ],
)
def test_a_time_is_read_in_any_spelling(entry: dict[str, Any]) -> None:
    info = _info("x", {"size": 5, **entry})
    assert info.modified == MOMENT
    assert info.etag == _info("x", {"size": 5, "mtime": MOMENT}).etag


@pytest.mark.parametrize("name", ["ETag", "etag", "md5Hash", "checksum"])
def test_a_version_of_the_content_is_taken_where_there_is_one(name: str) -> None:
    assert _info("x", {"size": 5, name: '"abc"', "mtime": 1.0}).etag == "abc"


def test_a_size_alone_is_a_version_of_last_resort() -> None:
    assert _info("x", {"size": 5}).etag != _info("x", {"size": 6}).etag


def test_a_failing_file_system_is_an_error_of_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FilesystemStore(f"memory://{uuid.uuid4().hex}")

    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("session closed")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", broken)
    with pytest.raises(StorageError, match=r"cannot create memory://.*/x: session closed"):
        store.create("x", b"1")


def test_a_change_by_another_client_is_seen() -> None:
    store = FilesystemStore(f"memory://{uuid.uuid4().hex}")
    etag = store.create("x", b"1")
    fsspec.filesystem("memory").pipe_file(f"{store.url.removeprefix('memory:/')}/x", b"longer")
    assert store.head("x").size == 6
    assert store.head("x").etag != etag


def test_a_server_that_does_not_answer_is_an_error_of_the_storage_that_names_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StorageError, match=f"ftp://127.0.0.1:{port}/data"):
        FilesystemStore(f"ftp://127.0.0.1:{port}/data")
