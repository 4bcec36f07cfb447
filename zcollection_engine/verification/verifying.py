"""Compare log, metadata and chunks of a collection. Reads only; a writer may be at work meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import get_args

from zcollection_engine.clock import Clock, SystemClock
from zcollection_engine.collection import Collection
from zcollection_engine.errors import InvalidInputError, NotFoundError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.inventory import PartitionInventory
from zcollection_engine.layout.partitionstore import AsItLies, partition_store
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.stores.base import ObjectInfo, ObjectStore
from zcollection_engine.verification import documents as docs
from zcollection_engine.verification import strays
from zcollection_engine.verification.chunks import Chunk, ChunkReader, CopyCheck, absent, expected_chunks
from zcollection_engine.verification.logview import LogView, PartitionView
from zcollection_engine.verification.report import Chunks, Code, Counts, Finding, Severity, VerifyReport
from zcollection_engine.verification.rows import Rows, axis_is_whole, check_rows, decode_all

_PARALLEL_PARTITIONS = 4

#: How often something is looked at again because a writer changed it meanwhile.
_TRIES = 3

_EXAMPLES = 10


@dataclass
class _Found:
    """What was found in one part of a collection.

    Attributes
    ----------
    above
        Documents of groups above partitions, to be checked once for all of them.
    explained
        Keys outside the partitions that the log explains.
    """

    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    above: dict[str, docs.Expected] = field(default_factory=dict)
    explained: set[str] = field(default_factory=set)

    def add(self, other: _Found) -> None:
        self.counts += other.counts
        self.findings += other.findings
        self.foreign += other.foreign
        self.explained |= other.explained
        for key, expected in other.above.items():
            if key not in self.above or expected.required:
                self.above[key] = expected

    def stray(self, found: strays.Strays) -> None:
        self.counts += found.counts
        self.foreign += found.examples


def verify(
    collection: Collection,
    *,
    chunks: Chunks = "decode",
    partitions: Sequence[str] | None = None,
    threads: int = 16,
    store: ObjectStore | None = None,
    clock: Clock | None = None,
) -> VerifyReport:
    """Check that what is stored is what the commit log says, as of now.

    Every partition's documents, the root and the configuration must be what the log makes of them; every chunk inside
    a shape must exist and decode; the axis must ascend between the bounds in the log; each row must come from a granule
    with a share in its partition, at most as many as it has. Values are not compared with anything: a chunk that
    decodes to other values goes unnoticed unless its codec has a checksum.

    Parameters
    ----------
    collection
        Any handle of the collection; it stays at the commit it stands on.
    chunks
        "decode": read all data, one chunk a thread at a time. "present": list the chunks (one listing a partition, and
        one of everything, to count what nothing explains). "none": look at documents only.
    partitions
        Paths; all by default.
    threads
        Requests, and chunks in memory, at a time.
    store, clock
        The collection's store, if the caller has one open; the clock.

    Raises
    ------
    InvalidInputError
        If ``chunks`` or ``threads`` is none of those.
    NotFoundError
        If there is no such partition.
    FormatError
        If the log itself cannot be read.
    StorageError
        If the store cannot be read; nothing is known then.
    """
    if chunks not in get_args(Chunks):
        raise InvalidInputError(f"chunks={chunks!r} is unknown; use one of {', '.join(get_args(Chunks))}")
    if threads < 1:
        raise InvalidInputError(f"threads={threads} is too few; use 1 or more")
    ticking = clock or SystemClock()
    started = ticking.now()
    view = LogView.of(collection, store)
    with ThreadPoolExecutor(threads) as pool:
        found = _Verification(view, chunks, pool).run(partitions)
    return VerifyReport(
        url=view.store.url,
        started=started,
        ended=ticking.now(),
        number=view.number,
        commit=view.commit,
        chunks=chunks,
        counts=found.counts,
        foreign=tuple(sorted(found.foreign)[:_EXAMPLES]),
        findings=tuple(sorted(set(found.findings), key=lambda f: (f.partition, f.key, f.code))),
    )


def _chosen(view: LogView, partitions: Sequence[str] | None) -> list[str]:
    if partitions is None:
        return sorted(view.paths())
    return sorted({view.state(path).path for path in partitions})


class _Verification:
    """One verification at work. Threads of ``pool`` do the requests and the decoding."""

    def __init__(self, view: LogView, chunks: Chunks, pool: Executor) -> None:
        self._view = view
        self._chunks = chunks
        self._pool = pool

    @property
    def _schema(self) -> Schema:
        return self._view.schema

    def run(self, partitions: Sequence[str] | None) -> _Found:
        """Check the chosen partitions and what belongs to none."""
        found = _Found()
        with ThreadPoolExecutor(_PARALLEL_PARTITIONS) as parts:
            for result in parts.map(self._settled_partition, _chosen(self._view, partitions)):
                found.add(result)
        found.add(self._documents(list(found.above.values())))
        found.add(self._settled_collection())
        found.findings += [_lost(entry) for entry in self._view.lost()]
        if partitions is None and self._chunks != "none":
            found.stray(self._outside(found.explained))
        return found

    def _settled_partition(self, path: str) -> _Found:
        view = self._view
        return self._settled(path, lambda: view.state(path), lambda: self._partition(view.partition(path)))

    def _settled_collection(self) -> _Found:
        return self._settled("", lambda: self._view.commit, self._collection)

    def _settled(self, path: str, state: Callable[[], object], look: Callable[[], _Found]) -> _Found:
        """Look until there is no fault or nothing was committed meanwhile."""
        for _ in range(_TRIES):
            before = state()
            found = look()
            if all(f.severity is Severity.NOTE for f in found.findings):
                return found
            self._view.refresh()
            if state() == before:
                return found
        what = f"partition {path}" if path else "the collection"
        text = f"{what} was committed to each of {_TRIES} times that it was looked at; verify it again"
        found.findings = [Finding(Code.CHANGED_MEANWHILE, path, path or self._view.format.document, text)]
        return found

    def _partition(self, seen: PartitionView) -> _Found:
        own, above = docs.of_partition(self._view, seen)
        found = self._documents_of_partition(seen, own)
        found.counts += Counts(partitions=1)
        found.above = {e.key: e for e in above}
        if self._chunks != "none":
            self._chunks_of(seen, found)
        return found

    def _documents_of_partition(self, seen: PartitionView, own: Sequence[docs.Expected]) -> _Found:
        bodies = self._bodies(own)
        if not seen.state.rows and all(body is None for body in bodies):
            return _Found()  # a partition without rows need not be shown
        expected = [own[0], *(docs.required_if_shown(self._view.format, e, bodies[0]) for e in own[1:])]
        return self._judged(expected, bodies)

    def _documents(self, expected: Sequence[docs.Expected]) -> _Found:
        found = self._judged(expected, self._bodies(expected))
        found.explained = {e.key for e in expected}
        return found

    def _judged(self, expected: Sequence[docs.Expected], bodies: Sequence[bytes | None]) -> _Found:
        judged = (docs.judge(self._view.schemas(), e, body) for e, body in zip(expected, bodies, strict=True))
        return _Found(Counts(documents=len(expected)), [f for f in judged if f is not None])

    def _bodies(self, expected: Sequence[docs.Expected]) -> list[bytes | None]:
        def body(key: str) -> bytes | None:
            try:
                return self._view.store.get(key).data
            except NotFoundError:
                return None

        return list(self._pool.map(body, [e.key for e in expected]))

    def _chunks_of(self, seen: PartitionView, found: _Found) -> None:
        path, lying = seen.state.path, self._view.lying(seen.state)
        chunks = _chunks_in(self._schema, self._schema.row_variables, seen.version, lying)
        listed = self._listed(path)
        schema = self._schema if lying is None else lying.schema(self._schema)
        found.stray(
            strays.in_partition(PartitionInventory(schema, seen.version, self._view.config.retired), path, listed)
        )
        found.counts += Counts(chunks=len(chunks))
        missing = list(absent(path, chunks, listed, marked=lying is None))
        found.findings += missing
        if self._is_shown(seen, found):
            found.findings += self._copies(seen, chunks, listed)
        if self._chunks == "decode" and chunks:
            gone = {f.key for f in missing}
            self._decode(seen, found, chunks, [c for c in chunks if f"{path}/{c.name}" not in gone])

    def _is_shown(self, seen: PartitionView, found: _Found) -> bool:
        """Tell whether the partition's document is the log's, so that what readers are shown can be compared."""
        document = f"{seen.state.path}/{self._view.format.document}"
        return not any(finding.key == document for finding in found.findings)

    def _copies(self, seen: PartitionView, chunks: Sequence[Chunk], listed: Mapping[str, ObjectInfo]) -> list[Finding]:
        """Compare the copies that readers are shown with what they are copies of."""
        path = seen.state.path
        copied = [chunk for chunk in chunks if chunk.shown != chunk.name and f"{path}/{chunk.name}" in listed]
        if not copied:
            return []
        decode = self._chunks == "decode"
        check = CopyCheck(self._view.store, self._schema, path, seen.version, listed=listed, decode=decode)
        return [finding for finding in self._pool.map(check, copied) if finding is not None]

    def _decode(self, seen: PartitionView, found: _Found, chunks: Sequence[Chunk], present: Sequence[Chunk]) -> None:
        path, schema = seen.state.path, self._schema
        lying = self._view.lying(seen.state)
        reader = ChunkReader(partition_store(self._view.store, path, schema, seen.version, lying=lying), path)
        reader.open(schema.row_variables)
        undecodable, pieces = decode_all(reader, schema, present, self._pool)
        rows = Rows(
            path,
            seen.state.axis,
            sum(c.variable.path == schema.axis for c in chunks),
            {identity: entry.shares[path].rows for identity, entry in seen.owners.items()},
        )
        found.findings += [*undecodable, *check_rows(schema, rows, pieces)]
        if axis_is_whole(rows, pieces):
            found.counts += Counts(rows=seen.state.rows)

    def _listed(self, path: str) -> dict[str, ObjectInfo]:
        return {info.key: info for info in self._view.store.list(f"{path}/")}

    def _collection(self) -> _Found:
        """Check what belongs to no partition."""
        found = self._documents(docs.of_collection(self._view))
        if self._schema.immutable_variables and self._chunks != "none":
            self._immutable(found)
        return found

    def _immutable(self, found: _Found) -> None:
        """Check the values of the variables without the partitioned dimension against the log's digests."""
        schema, version, folder = self._schema, Version(0, 0, 0), self._view.format.immutable
        lying = self._view.lying_immutable()
        chunks = _chunks_in(schema, schema.immutable_variables, version, lying)
        found.explained |= {f"{folder}/{c.name}" for c in chunks}
        if any(
            f.key == f"{folder}/{self._view.format.document}" and f.code is Code.UNPUBLISHED for f in found.findings
        ):
            return  # the group's document comes last
        missing = list(absent(folder, chunks, self._listed(folder), marked=lying is None))
        found.findings += missing
        found.counts += Counts(chunks=len(chunks))
        if self._chunks != "decode":
            return
        reader = self._view.immutable_chunks()
        reader.open(schema.immutable_variables)
        gone = {f.key for f in missing}
        undecodable, _ = decode_all(reader, schema, [c for c in chunks if f"{folder}/{c.name}" not in gone], self._pool)
        found.findings += undecodable
        unread = tuple(f.key for f in (*missing, *undecodable))
        for variable in schema.immutable_variables:
            if not any(key.startswith(f"{folder}/{variable.path}/") for key in unread):
                found.findings += self._immutable_differs(reader, variable)

    def _immutable_differs(self, reader: ChunkReader, variable: Variable) -> list[Finding]:
        if self._view.is_immutable(variable, reader.whole(variable)):
            return []
        key = f"{self._view.format.immutable}/{variable.path}"
        text = f"the values of {key} are not those that the collection was created with; repair copies them again"
        return [Finding(Code.IMMUTABLE_DIFFERS, "", key, text)]

    def _outside(self, explained: set[str]) -> strays.Strays:
        """Count what nothing explains outside the partitions."""
        view = self._view
        return strays.outside(
            self._schema, view.config.partitioning, view.store.list(), known=view.paths(), explained=explained
        )


def _chunks_in(schema: Schema, variables: Sequence[Variable], version: Version, lying: AsItLies | None) -> list[Chunk]:
    """All chunks of some arrays that should be there, with the variables as the collection has them."""
    if lying is None:
        return [chunk for v in variables for chunk in expected_chunks(schema, v, version)]
    here = lying.schema(schema)
    found = (chunk for v in variables for chunk in expected_chunks(here, here[v.path], version))
    return [chunk for chunk in found if chunk.name not in lying.absent]


def _lost(entry: GranuleEntry) -> Finding:
    where = entry.url or "nowhere any more"
    return Finding(
        Code.LOST_GRANULE,
        "",
        str(entry.id),
        f"granule {entry.identity.key} lost rows to one that was replaced, and could not be read again from {where};"
        " bring the object back and deliver it again under a new version",
    )
