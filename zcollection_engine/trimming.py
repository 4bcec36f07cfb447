"""The part of garbage collection that is about the log: old records and checkpoints, and what failed attempts left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Members
from datetime import UTC, datetime
from typing import TypeVar

from zcollection_engine.commits.checkpoints import Checkpoints, checkpoint_number
from zcollection_engine.commits.log import FOLDER, record_number
from zcollection_engine.commits.pieces import LEDGER, run_parallel
from zcollection_engine.commits.records import Commit, Grant
from zcollection_engine.committing import Committer
from zcollection_engine.config import CONFIGS
from zcollection_engine.errors import NotFoundError
from zcollection_engine.foreign import IMPORTED, foreign_key
from zcollection_engine.garbage import GarbageReport, GarbageRules
from zcollection_engine.probing import FOLDER as PROBE
from zcollection_engine.publication import STAGED
from zcollection_engine.stores.base import ObjectInfo

T = TypeVar("T")

#: Records between two checkpoints that are kept to look back.
_SPACING = 1000

#: Stands for the time of the checkpoint that a run makes first and a dry run only thinks of.
_NEW = datetime.max.replace(tzinfo=UTC)


class LogCollector:
    """Removes old records, checkpoints, tables, and what failed attempts left beside them.

    Parameters
    ----------
    committer
        Of the collection.
    rules
        What may go.
    now
        By the store's clock.
    report
        Counts what goes.
    """

    def __init__(self, committer: Committer, rules: GarbageRules, now: datetime, report: GarbageReport) -> None:
        self._committer = committer
        self._store = committer.store
        self._checkpoints = Checkpoints(committer.store)
        self._report = report
        self._young = now - rules.min_age
        self._reachable = now - max(rules.min_age, rules.retention)

    def run(self) -> list[str]:
        """Collect, and return the paths of partitions that the removed records granted but that never came to be."""
        head = self._committer.state.number
        is_due = head > self._committer.state.checkpoint
        if is_due and not self._report.dry_run:
            self._committer.checkpoint()
        infos = list(self._store.list(FOLDER))
        checkpoints = {n: i for i in infos if (n := checkpoint_number(i.key)) is not None}
        records = {n: i for i in infos if (n := record_number(i.key)) is not None}
        times = {n: info.modified for n, info in checkpoints.items()}
        if is_due and self._report.dry_run:
            times[head] = _NEW
        floor = self._floor(times, records)
        chosen = self._chosen([n for n in sorted(times) if n >= floor])
        kept = [n for n in chosen if n in checkpoints]
        old = [n for n in sorted(records) if n < floor]
        orphans = self._orphans(old)
        self._remove("checkpoint", [i for n, i in checkpoints.items() if n not in kept])
        self._remove_in_order("record", [records[n] for n in old])
        self._remove("table", self._unused_pieces(infos, kept))
        self._remove("config", self._unused_configs(infos, kept, floor))
        self._remove("staged", self._of_failed_creations(infos))
        self._remove("probe", [i for i in infos if i.key.startswith(PROBE) and i.modified <= self._young])
        return orphans

    def _floor(self, times: Mapping[int, datetime], records: Members[int]) -> int:
        """The oldest record that stays: all reachable commits and open grants stand on the checkpoint of it."""
        state = self._committer.state
        limit = min((held.token for held in state.held.values()), default=state.number)
        bases = [n for n, time in times.items() if n <= limit and time <= self._reachable]
        if bases:
            return max(bases)
        return 0 if 0 in records else min(times, default=0)

    def _chosen(self, numbers: Sequence[int]) -> list[int]:
        """Of checkpoints those that stay: the first, the last two, and some between them."""
        chosen: list[int] = []
        for number in numbers:
            if not chosen or number - chosen[-1] >= _SPACING or number in numbers[-2:]:
                chosen.append(number)
        return chosen

    def _orphans(self, old: Sequence[int]) -> list[str]:
        known = self._committer.state.partitions
        found = [record for record in _still_there(self._committer.log.read, old) if isinstance(record, Grant)]
        return sorted({path for grant in found for path in grant.partitions if "=" in path} - known.keys())

    def _unused_pieces(self, infos: Iterable[ObjectInfo], kept: Sequence[int]) -> list[ObjectInfo]:
        references = _still_there(self._checkpoints.references, kept)
        used = {f"{LEDGER}{name}" for refs in references for name in refs.names}
        return [i for i in infos if i.key.startswith(LEDGER) and i.key not in used and i.modified <= self._young]

    def _unused_configs(self, infos: Iterable[ObjectInfo], kept: Sequence[int], floor: int) -> list[ObjectInfo]:
        state = self._committer.state
        in_progress = {held.grant.transaction for held in state.held.values()}
        loaded = _still_there(self._checkpoints.load, kept)
        named = {state.config, *in_progress, *(checkpoint.config for checkpoint in loaded)}
        if state.creation is not None:
            named.add(state.creation.transaction)
        old = [
            i
            for i in infos
            if i.key.startswith(CONFIGS) and i.modified <= self._young and _config_name(i.key) not in named
        ]
        if old:
            records = self._committer.log.follow(floor - 1)
            named |= {r.config for _, r in records if isinstance(r, Commit) and r.config is not None}
        return [i for i in old if _config_name(i.key) not in named]

    def _of_failed_creations(self, infos: Iterable[ObjectInfo]) -> list[ObjectInfo]:
        creation = self._committer.state.creation
        own = () if creation is None else (f"{STAGED}/{creation.transaction}/", foreign_key(creation.transaction))
        return [
            i
            for i in infos
            if i.key.startswith((f"{STAGED}/", IMPORTED)) and not i.key.startswith(own) and i.modified <= self._young
        ]

    def _remove(self, kind: str, infos: Sequence[ObjectInfo]) -> None:
        self._report.add(kind, infos)
        if not self._report.dry_run:
            run_parallel(lambda info: self._store.delete(info.key), infos)

    def _remove_in_order(self, kind: str, infos: Sequence[ObjectInfo]) -> None:
        """Remove one after another: a record that is still there proves that none behind it is gone."""
        self._report.add(kind, infos)
        if not self._report.dry_run:
            for info in infos:
                self._store.delete(info.key)


def _still_there(read: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
    """Read what has these numbers, without that which another garbage collection has removed since the listing."""

    def find(number: int) -> list[T]:
        try:
            return [read(number)]
        except NotFoundError:
            return []

    return [item for found in run_parallel(find, numbers) for item in found]


def _config_name(key: str) -> str:
    return key.removeprefix(CONFIGS).removesuffix(".json")
