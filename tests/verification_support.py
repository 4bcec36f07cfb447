"""Collections to be damaged: nested groups, values without rows, two partitions, each phase of their lives."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from tests.engine_support import DAY_16, FakeClock, small_schema, times
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import Fault, FaultStore
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.report import VerifyReport

DAY = 86_400
GROUP = f"{DAY_16}/zarr.json"
ROOT = "zarr.json"
CONFIG = "_zcollection.json"
BANDS = (1.5, 2.5, 3.5)


def rich_schema() -> Schema:
    """A nested group, text, and values without rows; four rows a chunk."""
    extra = [
        Variable("ku/range", "<i4", ("time",), (4,), 2**31 - 1),
        Variable("ku/label", "string", ("time",), (4,)),
        Variable("band", "<f8", ("band",), (2,), attributes={"units": "Hz"}),
    ]
    return small_schema(chunk_rows=4, extra=extra)


def rich(values: Sequence[int], offset: int = 0) -> xr.DataTree:
    """Rows for `rich_schema`, one a second after the start."""
    points = np.asarray(values)
    height = xr.Variable("time", (points + offset).astype(np.int32), {"scale_factor": 0.001, "units": "m"})
    top = xr.Dataset(
        {"height": height, "band": ("band", np.array(BANDS), {"units": "Hz"})}, coords={"time": times(points)}
    )
    label = np.array([f"row {v}" for v in points], dtype=object)
    ku = xr.Dataset({"range": ("time", (points * 10).astype(np.int32)), "label": ("time", label)})
    return xr.DataTree.from_dict({"/": top, "/ku": ku})


def new_store(kind: str, folder: Path) -> ObjectStore:
    return PosixStore(folder / "collection") if kind == "posix" else MemoryStore(f"memory://{uuid.uuid4().hex}")


def created(store: ObjectStore, clock: FakeClock | None = None, *, eager_arrays: bool = True) -> Collection:
    bands = Granule("first", "time", "time", {"band": GranuleVariable(("band",), np.array(BANDS))})
    return create_collection(
        store,
        rich_schema(),
        DatePartitioning("time", "day"),
        immutable=bands,
        writer=WriterOptions(owner="daemon", eager_arrays=eager_arrays),
        clock=clock or FakeClock(),
    )


def opened(store: ObjectStore, clock: FakeClock | None = None) -> Collection:
    return open_collection(store, mode="w", writer=WriterOptions(owner="daemon"), clock=clock or FakeClock())


def filled(store: ObjectStore) -> Collection:
    """Nine and three rows in two partitions, the first one rewritten once; two granules in it, one in the other."""
    collection = created(store)
    collection.insert(rich([*range(9), DAY, DAY + 1, DAY + 2]), granule="first")
    collection.insert(rich([3, 4], offset=100), granule="second")
    return collection


def settled(store: ObjectStore) -> Collection:
    """A filled collection whose first partition is known to be published."""
    collection = filled(store)
    collection.insert(rich([DAY + 20]), granule="third")
    assert collection.state.partitions[DAY_16].commit <= open_collection(store).state.published
    return collection


def copy_of(store: ObjectStore) -> MemoryStore:
    """The same objects in a store of their own."""
    twin = MemoryStore(f"memory://{uuid.uuid4().hex}")
    for info in store.list():
        twin.create(info.key, store.get(info.key).data)
    return twin


class DeathError(Exception):
    """The process was killed; nothing it does afterwards reaches the store."""


class _Killer:
    """Lets so many writes pass, then nothing any more."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._lock = threading.Lock()
        self.dead = False

    def __call__(self, method: str, key: str) -> None:
        with self._lock:
            if method in ("create", "replace", "delete") and "/probe/" not in key:
                self.dead = self.dead or self._allowed == 0
                self._allowed -= 1
            if self.dead:
                raise DeathError(f"{method} {key}")


def deaths(base: ObjectStore, work: Callable[[ObjectStore], object]) -> Iterator[tuple[MemoryStore, bool]]:
    """Yield what ``work`` leaves that dies before its first write, its second, ...; at last what it leaves alive."""
    for allowed in itertools.count():
        store, killer = copy_of(base), _Killer(allowed)
        with contextlib.suppress(DeathError):
            work(FaultStore(store, [Fault("*", times=10**9, before=killer)]))
        yield store, killer.dead
        store.clear()
        if not killer.dead:
            assert allowed > 5
            return


def flip(store: ObjectStore, key: str, place: int, mask: int = 1) -> None:
    """Change bits of one byte of an object."""
    data = bytearray(store.get(key).data)
    data[place % len(data)] ^= mask
    overwrite(store, key, bytes(data))


def overwrite(store: ObjectStore, key: str, data: bytes) -> None:
    store.replace(key, data, store.head(key).etag)


def codes(report: VerifyReport) -> dict[str, set[str]]:
    """Keys by code of all findings."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.code.value, set()).add(finding.key)
    return found
