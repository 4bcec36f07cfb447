"""What every transaction is made of: follow the log, take a grant, commit, publish, roll forward, make checkpoints.

The order of the steps is the protocol; what a crash leaves after each of them is told in ``docs/transactions.md``.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Collection as Members
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from zcollection_engine.clock import Clock
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.grants import Granted, GrantWatch, Heartbeat, append_next
from zcollection_engine.commits.log import CommitLog, LogTrimmedError, NumberTakenError, record_key
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import EVERYTHING, Commit, Grant, Record, Release
from zcollection_engine.commits.state import CollectionState, PartitionState
from zcollection_engine.config import CollectionConfig, CollectionRef, load_config
from zcollection_engine.copying import copy_chunks
from zcollection_engine.errors import BusyError, ConflictError, FencedError, StorageError
from zcollection_engine.layout.formats import SPACES, format_of
from zcollection_engine.publication import Publisher
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.transaction import WriterOptions

_PARALLEL_PARTITIONS = 8

_log = logging.getLogger(__name__)


class Committer:
    """The one place where a process changes a collection. Thread-safe: transactions may run side by side.

    Parameters
    ----------
    store, ref, config
        The collection.
    state
        Its state; the committer keeps it up to date.
    options, clock
        See there.
    """

    def __init__(
        self,
        store: ObjectStore,
        ref: CollectionRef,
        config: CollectionConfig,
        state: CollectionState,
        *,
        options: WriterOptions,
        clock: Clock,
    ) -> None:
        if state.creation is None:
            raise ConflictError(f"{store.url}: the collection has no creation record")
        self.store = store
        self.ref = ref
        self.config = config
        self.state = state
        self.options = options
        self.clock = clock
        self.log = CommitLog(store, clock)
        self.publisher = Publisher(store, config, state.creation.transaction)
        self.lock = threading.RLock()
        self._session = uuid.uuid4().hex
        self._watch = GrantWatch(clock, options.owner, self._session)
        self._checkpoints = Checkpoints(store)
        self._unpublished: set[str] = {p.path for p in state.unpublished()}
        self._published_root = -1

    def refresh(self) -> None:
        """Fold what others have appended to the log."""
        with self.lock:
            if self.state.ledger.base.is_expired:
                self.reload()
            self._follow_config()
            for number, record in self.log.follow(self.state.number):
                self._apply(number, record)

    def catch_up(self) -> None:
        """The same, also if the log was trimmed beyond what this process knows of it."""
        with self.lock:
            self.refresh()
            if not self.log.is_intact(self.state.number):
                self.reload()

    def reload(self) -> None:
        """Open the log again: it was trimmed beyond what this process knows of it, or a newer checkpoint is there."""
        with self.lock:
            self.state = load_state(self.store, self.clock)
            self._unpublished |= {p.path for p in self.state.unpublished()}
            self._follow_config()

    def require_free(self, paths: Members[str]) -> None:
        """Raise `BusyError` while another writer holds one of the partitions."""
        self._watch.forget_ended(self.state)
        for held in self.state.holders(paths):
            remaining = self._watch.remaining(held)
            if remaining > 0:
                names = ", ".join(sorted(path for path, h in self.state.held.items() if h.token == held.token))
                raise BusyError(
                    f"{self.store.url}: partition {names} is held by {held.grant.owner!r} (grant {held.token});"
                    f" it may be taken over in {remaining:.1f} s unless renewed",
                    retry_after=min(remaining, 1.0),
                    partition=names,
                )
        for path in self.state.partitions if EVERYTHING in paths else paths:
            holder = self.store.holder(path)
            if holder is not None:
                raise BusyError(
                    f"{self.store.url}: partition {path} is being written by {holder}; it is free again when that one"
                    " has ended or died",
                    retry_after=1.0,
                    partition=path,
                )

    def require_space(self, base: PartitionState, now: datetime) -> None:
        """Raise `BusyError` while a reader may still be using the key space that a rewrite would go to."""
        if base.generation + 1 < SPACES:
            return
        retired = base.flips.get(base.generation - 1)
        if retired is None:
            return
        wait = (retired + self.options.reader_grace - now).total_seconds()
        if wait > 0:
            raise BusyError(
                f"{self.store.url}: partition {base.path} was rewritten twice within reader_grace"
                f" ({self.options.reader_grace.total_seconds():g} s); the next key space is free in {wait:.1f} s",
                retry_after=wait,
                partition=base.path,
            )

    def grant(self, number: int, paths: Sequence[str], *, imports: bool = False) -> Granted | None:
        """Append a grant right behind record ``number``, on which its plan stands; None if another came first.

        Raises
        ------
        ConflictError
            If a tree is being taken over and ``imports`` is not set: its partitions are not known yet.
        """
        if self.config.imported is not None and self.state.last_commit < 0 and not imports:
            raise ConflictError(f"{self.store.url}: its import was not completed; import it again")
        with self.lock:
            grant = Grant(
                uuid.uuid4().hex,
                self.clock.now(),
                owner=self.options.owner,
                session=self._session,
                seconds=self.options.grant_seconds,
                partitions=tuple(paths),
            )
            token = number + 1
            try:
                self.log.append(token, grant)
            except NumberTakenError:
                return None
            except LogTrimmedError:
                self.reload()
                return None
            except StorageError:
                # The grant may exist. A release behind it gives it back; one in its place keeps it from being made.
                self._release(grant, token)
                raise
            self._apply(token, grant)
            wanted = self.state.partitions if EVERYTHING in paths else paths
            return Granted(token, grant, {path: self.state.partition(path) for path in wanted})

    @contextmanager
    def holding(self, granted: Granted) -> Iterator[None]:
        """Keep a grant alive while the block runs, and give it back if the block fails."""
        try:
            with Heartbeat(self.log, self.clock, granted.grant, granted.token):
                yield
        except BaseException:
            self._release(granted.grant, granted.token)
            raise

    def prepare(self, granted: Granted, rewritten: Members[str]) -> None:
        """Publish the partitions up to their base and learn since when their generations are visible.

        Raises
        ------
        BusyError
            If a partition of ``rewritten`` has no free key space, by the store's clock.
        """
        existing = [base for base in granted.bases.values() if base.commit >= 0]
        if self._copies:
            for base in granted.bases.values():
                if base.commit < 0:
                    self.publisher.announce(base.path)
        self.publish([base.path for base in existing], arrays=False)
        for base in existing:
            if base.generation not in base.flips:
                granted.flips[base.path] = self.publisher.flipped_at(base)
        reused = [b for b in existing if b.path in rewritten and b.generation + 1 >= SPACES]
        if reused and self.options.reader_grace:
            now = self.store.head(record_key(granted.token)).modified
            for base in reused:
                self.require_space(base, now)

    def commit(self, granted: Granted, draft: Commit, check: Callable[[], None] | None = None) -> int:
        """Append a commit at the head of the log; return its number.

        Parameters
        ----------
        granted
            Must still be good; the commit gives it back.
        draft
            The commit; transaction, token, time and mark of publication are filled in.
        check
            Called on the folded log right before each try; raises if the commit no longer fits.

        Raises
        ------
        FencedError
            If the grant was taken over.
        """
        with self.lock:
            while True:
                self.refresh()
                self._require_held(granted)
                if check is not None:
                    check()
                number = self.state.number + 1
                commit = replace(
                    draft,
                    transaction=granted.transaction,
                    token=granted.token,
                    time=self._next_time(),
                    published=self._published(),
                )
                try:
                    self.log.append(number, commit)
                except NumberTakenError:
                    continue
                except LogTrimmedError:
                    self.reload()
                    raise
                self._apply(number, commit)
                return number

    def release(self, granted: Granted) -> None:
        """Give a grant back without a commit."""
        self._release(granted.grant, granted.token)

    def unpublished(self) -> list[str]:
        """Paths of partitions of which readers may not see the last commit in all documents."""
        with self.lock:
            return list(self._unpublished)

    def publish(self, paths: Iterable[str], *, arrays: bool) -> None:
        """Make partitions' last commits visible, then the collection's summary."""
        with self.lock:
            self._follow_config()
            partitions = [self.state.partitions[path] for path in sorted(set(paths)) if path in self.state.partitions]
        with ThreadPoolExecutor(_PARALLEL_PARTITIONS) as pool:
            for done in [pool.submit(self._publish, p, arrays=arrays) for p in partitions]:
                done.result()
        with self.lock:
            for partition in partitions:
                if self.publisher.is_complete(self.state.partitions[partition.path]):
                    self._unpublished.discard(partition.path)
            if self.state.last_commit > self._published_root or self._published_root < 0:
                self.publisher.publish_root(self.state)
                self._published_root = max(self.state.last_commit, 0)

    def _publish(self, partition: PartitionState, *, arrays: bool) -> None:
        if self._copies and not self.publisher.is_flipped(partition):
            copy_chunks(self.store, self.config.schema, partition, lambda: self._is_last(partition))
        self.publisher.publish(partition, arrays=arrays)

    @property
    def _copies(self) -> bool:
        return format_of(self.config.schema).copies

    def _is_last(self, partition: PartitionState) -> bool:
        """Look at the log whether no later commit changed a partition."""
        with self.lock:
            self.refresh()
            return self.state.partition(partition.path).commit == partition.commit

    def roll_forward(self) -> None:
        """Complete the publication of every commit that is not known to be published."""
        self.refresh()
        self.publisher.publish_config(self.config, self.state.configured)
        self.publish(self.unpublished(), arrays=True)

    def checkpoint_if_due(self) -> None:
        """Make a checkpoint if the last one is far behind. The log stays good without; a failure is tried again."""
        with self.lock:
            if self.state.number - max(self.state.checkpoint, 0) >= self.options.checkpoint_records:
                try:
                    self.checkpoint()
                except StorageError as error:
                    _log.warning("%s: no checkpoint was made; the next commit tries again: %s", self.store.url, error)

    def checkpoint(self) -> None:
        """Make a checkpoint of the log's head, or stand on a newer one that another writer made."""
        with self.lock:
            if max(self._checkpoints.numbers(), default=-1) > self.state.checkpoint:
                self.reload()
            else:
                self._checkpoints.write(self.state)

    def _apply(self, number: int, record: Record) -> None:
        self.state.apply(number, record)
        if isinstance(record, Commit):
            self._unpublished.update(record.partitions)
            if record.config is not None:
                self._unpublished.update(self.state.partitions)
                self._follow_config()

    def _follow_config(self) -> None:
        """Render from the configuration in force; whoever fails half-way tries again at the next step."""
        if self.ref.config != self.state.config:
            config = load_config(self.store, self.state.config).config
            self.publisher.publish_config(config, self.state.configured)
            self.config = config
            self.ref = replace(self.ref, config=self.state.config)

    def _require_held(self, granted: Granted) -> None:
        if not self.state.holds(granted.token, granted.grant.partitions):
            raise FencedError(
                f"{self.store.url}: grant {granted.token} of {', '.join(granted.grant.partitions)} was taken over by"
                " another writer",
                token=granted.token,
            )

    def _next_time(self) -> datetime:
        now = self.clock.now()
        if self.state.last_time is None:
            return now
        return max(now, self.state.last_time + timedelta(microseconds=1))

    def _published(self) -> int:
        pending = [self.state.partitions[path].commit for path in self._unpublished if path in self.state.partitions]
        return min(pending, default=self.state.number + 1) - 1

    def _release(self, grant: Grant, token: int) -> None:
        release = Release(grant.transaction, self.clock.now(), token)
        try:
            append_next(self.log, self.state.number, release)
        except (StorageError, ConflictError):
            # The transaction's own failure is the one to report; unreleased, the grant ages and is taken over.
            return
