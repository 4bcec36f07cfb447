"""Looks at a collection that released zcollection wrote, as it lies, and says whether it can be taken over.

Nothing is written. Costs one listing of the tree, and of each partition its ``.zmetadata`` and at most two chunks of
the axis.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zcollection_engine.commits.log import FOLDER
from zcollection_engine.errors import FormatError, InvalidInputError, NotFoundError
from zcollection_engine.layout.v2documents import DOCUMENT, ArrayLayout
from zcollection_engine.layout.v2partition import Bounds, UnreadableError, axis_bounds, parse_group
from zcollection_engine.partitioning import DatePartitioning, Partitioning, partitioning_from_json
from zcollection_engine.schema import PROVENANCE, Schema, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.treefindings import Code, Comparison, Finding, Severity
from zcollection_engine.zcollection1 import (
    CONFIG_KEY,
    IMMUTABLE,
    Translation,
    depth_of,
    from_zcollection,
    parse_zcollection,
)

PARALLEL_PARTITIONS = 16


@dataclass(frozen=True, slots=True)
class ImportedPartition:
    """A partition as it lies.

    Attributes
    ----------
    path
        Hive path.
    rows
        Number of rows.
    axis
        First and last value of the axis, in the units of the schema; None without rows, or when it cannot be read.
    layouts
        By variable, where the partition differs from `ImportedTree.layouts`.
    chunks
        Number of chunks that are there.
    absent
        Number of chunks that are not there and stand for the array's fill value.
    etag, digest
        Of ``.zmetadata``: its ETag, and the SHA-256 of its bytes in hexadecimal digits.
    absent_keys
        Keys of the chunks that are not there, relative to the partition.
    """

    path: str
    rows: int
    axis: tuple[int, int] | tuple[float, float] | None
    layouts: Mapping[str, ArrayLayout]
    chunks: int
    absent: int
    etag: str
    digest: str = ""
    absent_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ImportedTree:
    """What lies under one root.

    Attributes
    ----------
    schema, partitioning, layouts
        As in `Translation`.
    partitions
        In order of their keys, those that could be understood.
    immutable
        The group of variables without the partitioned dimension, if there are any.
    findings
        All differences, the collection's first.
    """

    translation: Translation
    partitions: tuple[ImportedPartition, ...]
    immutable: ImportedPartition | None
    findings: tuple[Finding, ...]

    @property
    def schema(self) -> Schema:
        return self.translation.schema

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that stand against taking the tree over."""
        return tuple(f for f in self.findings if f.code.severity is Severity.FAULT)


@dataclass(frozen=True, slots=True)
class _Looked:
    partition: ImportedPartition | None
    findings: tuple[Finding, ...]


def scan(store: ObjectStore) -> ImportedTree:
    """Look at the tree of a released zcollection.

    Raises
    ------
    NotFoundError
        If there is no ``.zcollection``.
    FormatError
        If it is damaged or says what the engine has no counterpart for.
    """
    document = parse_zcollection(store.get(CONFIG_KEY).data, name=f"{store.url}/{CONFIG_KEY}")
    depth = depth_of(document)
    translation = from_zcollection(document, _inner_sizes(store, depth), name=f"{store.url}/{CONFIG_KEY}")
    look = _Look(store, translation, depth)
    findings = list(look.collection())
    partitions: list[ImportedPartition] = []
    immutable: ImportedPartition | None = None
    folders = _folders(store, depth)
    with ThreadPoolExecutor(PARALLEL_PARTITIONS) as pool:
        while batch := list(itertools.islice(folders, 4 * PARALLEL_PARTITIONS)):
            for looked in pool.map(look.folder, batch):
                findings.extend(looked.findings)
                if looked.partition is not None and looked.partition.path == IMMUTABLE:
                    immutable = looked.partition
                elif looked.partition is not None:
                    partitions.append(looked.partition)
    if immutable is None and translation.schema.immutable_variables:
        findings.append(Finding(Code.NO_IMMUTABLE, f"{IMMUTABLE} is missing; the collection cannot be loaded without"))
    ordered = sorted(partitions, key=lambda p: look.rule.keys(p.path))
    return ImportedTree(translation, tuple(ordered), immutable, tuple(_without_repeats(findings)))


def _without_repeats(findings: Iterable[Finding]) -> Iterator[Finding]:
    yield from dict.fromkeys(findings)


def _inner_sizes(store: ObjectStore, depth: int) -> dict[str, int]:
    """Sizes of dimensions as the first whole partition has them, and the group of variables without rows."""
    sizes: dict[str, int] = {}
    found = (folder for folder, _ in _folders(store, depth) if folder.count("/") == depth - 1 and "=" in folder)
    for folder in itertools.chain([IMMUTABLE], found):
        try:
            group = parse_group(store.get(f"{folder}/{DOCUMENT}").data)
        except (NotFoundError, FormatError):
            continue  # the look at each folder tells of it
        for array in group.arrays.values():
            sizes.update(zip(array.dimensions, array.shape, strict=False))
        if folder != IMMUTABLE:
            break
    return sizes


def _folders(store: ObjectStore, depth: int) -> Iterator[tuple[str, list[str]]]:
    """Every folder in which a partition may lie, with the keys in it, relative to it."""

    def folder(key: str) -> str:
        parts = key.split("/")
        if parts[0].startswith(".") or "=" not in parts[0]:
            return parts[0] if len(parts) > 1 else ""
        return "/".join(parts[:depth] if len(parts) > depth else parts[:-1])

    keys = (info.key for info in store.list())
    for path, group in itertools.groupby(keys, key=folder):
        yield path, [key.removeprefix(f"{path}/") for key in group]


class _Look:
    """Looks at single folders. Thread-safe."""

    def __init__(self, store: ObjectStore, translation: Translation, depth: int) -> None:
        self.rule: Partitioning = partitioning_from_json(translation.partitioning)
        self._store = store
        self._schema = translation.schema
        self._layouts = translation.layouts
        self._depth = depth
        self._warnings = translation.warnings

    def collection(self) -> Iterator[Finding]:
        """What the file itself tells."""
        for warning in self._warnings:
            yield Finding(Code.TRANSLATED, warning)
        if next(iter(self._store.list(FOLDER)), None) is not None:
            yield Finding(Code.OURS_ALREADY, f"{FOLDER} is there: the collection is one of ours; open it")
        if PROVENANCE in self._schema.by_path:
            yield Finding(
                Code.RESERVED_NAME,
                f"the name {PROVENANCE!r} is that of the variable which tells each row's granule; rename it",
                variable=PROVENANCE,
            )

    def folder(self, item: tuple[str, list[str]]) -> _Looked:
        """Look at one folder."""
        path, keys = item
        if path == IMMUTABLE:
            return self._partition(path, keys, self._schema.immutable_variables)
        if path in {"", FOLDER.rstrip("/")}:
            foreign = [key for key in keys if not path and key != CONFIG_KEY]
            return _Looked(None, tuple(Finding(Code.FOREIGN, f"{key} is passed over") for key in foreign))
        try:
            self.rule.keys(path)
        except InvalidInputError as error:
            return _Looked(None, (self._no_partition(path, str(error)),))
        return self._partition(path, keys, self._schema.row_variables)

    def _no_partition(self, path: str, why: str) -> Finding:
        if re.fullmatch("[0-9a-f]{64}", path):
            return Finding(
                Code.LEFTOVER,
                f"{path} is what a merge of zcollection leaves when it dies; it may be the only copy of a partition: "
                "compare, then remove it",
                path,
            )
        parts = path.split("/")
        if len(parts) == self._depth and all(re.fullmatch(r"[^=]+=[-+]?\d+", part) for part in parts):
            return Finding(Code.MISSPELT, f"zcollection reads it as a partition, the engine does not: {why}", path)
        return Finding(Code.FOREIGN, f"{path} is no partition and is passed over", path)

    def _partition(self, path: str, keys: list[str], variables: tuple[Variable, ...]) -> _Looked:
        try:
            stored = self._store.get(f"{path}/{DOCUMENT}")
            group = parse_group(stored.data)
        except NotFoundError:
            return _Looked(
                None, (Finding(Code.NO_METADATA, f"{DOCUMENT} is missing: zcollection cannot load it", path),)
            )
        except FormatError as error:
            return _Looked(None, (Finding(Code.DAMAGED_METADATA, f"{DOCUMENT}: {error}", path),))
        compared = Comparison(path, self._schema, self._layouts, group, keys)
        findings = list(compared.findings(variables))
        bounds: Bounds | None = None
        axis = group.arrays.get(self._schema.axis)
        if axis is not None and axis.shape and axis.shape[0] and path != IMMUTABLE:
            try:
                bounds = axis_bounds(self._store, path, self._schema.axis, axis)
                findings += self._rows(path, bounds)
            except UnreadableError as error:
                findings.append(Finding(Code.UNREADABLE_AXIS, str(error), path, self._schema.axis))
        partition = ImportedPartition(
            path,
            axis.shape[0] if axis is not None and axis.shape else 0,
            None if bounds is None else bounds.values,
            {name: a.layout for name, a in group.arrays.items() if a.layout != self._layouts.get(name)},
            compared.present,
            compared.absent,
            stored.info.etag,
            hashlib.sha256(stored.data).hexdigest(),
            frozenset(compared.absent_chunks()),
        )
        return _Looked(partition, tuple(findings))

    def _rows(self, path: str, bounds: Bounds) -> Iterator[Finding]:
        axis = self._schema.axis
        if not bounds.ascending:
            yield Finding(Code.UNSORTED_AXIS, "its values do not ascend, or are missing: sort the rows", path, axis)
        elif bounds.nanoseconds is not None and isinstance(self.rule, DatePartitioning) and self.rule.variable == axis:
            places = set(self.rule.split({axis: bounds.nanoseconds}))
            if places != {path}:
                yield Finding(
                    Code.MISFILED, f"it has rows that belong to {', '.join(sorted(places - {path}))}", path, axis
                )
