"""Undo what a crash or a damaged file left, as far as the commit log says how. Never invents data.

What the log decides is written again: documents, under the condition that they are still those that were seen. What
only chunks held cannot be made from anything: it is reported, with the granules from which it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from zcollection_engine.collection import Collection
from zcollection_engine.errors import NotFoundError, PreconditionFailedError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.partitionstore import partition_store
from zcollection_engine.schema import PROVENANCE, Variable
from zcollection_engine.stores.base import ObjectStore, StoredObject
from zcollection_engine.verification import documents as docs
from zcollection_engine.verification.chunks import Chunk, ChunkReader, expected_chunks
from zcollection_engine.verification.logview import LogView, PartitionView
from zcollection_engine.verification.repairs import Action, LostChunk, OpenGrant, RepairReport, Source
from zcollection_engine.verification.report import (
    CHUNK_CODES,
    DOCUMENT_CODES,
    ROW_CODES,
    Code,
    Finding,
    VerifyReport,
)
from zcollection_engine.verification.verifying import verify

#: Hidden files of writers that were killed; a living writer renames its own within seconds.
_SWEEP_AFTER = timedelta(hours=1)

_TRIES = 3

#: Partitions that are asked whether the log's configuration is the right one.
_WITNESSES = 10


def repair(
    collection: Collection,
    report: VerifyReport | None = None,
    *,
    threads: int = 16,
    sweep_after: timedelta = _SWEEP_AFTER,
    store: ObjectStore | None = None,
) -> RepairReport:
    """Complete what a crash left undone, and write damaged documents again.

    Commits are published, documents that are missing, damaged or went back are rendered from the log, immutable values
    are copied again from where they were staged. Documents that contradict the log while being whole are left alone:
    either of the two may be right. Writers may be at work meanwhile.

    Parameters
    ----------
    collection
        Opened for writing.
    report
        Of `verify`; only what it names is looked at. By default documents, and whether
        chunks are there, are checked.
    threads
        Requests at a time.
    sweep_after
        Age at which a hidden file of a POSIX store is taken for one that a killed writer left.
    store
        The collection's store, if the caller has one open.

    Raises
    ------
    ReadOnlyError
        If the collection was opened for reading.
    StorageError
        If the storage failed; calling again is safe.
    """
    before = report or verify(collection, chunks="present", threads=threads, store=store)
    collection.roll_forward()
    work = _Repair(LogView.of(collection, store))
    touched = sorted(work.touched(before.findings))

    def look() -> VerifyReport:
        return verify(collection, chunks="none", partitions=touched, threads=threads, store=store)

    work.documents(look().findings)
    work.immutable(before.findings)
    work.copies(before.findings)
    work.view.store.flush()
    after = look()
    rows = (f for f in before.findings if f.code in ROW_CODES and f.key not in work.restored)
    return RepairReport(
        url=before.url,
        actions=(*_rolled_forward(before, after, work.actions), *work.actions),
        lost=tuple(work.lost(f) for f in before.findings if f.code in CHUNK_CODES and f.key not in work.restored),
        grants=work.grants(),
        swept=work.view.store.sweep(sweep_after),
        left=tuple(sorted([*after.findings, *rows], key=lambda f: (f.partition, f.key, f.code))),
    )


def _rolled_forward(before: VerifyReport, after: VerifyReport, done: Iterable[Action]) -> list[Action]:
    """What was true before, is not any more, and was not written here: the writer published it."""
    keys = {f.key for f in after.findings} | {action.key for action in done}
    return [
        Action(f.code, f.partition, f.key, f"{f.key} was brought up to date with the log")
        for f in before.findings
        if f.code in DOCUMENT_CODES and f.key not in keys
    ]


class _Repair:
    """One repair at work.

    Attributes
    ----------
    view
        The log.
    actions
        What was done.
    restored
        Keys of findings about immutable values that are settled.
    """

    def __init__(self, view: LogView) -> None:
        self.view = view
        self.actions: list[Action] = []
        self.restored: set[str] = set()
        self._expected: dict[str, tuple[PartitionView, dict[str, docs.Expected]]] = {}
        self._config = view.config_document()[0]

    def touched(self, findings: Iterable[Finding]) -> set[str]:
        """Return the partitions that findings are about, for a group above partitions one of those."""
        found = {f.partition for f in findings if f.partition} & set(self.view.paths())
        below = (self._below(f.key) for f in findings if not f.partition)
        return found | {path for path in below if path is not None}

    def documents(self, findings: Sequence[Finding]) -> None:
        """Write the documents named by findings, as far as the log is to be believed."""
        wanted = [f for f in findings if f.code in DOCUMENT_CODES]
        if any(f.key == self._config and f.code is Code.CONFLICTING for f in wanted) and not self._believed():
            return
        absent = {f.key for f in wanted if f.code in (Code.MISSING, Code.UNPUBLISHED) and not self._get(f.key)}
        for finding in sorted(wanted, key=lambda f: _order(self.view.format.document, f, absent)):
            self._write(finding)

    def immutable(self, findings: Sequence[Finding]) -> None:
        """Copy values of variables without the partitioned dimension again from where they were staged."""
        schema = self.view.schema
        for variable in schema.immutable_variables:
            folder = self.view.format.immutable
            key = f"{folder}/{variable.path}"
            broken = [f for f in findings if f.key == key or f.key.startswith(f"{key}/")]
            broken = [f for f in broken if f.code in CHUNK_CODES or f.code is Code.IMMUTABLE_DIFFERS]
            if broken and self._staged_is_whole(variable):
                for chunk in expected_chunks(schema, variable, Version(0, 0, 0)):
                    self._copy(f"{self.view.staged}/{chunk.name}", f"{folder}/{chunk.name}", broken[0].code)
                self.restored |= {f.key for f in broken}

    def copies(self, findings: Sequence[Finding]) -> None:
        """Copy chunks again that readers of Zarr v2 are shown as copies."""
        for finding in findings:
            for _ in range(_TRIES if finding.code is Code.BAD_COPY else 0):
                stored = self._get(finding.key)
                self.view.refresh()  # behind the read: now the log has every commit that the copy can be of
                source = self._source(finding)
                data = None if source is None else self._get(source)
                if data is None or (stored is not None and stored.data == data.data):
                    break
                if self._put(finding.key, data.data, stored):
                    what = f"{finding.key} was copied again from {source}"
                    self.actions.append(Action(finding.code, finding.partition, finding.key, what))
                    break

    def _source(self, finding: Finding) -> str | None:
        """Key of the chunk of which readers are shown a copy; None if there is none any more."""
        path, schema = finding.partition, self.view.schema
        version = self.view.partition(path).version
        chunks = (chunk for v in schema.row_variables for chunk in expected_chunks(schema, v, version))
        found = (chunk.name for chunk in chunks if f"{path}/{chunk.shown}" == finding.key and chunk.name != chunk.shown)
        return next((f"{path}/{name}" for name in found), None)

    def lost(self, finding: Finding) -> LostChunk:
        """Tell from which granules the rows of a lost chunk came."""
        owners = self._owners(finding) if finding.partition in self.view.paths() else []
        sources = tuple(Source(str(e.id), e.identity.key, e.url) for e in owners)
        return LostChunk(finding.code, finding.partition, finding.key, sources)

    def grants(self) -> tuple[OpenGrant, ...]:
        """Return the grants that are open now."""
        self.view.refresh()
        return tuple(
            OpenGrant(held.token, held.grant.owner, held.grant.time, held.grant.seconds, held.grant.partitions)
            for held in self.view.held
        )

    def _believed(self) -> bool:
        """Tell whether some partition's group is what the log makes of it, so that the log's configuration is right."""
        paths = self.view.paths()[:_WITNESSES]
        groups = [docs.of_partition(self.view, self.view.partition(path))[0][0] for path in paths]
        shown = [self._get(group.key) for group in groups]
        return not paths or any(s is not None and s.data == g.body for s, g in zip(shown, groups, strict=True))

    def _write(self, finding: Finding) -> None:
        """Write a document, unless it is all right by now or says what the log may not overrule."""
        for _ in range(_TRIES):
            stored = self._get(finding.key)
            self.view.refresh()  # behind the read: now the log has every commit that the document can show
            expected = self._expect(finding)
            data = None if stored is None else stored.data
            judged = None if expected is None else docs.judge(self.view.schemas(), expected, data)
            if expected is None or judged is None or not self._may_write(expected, judged):
                return
            if self._put(finding.key, expected.body, stored):
                what = f"{finding.key} was written from the log: {judged.message.partition(';')[0]}"
                self.actions.append(Action(judged.code, finding.partition, finding.key, what))
                return

    def _may_write(self, expected: docs.Expected, judged: Finding) -> bool:
        if judged.code not in (Code.CONFLICTING, Code.NEWER):
            return True
        if expected.role is docs.Role.ARRAY:
            group = self._partition(expected.partition)[f"{expected.partition}/{self.view.format.document}"]
            shown = self._get(group.key)
            return shown is not None and shown.data == group.body
        return expected.key == self._config  # see `documents`

    def _expect(self, finding: Finding) -> docs.Expected | None:
        if finding.partition:
            return self._partition(finding.partition).get(finding.key)
        own = {e.key: e for e in docs.of_collection(self.view)}
        below = self._below(finding.key)
        if finding.key in own or below is None:
            return own.get(finding.key)
        _, above = docs.of_partition(self.view, self.view.partition(below))
        return {e.key: e for e in above}.get(finding.key)

    def _below(self, key: str) -> str | None:
        """Return the partition below a group that has been there longest."""
        folder = key.removesuffix(self.view.format.document)
        paths = [path for path in self.view.paths() if folder and path.startswith(folder)]
        return min(paths, key=lambda path: self.view.state(path).commit, default=None)

    def _partition(self, path: str) -> dict[str, docs.Expected]:
        seen = self.view.partition(path)
        known = self._expected.get(path)
        if known is None or known[0] != seen:
            known = (seen, {e.key: e for e in docs.of_partition(self.view, seen)[0]})
            self._expected = {path: known}
        return known[1]

    def _staged_is_whole(self, variable: Variable) -> bool:
        reader = self.view.immutable_chunks(self.view.staged)
        reader.open([variable])
        chunks = expected_chunks(self.view.schema, variable, Version(0, 0, 0))
        if any(isinstance(reader.read(chunk), Finding) for chunk in chunks):
            return False
        return self.view.is_immutable(variable, reader.whole(variable))

    def _copy(self, source: str, target: str, code: Code) -> None:
        data = self.view.store.get(source).data
        for _ in range(_TRIES):
            stored = self._get(target)
            if stored is not None and stored.data == data:
                return
            if self._put(target, data, stored):
                self.actions.append(Action(code, "", target, f"{target} was copied again from {source}"))
                return

    def _owners(self, finding: Finding) -> Iterable[GranuleEntry]:
        path, schema = finding.partition, self.view.schema
        seen = self.view.partition(path)
        owners = sorted(seen.owners.values(), key=lambda e: e.rank)
        chunks = (c for v in schema.row_variables for c in expected_chunks(schema, v, seen.version))
        chunk = next((c for c in chunks if f"{path}/{c.name}" == finding.key), None)
        if chunk is None or not schema.keeps_provenance:
            return owners
        reader = ChunkReader(partition_store(self.view.store, path, schema, seen.version), path)
        reader.open([schema[PROVENANCE]])
        origins = reader.read(Chunk(schema[PROVENANCE], chunk.index[:1], chunk.name, chunk.shown, chunk.region[:1]))
        if isinstance(origins, Finding):
            return owners
        present = set(origins.tolist())
        return [e for e in owners if e.id in present]

    def _get(self, key: str) -> StoredObject | None:
        try:
            return self.view.store.get(key)
        except NotFoundError:
            return None

    def _put(self, key: str, data: bytes, stored: StoredObject | None) -> bool:
        """Write an object unless it is another one than the one that was seen."""
        try:
            if stored is None:
                self.view.store.create(key, data)
            else:
                self.view.store.replace(key, data, stored.info.etag)
        except PreconditionFailedError:
            return False
        return True


def _order(document: str, finding: Finding, absent: Iterable[str]) -> tuple[int, str, int, str]:
    """Groups above first, the root last; a partition's group before its arrays, but behind them where it is new."""
    if not finding.partition:
        return (2 if finding.key == document else 0), "", 0, finding.key
    group = f"{finding.partition}/{document}"
    late = (finding.key == group) == (group in absent)
    return 1, finding.partition, int(late), finding.key
