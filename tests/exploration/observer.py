"""Watches a shared store from outside the schedule and compares every change with what must hold.

It knows the layout on disk (chunk keys, codecs, documents) by its own small code, and of the engine only the records
of the log. After every change of an object it looks at each *view*: rows that somebody is entitled to see.

- the last commit,
- what a partition's document shows, and what it showed less than ``reader_grace`` ago: a plain reader may have opened
  it just before it was replaced,
- what the document of a single array shows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numcodecs
import numpy as np

from tests.exploration.granules import CHUNK_ROWS, FILL, PATHS, Contents, Specimen, contents
from zcollection_engine.commits.records import Commit, Grant, Record, Release, decode
from zcollection_engine.errors import NotFoundError
from zcollection_engine.stores.base import ObjectStore

COLUMNS = {"time": "<i8", "height": "<i4", "granule": "<u8"}
_SPELLINGS = {("default", "/"): 0, ("default", "."): 1, ("v2", "."): 2}
_CHUNK_KEYS = ("c/{}", "c.{}", "{}")
_RECORD = re.compile(r"\.zcommits/(\d{20})\.json")
_DOCUMENT = re.compile(rf"({'|'.join(map(re.escape, PATHS))})(?:/({'|'.join(COLUMNS)}))?/zarr\.json")
_CHUNK = re.compile(rf"({'|'.join(map(re.escape, PATHS))})/({'|'.join(COLUMNS)})/(?:c[/.])?\d+")

Values = tuple[int, ...]


@dataclass(frozen=True)
class View:
    """Rows of some columns of a partition that must be readable.

    Attributes
    ----------
    label
        Whose view it is.
    space
        Key space in which the chunks lie.
    columns
        Expected values by column.
    until
        Virtual time after which nobody is entitled to the view any more.
    folder
        Where the arrays' chunks lie below the partition, if not there; with "/" at its end.
    """

    label: str
    path: str
    commit: int
    space: int
    columns: dict[str, Values]
    until: float = float("inf")
    folder: str = ""

    @cached_property
    def chunks(self) -> dict[str, Values]:
        """Expected rows of each chunk, by its key."""
        return {
            f"{self.path}/{self.folder}{name}/{_CHUNK_KEYS[self.space].format(start // CHUNK_ROWS)}": values[
                start : start + CHUNK_ROWS
            ]
            for name, values in self.columns.items()
            for start in range(0, len(values), CHUNK_ROWS)
        }


@dataclass(frozen=True)
class Seen:
    """A commit as the observer folded it.

    Attributes
    ----------
    members
        By id of a granule that is in: partitions in which it still has its share.
    changed
        Partitions whose documents show this commit, if no later one changes them.
    touched
        By id of a granule that this commit added: those of them that it has rows in, or an older version had.
    """

    number: int
    members: Mapping[int, frozenset[str]]
    rows: Contents
    changed: frozenset[str]
    touched: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @property
    def ledger(self) -> frozenset[int]:
        """Ids of the granules that are in."""
        return frozenset(self.members)


class Observer:
    """Checks a collection after every change of an object.

    Parameters
    ----------
    store
        The shared store, without a schedule around it.
    now
        Virtual time.
    grace
        ``reader_grace`` of all writers, seconds.
    fail
        Called with a message for every violation.
    lenient
        Take a missing chunk for one of fill values, as plain readers do.
    """

    def __init__(
        self,
        store: ObjectStore,
        now: Callable[[], float],
        *,
        grace: float,
        fail: Callable[[str], None],
        lenient: bool = False,
    ) -> None:
        self.commits: dict[int, Seen] = {-1: Seen(-1, {}, {}, frozenset())}
        self.last = self.commits[-1]
        self.head = 0
        self.shown: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self._store = store
        self._now = now
        self._grace = grace
        self._fail = fail
        self._lenient = lenient
        self._specimens: dict[int, Specimen] = {}
        self._views: dict[tuple[str, str], View] = {}
        self._retired: list[View] = []
        self._decoded: dict[str, Values] = {}
        self._held: dict[str, int] = {}

    def know(self, specimens: Iterable[Specimen]) -> None:
        """Tell which granules ids stand for."""
        self._specimens.update({s.id: s for s in specimens})

    def __call__(self, method: str, key: str) -> None:
        """Look at the store after an object was changed."""
        self._retired = [v for v in self._retired if v.until >= self._now()]
        if record := _RECORD.fullmatch(key):
            if method == "create":
                self._fold(int(record[1]), self._store.get(key).data)
        elif key == "zarr.json":
            self._show_root(json.loads(self._store.get(key).data)["attributes"])
        elif document := _DOCUMENT.fullmatch(key):
            self._show(key, document[1], document[2] or "")
        elif chunk := _CHUNK.fullmatch(key):
            self._check_chunk(chunk[1], key)

    def check_all(self) -> None:
        """Look at every view once more."""
        for view in (*self._views.values(), *self._retired):
            self._check(view)

    def values(self, column: str, key: str) -> Values | None:
        """Decode a chunk; None if there is none."""
        try:
            stored = self._store.get(key)
        except NotFoundError:
            return None
        etag = stored.info.etag
        if etag not in self._decoded:
            self._decoded[etag] = decode_chunk(stored.data, column)
        return self._decoded[etag]

    def _fold(self, number: int, data: bytes) -> None:
        if number <= self.head:
            # Its writer slept while the log went on and was trimmed: the record counts for nothing.
            self.counts["void records"] += 1
            return
        if number > self.head + 1:
            self._fail(f"record {number} follows record {self.head}")
        self.head = number
        record = decode(data, name=f"record {number}")
        self.counts[f"records: {record.kind}"] += 1
        self._follow_grants(number, record)
        if isinstance(record, Commit):
            self._fold_commit(number, record)

    def _follow_grants(self, number: int, record: Record) -> None:
        """Count how often a writer takes a partition from another one."""
        if isinstance(record, Grant):
            if any(path in self._held for path in record.partitions):
                self.counts["take-overs"] += 1
            self._held.update(dict.fromkeys(record.partitions, number))
        elif isinstance(record, Commit | Release):
            self._held = {path: token for path, token in self._held.items() if token != record.token}

    def _fold_commit(self, number: int, record: Commit) -> None:
        added = {entry.id for entry in record.granules}
        twice = added & (self.last.ledger - {entry.id for entry in record.removed})
        if twice:
            self._fail(f"commit {number} adds granules that are in already: {twice}")
        self._check_published(number, record)
        members = _members(self.last.members, record)
        rows = contents(frozenset((self._specimens[i], paths) for i, paths in members.items()))
        changed = frozenset(record.partitions if record.config is None else {*record.partitions, *self._existing()})
        self.last = self.commits[number] = Seen(number, members, rows, changed, _touched(record, changed))
        self.counts[f"commits: {record.operation}"] += 1
        for path, change in record.partitions.items():
            if change.rows != len(rows.get(path, ())):
                self._fail(f"commit {number} gives {path} {change.rows} rows instead of {len(rows.get(path, ()))}")
            self._views["commit", path] = self._committed(number, path, change.generation, _columns(rows, path))
        for path in self._existing():
            self._check_unchanged(number, path, rows)
            self._check(self._views["commit", path])

    def documents(self, path: str) -> list[str]:
        """Keys of a partition's documents that tell a commit, the one that flips it first."""
        return [f"{path}/zarr.json", *(f"{path}/{name}/zarr.json" for name in COLUMNS)]

    def _committed(self, number: int, path: str, generation: int, columns: dict[str, Values]) -> View:
        return View(f"commit {number}", path, number, generation % 3, columns)

    def _existing(self) -> list[str]:
        return [path for path in PATHS if ("commit", path) in self._views]

    def _check_published(self, number: int, record: Commit) -> None:
        """A partition whose last commit is called published must show it everywhere: nobody would look again."""
        for path in PATHS:
            last = max((n for n, seen in self.commits.items() if path in seen.changed), default=-1)
            behind = [key for key in self.documents(path) if self.shown.get(key, -1) < last <= record.published]
            if behind:
                self._fail(f"commit {number} calls {record.published} published, and {behind} do not show {last}")

    def _check_unchanged(self, number: int, path: str, rows: Contents) -> None:
        if self._views["commit", path].columns != _columns(rows, path):
            self._fail(f"commit {number} leaves {path} as it was, which is not what its granules give")

    def _show(self, key: str, path: str, column: str) -> None:
        document = json.loads(self._store.get(key).data)
        arrays = {column: document} if column else document["consolidated_metadata"]["metadata"]
        commit = document["zcollection"]["commit"] if column else document["attributes"]["zcollection_commit"]
        if commit < self.shown.get(key, -1):
            self._fail(f"{key} goes back from commit {self.shown[key]} to {commit}")
        if commit not in self.commits:
            self._fail(f"{key} shows commit {commit}, which does not exist")
        self.shown[key] = commit
        expected = _columns(self.commits[commit].rows, path)
        spaces = {name: _space(array) for name, array in arrays.items()}
        shapes = {name: array["shape"][0] for name, array in arrays.items()}
        if shapes != {name: len(expected[name]) for name in arrays} or len(set(spaces.values())) != 1:
            self._fail(f"{key} shows {shapes} rows in spaces {spaces} as commit {commit}")
        old = self._views.get((key, path))
        if old is not None and not column:
            until = self._now() + self._grace
            self._retired.append(View(f"retired {old.label}", path, old.commit, old.space, old.columns, until))
        columns = {name: expected[name] for name in arrays}
        view = View(f"{key} (commit {commit})", path, commit, next(iter(spaces.values())), columns)
        self._views[key, path] = view
        self._check(view)

    def _show_root(self, attributes: dict[str, Any]) -> None:
        commit = attributes["zcollection_commit"]
        if commit < self.shown.get("", -1):
            self._fail(f"the root group goes back from commit {self.shown['']} to {commit}")
        self.shown[""] = commit
        seen = self.commits[commit]
        found = attributes["zcollection_rows"], attributes["zcollection_granules"], attributes["zcollection_partitions"]
        wanted = sum(map(len, seen.rows.values())), len(seen.ledger), len(seen.rows)
        if found != wanted:
            self._fail(f"the root group shows {found} rows, granules, partitions; commit {commit} has {wanted}")

    def _check_chunk(self, path: str, key: str) -> None:
        for view in (*self._views.values(), *self._retired):
            if view.path == path and key in view.chunks:
                self._compare(view, key, view.chunks[key])

    def _check(self, view: View) -> None:
        for key, rows in view.chunks.items():
            self._compare(view, key, rows)

    def _compare(self, view: View, key: str, rows: Values) -> None:
        column = key.removeprefix(f"{view.path}/{view.folder}").split("/")[0]
        found = self.values(column, key)
        if found is None and self._lenient:
            found = (fill_of(column),) * CHUNK_ROWS
        if found is None:
            self._fail(f"{view.label}: chunk {key} is missing")
        elif found[: len(rows)] != rows:
            self._fail(f"{view.label}: chunk {key} holds {found[: len(rows)]}, not {rows}")


def fill_of(column: str) -> int:
    """What a reader takes for the values of a missing chunk."""
    return FILL if column == "height" else 0


def decode_chunk(data: bytes, column: str) -> Values:
    """Decode a chunk of one column."""
    return tuple(np.frombuffer(numcodecs.Zstd().decode(data), COLUMNS[column]).tolist())


def chunk_keys(path: str, column: str, array: dict[str, Any]) -> list[str]:
    """Keys of the chunks that an array's metadata make visible."""
    spelling = _CHUNK_KEYS[_space(array)]
    return [f"{path}/{column}/{spelling.format(i)}" for i in range(-(-array["shape"][0] // CHUNK_ROWS))]


def _space(array: dict[str, Any]) -> int:
    encoding = array["chunk_key_encoding"]
    return _SPELLINGS[encoding["name"], encoding["configuration"]["separator"]]


def _members(before: Mapping[int, frozenset[str]], record: Commit) -> dict[int, frozenset[str]]:
    """Which granules are in after a commit, and where they still have their shares."""
    gone = {entry.id for entry in record.removed}
    dropped = frozenset(record.dropped)
    members = {identity: paths - dropped for identity, paths in before.items() if identity not in gone}
    return members | {entry.id: frozenset(entry.shares) for entry in record.granules}


def _touched(record: Commit, changed: frozenset[str]) -> dict[int, frozenset[str]]:
    shares = {(entry.identity.bucket, entry.identity.key): set(entry.shares) for entry in record.removed}
    return {
        entry.id: changed & {*entry.shares, *shares.get((entry.identity.bucket, entry.identity.key), ())}
        for entry in record.granules
    }


def _columns(rows: Contents, path: str) -> dict[str, Values]:
    found = rows.get(path, ())
    return {name: tuple(row[i] for row in found) for i, name in enumerate(COLUMNS)}
