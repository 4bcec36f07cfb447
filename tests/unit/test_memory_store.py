"""The store in memory: who shares what."""

from __future__ import annotations

import pickle

import pytest

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.stores.memory import MemoryStore


def test_stores_of_one_name_share_their_objects() -> None:
    MemoryStore("memory://shared").create("folder/x", b"1")
    assert MemoryStore("memory://shared/folder").get("x").data == b"1"
    assert MemoryStore("memory://shared/").get("folder/x").data == b"1"
    assert list(MemoryStore("memory://other").list()) == []


def test_an_unpickled_store_writes_to_the_same_objects() -> None:
    store = MemoryStore("memory://pickled")
    pickle.loads(pickle.dumps(store)).create("x", b"1")  # noqa: S301 - our own bytes
    assert store.get("x").data == b"1"


def test_no_version_recurs_after_clear() -> None:
    store = MemoryStore("memory://cleared")
    first = store.create("x", b"1")
    store.clear()
    assert list(store.list()) == []
    assert store.create("x", b"1") != first


def test_clear_leaves_what_lies_beside_the_root() -> None:
    beside = MemoryStore("memory://beside")
    beside.create("ab/x", b"1")
    MemoryStore("memory://beside/a").clear()
    assert [info.key for info in beside.list()] == ["ab/x"]


def test_another_protocol_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="memory://name"):
        MemoryStore("s3://bucket")
