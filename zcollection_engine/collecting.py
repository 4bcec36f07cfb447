"""Garbage collection: remove what nothing can reach any more, and nothing else.

It is a writer like any other: chunks of a partition are removed under a grant, after the log was looked at behind the
listing, each on the condition that it is still the object that was listed. A store that cannot delete conditionally
gets a tombstone in the chunk's place, since the chunk's name will be used again. Everything else that is removed has a
name that never is.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from datetime import datetime

from zcollection_engine.clock import Clock
from zcollection_engine.commits.grants import GrantCheck, Granted
from zcollection_engine.commits.log import FOLDER, record_key
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.pieces import run_parallel
from zcollection_engine.commits.state import PartitionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionRef, load_config
from zcollection_engine.errors import BusyError, ConflictError, NotFoundError, PreconditionFailedError
from zcollection_engine.foreign import lying_of
from zcollection_engine.garbage import GarbageReport, GarbageRules
from zcollection_engine.layout.chunkstore import TOMBSTONE_SIZE, tombstone
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.inventory import PartitionInventory, Role
from zcollection_engine.probing import FOLDER as PROBE
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.trimming import LogCollector

#: Partitions under one grant, so that a collection of thousands does not fill the log.
_BATCH = 64


def collect_garbage(committer: Committer, rules: GarbageRules) -> GarbageReport:
    """Remove what nothing can reach any more.

    Parameters
    ----------
    committer
        Of the collection.
    rules
        What may go.

    Raises
    ------
    StorageError
        If the storage failed; what was removed until then was garbage, so calling again is safe.
    """
    report = GarbageReport(dry_run=False)
    committer.refresh()
    _collect(committer, rules, _store_time(committer.store), report)
    report.objects["part"] += committer.store.sweep(rules.min_age)
    return report


def survey_garbage(
    store: ObjectStore, ref: CollectionRef, rules: GarbageRules, *, options: WriterOptions, clock: Clock
) -> GarbageReport:
    """Tell what `collect_garbage` would remove now, hidden files of killed writers excepted; writes nothing.

    Parameters
    ----------
    store, ref
        The collection.
    rules
        What may go.
    options
        Of the writer that would remove it.
    clock
        The machine's; the time of the newest object of the log counts instead if it is later.

    Raises
    ------
    StorageError
        If the store cannot be read.
    """
    state = load_state(store, clock)
    # It stands on a view of its own and follows nothing: a committer that meets a new configuration publishes it.
    onlooker = Committer(store, ref, load_config(store, state.config).config, state, options=options, clock=clock)
    report = GarbageReport(dry_run=True)
    now = max([clock.now(), *(info.modified for info in store.list(FOLDER))])
    _collect(onlooker, rules, now, report)
    return report


def _collect(committer: Committer, rules: GarbageRules, now: datetime, report: GarbageReport) -> None:
    orphans = LogCollector(committer, rules, now, report).run()
    _ChunkCollector(committer, rules, now, report).run(orphans)


def _store_time(store: ObjectStore) -> datetime:
    """The time by the clock that stamps the objects."""
    key = f"{PROBE}{uuid.uuid4().hex}"
    store.create(key, b"")
    try:
        return store.head(key).modified
    finally:
        store.delete(key)


class _ChunkCollector:
    """Removes chunks of retired key spaces, and those behind the end that no commit ever reached."""

    def __init__(self, committer: Committer, rules: GarbageRules, now: datetime, report: GarbageReport) -> None:
        self._committer = committer
        self._store = committer.store
        self._now = now
        self._report = report
        self._young = now - rules.min_age
        self._reachable = now - max(rules.min_age, rules.retention, committer.options.reader_grace)
        self._reconfigured = self._configured_at() if committer.config.retired else now
        self._foreign = 0
        self._lock = threading.Lock()

    def run(self, orphans: Sequence[str]) -> None:
        """Collect in all partitions, and below the paths of partitions that never came to be."""
        paths = sorted({*self._committer.state.partitions, *orphans})
        found = run_parallel(lambda path: self._candidates(self._committer.state.partition(path)), paths)
        self._report.foreign = self._foreign
        wanted = {path: infos for path, infos in zip(paths, found, strict=True) if infos}
        if self._report.dry_run:
            free = [path for path in wanted if self._is_free(path)]
            self._report.add("chunk", (info for path in free for info in wanted[path]))
            return
        chosen = list(wanted)
        for start in range(0, len(chosen), _BATCH):
            self._collect(chosen[start : start + _BATCH])

    def _collect(self, paths: Sequence[str]) -> None:
        granted = self._grant(paths)
        if granted is None:
            return
        try:
            with self._committer.holding(granted):
                self._committer.prepare(granted, ())
                check = GrantCheck(self._committer.log, granted.token, granted.grant.partitions)
                listed = run_parallel(lambda path: self._candidates(granted.base(path)), granted.grant.partitions)
                check()
                removed = run_parallel(self._remove, [info for infos in listed for info in infos])
        except ConflictError as error:
            self._report.busy.update(dict.fromkeys(granted.grant.partitions, str(error)))
        else:
            self._committer.release(granted)
            self._report.add("chunk", (info for info in removed if info is not None))

    def _grant(self, paths: Sequence[str]) -> Granted | None:
        """Take a grant of those partitions that nobody else holds."""
        committer = self._committer
        while True:
            with committer.lock:
                committer.refresh()
                free = [path for path in paths if self._is_free(path)]
                number = committer.state.number
            if not free:
                return None
            granted = committer.grant(number, free)
            if granted is not None:
                return granted

    def _is_free(self, path: str) -> bool:
        try:
            self._committer.require_free([path])
        except BusyError as error:
            self._report.busy[path] = str(error)
            return False
        return True

    def _candidates(self, partition: PartitionState) -> list[ObjectInfo]:
        version = Version(partition.commit, partition.generation, partition.rows)
        config = self._committer.config
        lying = lying_of(self._store, config.imported, partition.path, imported=partition.is_imported)
        schema = config.schema if lying is None else lying.schema(config.schema)
        inventory = PartitionInventory(schema, version, config.retired)
        retired = self._retired_at(partition)
        found, foreign = [], 0
        for info in self._store.list(f"{partition.path}/"):
            role = inventory.role(info.key.removeprefix(f"{partition.path}/"))
            unreachable = (
                role is Role.BEYOND
                or (role is Role.OTHER_SPACE and retired <= self._reachable)
                or (role is Role.RETIRED and self._reconfigured <= self._reachable)
            )
            if unreachable and info.modified <= self._young and info.size > TOMBSTONE_SIZE:
                found.append(info)
            foreign += role is Role.FOREIGN
        with self._lock:
            self._foreign += foreign
        return found

    def _configured_at(self) -> datetime:
        """When the schema in force was committed, by the store's clock."""
        try:
            return self._store.head(record_key(self._committer.state.configured)).modified
        except NotFoundError:
            return self._reachable  # trimmed, so it is old

    def _retired_at(self, partition: PartitionState) -> datetime:
        """Since when readers that open the partition use its present generation."""
        if partition.commit < 0:
            return self._reachable
        known = partition.flips.get(partition.generation)
        if known is not None:
            return known
        try:
            return self._committer.publisher.flipped_at(partition)
        except NotFoundError:
            return self._now  # readers see no generation of it yet

    def _remove(self, info: ObjectInfo) -> ObjectInfo | None:
        try:
            if self._store.conditional_delete:
                self._store.delete(info.key, info.etag)
            else:
                self._store.replace(info.key, tombstone(uuid.uuid4()), info.etag)
        except PreconditionFailedError:
            return None  # it is another object by now, and not garbage
        return info
