"""Compare stored documents with what the log says they are."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import FormatError
from zcollection_engine.layout.documents import COMMIT_ATTRIBUTE, Version, dump
from zcollection_engine.layout.formats import Format, format_of
from zcollection_engine.layout.v2documents import ArrayLayout
from zcollection_engine.schema import Schema
from zcollection_engine.verification.logview import LogView, PartitionView
from zcollection_engine.verification.report import Code, Finding
from zcollection_engine.zcollection1 import parse_zcollection


class Role(Enum):
    """What a document is for."""

    GROUP = auto()  # flips a partition
    ARRAY = auto()  # one array, or a nested group of a partition
    FIXED = auto()  # written once, the same whoever writes it
    CONFIG = auto()  # the configuration as of a commit
    ROOT = auto()  # the summary


@dataclass(frozen=True, slots=True)
class Taken:
    """Documents of someone else, taken over as they lay.

    Attributes
    ----------
    digest
        SHA-256 of the group's.
    layouts
        Of the arrays.
    stays
        Whether they still are what is expected.
    """

    digest: str | None
    layouts: Mapping[str, ArrayLayout]
    stays: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """A document as the log says it is.

    Attributes
    ----------
    key, name
        Its key below the collection; its path in the partition.
    body
        Its bytes.
    version
        What it was rendered for; None for one that does not change.
    partition
        Path, or empty.
    published
        Whether it is known that readers were shown this version.
    required
        Whether its absence is damage.
    taken
        What was taken over in its place, if anything was.
    """

    key: str
    name: str
    body: bytes
    role: Role
    version: Version | None
    partition: str
    published: bool
    required: bool
    taken: Taken | None = None

    def is_taken(self, data: bytes) -> bool:
        """Whether these are the bytes that were taken over."""
        return self.taken is not None and self.taken.digest == hashlib.sha256(data).hexdigest()


def of_partition(view: LogView, partition: PartitionView) -> tuple[list[Expected], list[Expected]]:
    """Return the documents of a partition, the group's first; and those of the groups above it."""
    path = partition.state.path
    own: list[Expected] = []
    above: list[Expected] = []
    document = f"{path}/{view.format.document}"
    taken = _taken(view, document, stays=partition.state.is_untouched)
    for key, body in view.partition_documents(partition.state).items():
        if key.startswith(f"{path}/"):
            name = key.removeprefix(f"{path}/")
            role = _role(view.format, name)
            version = None if role is Role.FIXED else partition.version
            shown = partition.published or partition.state.is_untouched
            own.append(Expected(key, name, body, role, version, path, shown, shown, taken))
        else:
            above.append(Expected(key, key, body, Role.FIXED, None, "", partition.published, partition.published))
    return sorted(own, key=lambda e: (e.role is not Role.GROUP, e.key)), above


def _taken(view: LogView, key: str, *, stays: bool) -> Taken | None:
    """What was taken over at a group's document and below; None if it is our own."""
    found = view.taken(key)
    return None if found is None else Taken(found.digest, found.lying.layouts, stays)


def _role(layout: Format, name: str) -> Role:
    if layout.is_constant(name):
        return Role.FIXED
    return Role.GROUP if name == layout.document else Role.ARRAY


def of_collection(view: LogView) -> list[Expected]:
    """Return the documents that belong to no partition: configuration, immutable variables, root.

    Configuration and root may lag behind partitions that are known to be published; they never are known to be.
    """
    begun = view.commit >= 0
    config, root = Version(-1 if view.is_config_imported else view.configured, 0, 0), Version(view.commit, 0, 0)
    fixed = view.fixed_documents().items()
    key, body = view.config_document()
    return [
        Expected(key, key, body, Role.CONFIG, config, "", False, begun),
        *(_of_fixed(view, key, body, begun=begun) for key, body in fixed),
        *(_of_root(view.format, key, body, root, begun=begun) for key, body in view.root_documents().items()),
    ]


def _of_fixed(view: LogView, key: str, body: bytes, *, begun: bool) -> Expected:
    return Expected(key, key, body, Role.FIXED, None, "", begun, begun, _taken(view, key, stays=True))


def _of_root(layout: Format, key: str, body: bytes, version: Version, *, begun: bool) -> Expected:
    if layout.is_constant(key):
        return Expected(key, key, body, Role.FIXED, None, "", begun, begun)
    return Expected(key, key, body, Role.ROOT, version, "", False, begun)


def required_if_shown(layout: Format, expected: Expected, group: bytes | None) -> Expected:
    """An array's document is there whenever its partition's group is: the group of a new partition comes last.

    Only in Zarr v2 there is one before, without rows and of no commit.
    """
    announced = group is not None and layout.copies and layout.commit_of(group) < 0
    return replace(expected, required=expected.required or (group is not None and not announced))


def judge(schemas: Iterable[Schema], expected: Expected, found: bytes | None) -> Finding | None:
    """Compare a stored document (None: there is none) with the expected one.

    Parameters
    ----------
    schemas
        All that the collection ever had, the present one first.
    """
    if found == expected.body:
        return None
    if found is not None and expected.taken is not None and expected.taken.stays and expected.is_taken(found):
        return None
    if found is None:
        return _finding(expected, Code.MISSING if expected.required else Code.UNPUBLISHED, "it is not there")
    known = iter(schemas)
    present = next(known)
    if format_of(present).is_constant(expected.key) and _same_json(found, expected.body):
        return None
    shown = read_back(itertools.chain([present], known), expected, found)
    if expected.version is None or shown is None:
        return _finding(expected, Code.DAMAGED, "its bytes are none that publication writes")
    return _compare(format_of(present), expected, expected.version, shown)


def _same_json(found: bytes, wanted: bytes) -> bool:
    """Whether a document that never changes was only spelt otherwise, by whoever wrote it first."""
    try:
        return bool(json.loads(found) == json.loads(wanted))
    except (ValueError, RecursionError):
        return False


def _compare(layout: Format, expected: Expected, wanted: Version, shown: Version) -> Finding:
    """Tell what it means that a whole document is another one than expected."""
    commits = f"it shows commit {shown.commit}, the log says {wanted.commit}"
    if shown.commit > wanted.commit:
        return _finding(expected, Code.NEWER, commits)
    if shown.commit == wanted.commit:
        return _finding(expected, Code.CONFLICTING, "it shows the same commit with another content")
    if expected.published:
        return _finding(expected, Code.STALE, f"{commits}, which was published before")
    same_space = layout.copies or layout.space(shown.generation) == layout.space(wanted.generation)
    lagging = expected.role is Role.ARRAY and same_space
    return _finding(expected, Code.LAGGING if lagging else Code.UNPUBLISHED, commits)


def read_back(schemas: Iterable[Schema], expected: Expected, data: bytes) -> Version | None:
    """Return what a document was rendered for, its generation modulo the key spaces; None if it is damaged.

    It is rendered once more from what it says, and has to be the same byte for byte; a summary or a configuration need
    only be readable.
    """
    known = list(schemas)
    layout = format_of(known[0])
    try:
        document = json.loads(data)
        commit = layout.commit_of(data)
        if expected.role is Role.ROOT:
            return _summary(layout, document, commit, expected)
        if expected.role is Role.CONFIG:
            check_config(layout, data, expected.key)
            return Version(commit, 0, 0)
        if expected.is_taken(data) or (expected.taken is not None and expected.role is Role.ARRAY and commit < 0):
            return Version(commit, 0, 0)
        versions = list(layout.shown_by(document, commit))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, FormatError):
        return None
    ways: list[Mapping[str, ArrayLayout] | None] = [None] if expected.taken is None else [None, expected.taken.layouts]
    pairs = [(schema, version, attributes) for schema in known for version, attributes in versions]
    for schema, version, attributes in pairs:
        rendered = (layout.render(schema, version, attributes, layouts=way).get(expected.name) for way in ways)
        if any(body == data for body in rendered):
            return version
    return None


def _summary(layout: Format, document: Any, commit: int, expected: Expected) -> Version | None:
    """The root is newer than the log only if more than its commit's number says so."""
    body = json.loads(expected.body)
    wanted = layout.attributes_of(body)
    attributes = {**layout.attributes_of(document), COMMIT_ATTRIBUTE: wanted[COMMIT_ATTRIBUTE]}
    is_group = layout.copies or set(document) == set(body)
    whole: bool = is_group and set(wanted) <= set(attributes) | _LATER
    same = bool(dump(attributes) == dump(wanted))
    current = expected.version is not None and commit == expected.version.commit
    return None if not whole or same or current else Version(commit, 0, 0)


#: Attributes of the root that come with the first commit.
_LATER = frozenset({"zcollection_updated", "time_coverage_start", "time_coverage_end"})


def check_config(layout: Format, data: bytes, key: str) -> None:
    """Raise `FormatError`, or what else reading raises, if the file that tells of the configuration is damaged."""
    if layout.zarr_format == 2:
        parse_zcollection(data, name=key)
    else:
        CollectionConfig.from_json(json.loads(data), name=key)


_ADVICE = {
    Code.UNPUBLISHED: "the next writer publishes it, and so does repair",
    Code.LAGGING: "readers of single arrays see fewer rows until the next writer, or repair, brings it up to date",
    Code.MISSING: "repair writes it from the log",
    Code.STALE: "repair writes it from the log",
    Code.DAMAGED: "repair writes it from the log",
    Code.CONFLICTING: "compare both with a backup; repair writes it only if other documents bear the log out",
    Code.NEWER: "the log's end is lost, or an older copy of it was put back: restore the log before anything writes",
}


def _finding(expected: Expected, code: Code, what: str) -> Finding:
    kind = "the configuration" if expected.role is Role.CONFIG else "the document"
    return Finding(code, expected.partition, expected.key, f"{kind} {expected.key}: {what}; {_ADVICE[code]}")
