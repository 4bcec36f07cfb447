"""Take over a tree that released zcollection wrote (Zarr v2), as it lies: only a commit log is added.

The chunks and documents that are there stay, byte for byte, until a partition is rewritten; so does ``.zcollection``,
until the schema changes. Rows that were taken over have no granule: they rank below every granule.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.collection import Collection
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.grants import Granted
from zcollection_engine.commits.log import FOLDER, CommitLog, LogTrimmedError, NumberTakenError
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import EVERYTHING, Commit, Creation, PartitionChange
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionConfig, CollectionRef, StoredConfig, load_config, store_config
from zcollection_engine.creation import check_config
from zcollection_engine.errors import BusyError, ConflictError, FormatError, InvalidInputError, NotFoundError
from zcollection_engine.foreign import ForeignGroup, ForeignTree, load_foreign, store_foreign
from zcollection_engine.granules.conform import immutable_digest
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.layout.chunkstore import open_variable
from zcollection_engine.layout.partitionstore import AsItLies, immutable_store
from zcollection_engine.layout.v2documents import ATTRIBUTES, GROUP
from zcollection_engine.merging import Strategy, TimeSeries
from zcollection_engine.partitioning import partitioning_from_json
from zcollection_engine.precedence import ByTime, Precedence
from zcollection_engine.probing import check_store
from zcollection_engine.schema import TIME_UNITS
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.treefindings import Code, Finding
from zcollection_engine.treescan import ImportedPartition, ImportedTree, scan
from zcollection_engine.zcollection1 import CONFIG_KEY, IMMUTABLE, parse_zcollection

#: Faults named in a message; all of them are in the report of a survey.
_NAMED = 20


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """How granules merge into what is taken over; see `create_collection`."""

    strategy: Strategy | None = None
    precedence: Precedence | None = None
    drift: DriftPolicy | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was taken over, or would be.

    Attributes
    ----------
    url
        Root of the tree.
    commit
        Number of the commit; None if nothing was done.
    partitions, rows, chunks
        How many; partitions without rows are not among them.
    findings
        What is different from what ``.zcollection`` says.
    written
        Keys that are added or, where they were there, replaced, besides the log.
    obstacles
        Why it cannot be taken over; empty if it can.
    """

    url: str
    commit: int | None
    partitions: int
    rows: int
    chunks: int
    findings: tuple[Finding, ...]
    written: tuple[str, ...]
    obstacles: tuple[str, ...]


def survey_import(store: ObjectStore) -> ImportReport:
    """Tell what `import_collection` would do; writes nothing.

    Raises
    ------
    NotFoundError, FormatError
        As `zcollection_engine.treescan.scan`.
    ConflictError
        If there is a collection of ours already.
    """
    _require_absent(store)
    found = _Tree(store)
    return found.report(None)


def import_collection(
    url: str | ObjectStore,
    *,
    merge: MergeSettings | None = None,
    storage: StorageOptions | None = None,
    writer: WriterOptions | None = None,
    clock: Clock | None = None,
) -> tuple[Collection, ImportReport]:
    """Take over a tree of released zcollection and open it for writing.

    An import that died is completed when it is made again. Nobody else may write the tree meanwhile, or any time later
    but through the engine.

    Parameters
    ----------
    url
        Its root, or a store of it that is open already.
    merge
        How granules merge into it later; by default as `create_collection` has it.
    storage, writer, clock
        See `create_collection`.

    Raises
    ------
    NotFoundError
        If there is no ``.zcollection``.
    FormatError
        If it is damaged or has what the engine has no counterpart for.
    InvalidInputError
        If something stands against it; all of it is named.
    ConflictError
        If there is a collection of ours already.
    """
    options = storage or StorageOptions()
    store = open_store(url, options) if isinstance(url, str) else url
    behaviour = writer or WriterOptions(owner=f"import-{uuid.uuid4().hex}")
    ticking = clock or SystemClock()
    _require_absent(store)
    found = _Tree(store)
    if found.obstacles:
        named = "; ".join(found.obstacles[:_NAMED])
        more = f"; and {len(found.obstacles) - _NAMED} more" if len(found.obstacles) > _NAMED else ""
        raise InvalidInputError(f"{store.url} cannot be taken over as it lies: {named}{more}")
    check_store(store, single_writer=behaviour.single_writer, probe=True)
    return _Import(found, merge or MergeSettings(), storage=options, writer=behaviour, clock=ticking).run()


class _Tree:
    """A tree as it lies, and what stands against taking it over."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.scanned: ImportedTree = scan(store)
        self.schema = replace(self.scanned.schema, zarr_format=2)
        self.partitioning = partitioning_from_json(self.scanned.translation.partitioning)
        self.config = store.get(CONFIG_KEY).data
        self.attributes = self._root_attributes()
        self.schema = replace(self.schema, attributes={**self.attributes, **self.schema.attributes})

    @property
    def obstacles(self) -> tuple[str, ...]:
        faults = (_text(f) for f in self.scanned.faults if f.code is not Code.OURS_ALREADY)
        return tuple(dict.fromkeys([*faults, *self._times(), *self._misfits(), *self._separators()]))

    def report(self, commit: int | None) -> ImportReport:
        partitions = self.with_rows()
        return ImportReport(
            self.store.url,
            commit,
            len(partitions),
            sum(p.rows for p in partitions),
            sum(p.chunks for p in self.groups()),
            tuple(f for f in self.scanned.findings if f.code is not Code.OURS_ALREADY),
            (GROUP, ATTRIBUTES),
            self.obstacles,
        )

    def with_rows(self) -> list[ImportedPartition]:
        return [p for p in self.scanned.partitions if p.rows]

    def groups(self) -> list[ImportedPartition]:
        """Partitions with rows, and the group of the variables without them."""
        fixed = [self.scanned.immutable] if self.scanned.immutable is not None else []
        return [*self.with_rows(), *fixed]

    def foreign(self) -> ForeignTree:
        """What is kept of it."""
        known = self.scanned.translation.layouts
        groups = {}
        for group in self.groups():
            members = self.schema.immutable_variables if group.path == IMMUTABLE else self.schema.row_variables
            layouts = {v.path: group.layouts.get(v.path, known[v.path]) for v in members}
            groups[group.path] = ForeignGroup(group.digest, AsItLies(layouts, group.absent_keys))
        try:
            return ForeignTree(self.config.decode(), groups)
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.store.url}/{CONFIG_KEY} is no UTF-8: {error}") from error

    def digests(self, tree: ForeignTree) -> dict[str, str]:
        """SHA-256 of each variable without the partitioned dimension."""
        variables = self.schema.immutable_variables
        if not variables:
            return {}
        chunks = immutable_store(self.store, self.schema, lying=tree.group(IMMUTABLE).lying)
        values = {v.path: np.asarray(open_variable(chunks, v.path)[...], v.numpy_dtype) for v in variables}
        return immutable_digest(values, self.schema)

    def _times(self) -> Iterable[str]:
        for name in {self.schema.axis, *self.partitioning.variables}:
            variable = self.schema.by_path.get(name)
            units = str(variable.attributes.get("units", "")) if variable is not None else ""
            if " since " in units and units != TIME_UNITS:
                yield (
                    f"variable {name!r} counts {units}, the engine's times are nanoseconds: `convert` makes a new"
                    " collection of it"
                )

    def _misfits(self) -> Iterable[str]:
        try:
            check_config(CollectionConfig(self.schema, self.partitioning, TimeSeries()))
        except InvalidInputError as error:
            yield str(error)

    def _separators(self) -> Iterable[str]:
        for group in self.groups():
            for name, layout in group.layouts.items():
                if layout.separator != ".":
                    yield f"{group.path}: variable {name!r} has chunk keys with {layout.separator!r}: use `convert`"

    def _root_attributes(self) -> dict[str, Any]:
        """Attributes that someone gave the root, without our own."""
        try:
            found = parse_zcollection(self.store.get(ATTRIBUTES).data, name=f"{self.store.url}/{ATTRIBUTES}")
        except NotFoundError:
            return {}
        ours = ("zcollection_", "time_coverage_")
        return {name: value for name, value in found.items() if not name.startswith(ours)}


class _Import:
    """One import at work."""

    def __init__(
        self,
        tree: _Tree,
        merge: MergeSettings,
        *,
        storage: StorageOptions,
        writer: WriterOptions,
        clock: Clock,
    ) -> None:
        self._store = tree.store
        self._tree = tree
        self._merge = merge
        self._storage = storage
        self._writer = writer
        self._clock = clock

    def run(self) -> tuple[Collection, ImportReport]:
        if not CommitLog(self._store).is_intact(0):
            self._create()
        state = load_state(self._store, self._clock)
        stored = load_config(self._store, state.config)
        if stored.config.imported is None or load_foreign(self._store, stored.config.imported) != self._tree.foreign():
            raise ConflictError(
                f"{self._store.url}: the tree was changed since an import of it began, which died; remove {FOLDER},"
                " which holds no commit yet, and import it again"
            )
        ref = CollectionRef(self._store.url, self._storage, state.config)
        committer = Committer(self._store, ref, stored.config, state, options=self._writer, clock=self._clock)
        number = self._commit(committer)
        committer.roll_forward()
        self._store.flush()
        collection = Collection(self._store, ref, stored, committer.state, committer=committer, clock=self._clock)
        return collection, self._tree.report(number)

    def _create(self) -> None:
        """Make the first record; what it names is written before."""
        transaction = uuid.uuid4().hex
        foreign = self._tree.foreign()
        merge = self._merge
        config = CollectionConfig(
            self._tree.schema,
            self._tree.partitioning,
            (merge.strategy or TimeSeries()).bound(self._tree.schema),
            merge.precedence or ByTime(),
            merge.drift or DriftPolicy(),
            imported=transaction,
        )
        digests = self._tree.digests(foreign)
        store_foreign(self._store, transaction, foreign)
        store_config(self._store, transaction, StoredConfig(config, digests))
        # Another import may have made the first record: that one is then completed.
        with contextlib.suppress(NumberTakenError, LogTrimmedError):
            CommitLog(self._store, self._clock).append(0, Creation(transaction, self._clock.now()))
        self._store.flush()

    def _commit(self, committer: Committer) -> int:
        """Make the one commit that all partitions come in with."""
        granted = self._grant(committer)
        while granted is None:
            granted = self._grant(committer)
        with committer.holding(granted):
            changes = {p.path: PartitionChange(p.rows, 0, p.axis, imported=True) for p in self._tree.with_rows()}
            draft = Commit(granted.transaction, granted.grant.time, granted.token, changes, operation="import")
            return committer.commit(granted, draft)

    def _grant(self, committer: Committer) -> Granted | None:
        """Take a grant of everything; waits for that of an import that died."""
        try:
            with committer.lock:
                committer.refresh()
                if committer.state.last_commit >= 0:
                    raise ConflictError(f"{self._store.url} was taken over by another import meanwhile; open it")
                committer.require_free([EVERYTHING])
                return committer.grant(committer.state.number, [EVERYTHING], imports=True)
        except BusyError as error:
            self._clock.sleep(error.retry_after)
            return None


def _require_absent(store: ObjectStore) -> None:
    """Raise `ConflictError` if there is a collection, other than one whose import died."""
    if not CommitLog(store).is_intact(0) and not Checkpoints(store).numbers():
        return
    state = load_state(store)
    if state.last_commit >= 0 or load_config(store, state.config).config.imported is None:
        raise ConflictError(f"{store.url}: there is a collection already; open it")


def _text(finding: Finding) -> str:
    place = " ".join(part for part in (finding.partition, finding.variable) if part)
    return f"{place}: {finding.message}" if place else finding.message
