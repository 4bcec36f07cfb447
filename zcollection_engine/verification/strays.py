"""Objects that no shape and no document of the log explains: counted, never judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.layout.chunkstore import TOMBSTONE_SIZE
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import format_of
from zcollection_engine.layout.inventory import PartitionInventory, Role
from zcollection_engine.partitioning import Partitioning
from zcollection_engine.schema import Schema
from zcollection_engine.stores.base import ObjectInfo
from zcollection_engine.verification.logview import LOG
from zcollection_engine.verification.report import Counts

_EXAMPLES = 10


@dataclass
class Strays:
    """Garbage and foreign objects found so far."""

    garbage: int = 0
    garbage_bytes: int = 0
    foreign: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        return Counts(garbage=self.garbage, garbage_bytes=self.garbage_bytes, foreign=self.foreign)

    def add(self, info: ObjectInfo, *, garbage: bool) -> None:
        """Count an object; what the housekeeping left in a chunk's place is none."""
        if garbage and info.size <= TOMBSTONE_SIZE:
            return
        if garbage:
            self.garbage += 1
            self.garbage_bytes += info.size
            return
        self.foreign += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(info.key)


def in_partition(inventory: PartitionInventory, path: str, listed: Mapping[str, ObjectInfo]) -> Strays:
    """Count what lies in a partition besides its documents and the chunks inside the shape."""
    strays = Strays()
    for key, info in listed.items():
        role = inventory.role(key.removeprefix(f"{path}/"))
        if role not in (Role.DOCUMENT, Role.LIVE):
            strays.add(info, garbage=role is not Role.FOREIGN)
    return strays


def outside(
    schema: Schema,
    partitioning: Partitioning,
    objects: Iterable[ObjectInfo],
    *,
    known: Iterable[str],
    explained: Iterable[str],
) -> Strays:
    """Count what lies outside the log's folder and the known partitions, besides the keys that are explained.

    A chunk where a partition could be is garbage: what an attempt wrote that never came to a commit. In Zarr v2 such an
    attempt has shown the partition without rows; that document stays.
    """
    partitions, keys = set(known), set(explained)
    nothing = PartitionInventory(schema, Version(-1, 0, 0))
    strays = Strays()
    for info in objects:
        path = "/".join(takewhile(lambda part: "=" in part, info.key.split("/")))
        if info.key.startswith(LOG) or info.key in keys or path in partitions:
            continue
        role = nothing.role(info.key.removeprefix(f"{path}/"))
        is_ours = role in (Role.DOCUMENT, Role.BEYOND, Role.OTHER_SPACE) and _is_partition(partitioning, path)
        if not (is_ours and role is Role.DOCUMENT and format_of(schema).copies):
            strays.add(info, garbage=is_ours and role is not Role.DOCUMENT)
    return strays


def _is_partition(partitioning: Partitioning, path: str) -> bool:
    try:
        partitioning.keys(path)
    except InvalidInputError:
        return False
    return True
