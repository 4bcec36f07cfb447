"""Stores for collections that tests damage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import zarr2_support
from tests.verification_support import new_store, settled
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore


@pytest.fixture(params=["memory", "posix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store of each kind that needs no server."""
    made = new_store(request.param, tmp_path)
    yield made
    if isinstance(made, MemoryStore):
        made.clear()


@pytest.fixture(scope="module")
def original() -> Iterator[MemoryStore]:
    """A collection to make copies of."""
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    settled(made)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def original_v2() -> Iterator[MemoryStore]:
    """The same in Zarr v2."""
    made = MemoryStore(f"memory://{uuid.uuid4().hex}")
    zarr2_support.filled(made)
    yield made
    made.clear()
