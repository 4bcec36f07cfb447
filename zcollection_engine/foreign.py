"""What is kept of a tree that was taken over from released zcollection: how its groups lie, until they are rewritten.

One object, ``.zcommits/imported/<creation>.json.gz``, is written before the first record of the log and never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from zcollection_engine.commits.log import FOLDER
from zcollection_engine.commits.pieces import packed, unpacked
from zcollection_engine.commits.records import FORMAT_VERSION, parse
from zcollection_engine.errors import FormatError, NotFoundError
from zcollection_engine.layout.partitionstore import AsItLies
from zcollection_engine.layout.v2documents import ArrayLayout
from zcollection_engine.stores.base import ObjectStore

IMPORTED = f"{FOLDER}imported/"


@dataclass(frozen=True, slots=True)
class ForeignGroup:
    """A partition as it lay, or the group of the variables without the partitioned dimension.

    Attributes
    ----------
    digest
        SHA-256 of its ``.zmetadata``.
    lying
        How its arrays lie.
    """

    digest: str
    lying: AsItLies


@dataclass(frozen=True, slots=True)
class ForeignTree:
    """A tree as it lay.

    Attributes
    ----------
    config
        Content of its ``.zcollection``.
    groups
        By path.
    """

    config: str
    groups: Mapping[str, ForeignGroup] = field(default_factory=dict)

    def group(self, path: str) -> ForeignGroup:
        """The group of a path; raises `FormatError`."""
        try:
            return self.groups[path]
        except KeyError:
            raise FormatError(f"{path} was taken over by the log, which does not know how it lay") from None


def foreign_key(name: str) -> str:
    """Key of what is kept of a tree, by the transaction that created the collection."""
    return f"{IMPORTED}{name}.json.gz"


def store_foreign(store: ObjectStore, name: str, tree: ForeignTree) -> None:
    """Write what is kept, before a record of the log names it."""
    layouts: dict[str, int] = {}
    bodies: list[dict[str, Any]] = []

    def number(layout: ArrayLayout) -> int:
        body = asdict(layout)
        del body["chunks"]
        found = layouts.setdefault(repr(body), len(bodies))
        if found == len(bodies):
            bodies.append(body)
        return found

    def group(found: ForeignGroup) -> dict[str, Any]:
        arrays = {path: [number(layout), list(layout.chunks)] for path, layout in found.lying.layouts.items()}
        return {"digest": found.digest, "arrays": arrays, "absent": sorted(found.lying.absent)}

    groups = {path: group(found) for path, found in tree.groups.items()}
    told = {"format_version": FORMAT_VERSION, "config": tree.config, "layouts": bodies, "groups": groups}
    store.create(foreign_key(name), packed(told))


def load_foreign(store: ObjectStore, name: str) -> ForeignTree:
    """Read what is kept; raises `FormatError`."""
    key = foreign_key(name)
    place = f"{store.url}/{key}"
    try:
        data = store.get(key).data
    except NotFoundError as error:
        raise FormatError(f"{place} is missing; the configuration names it") from error
    body = parse(unpacked(data, name=place), name=place)
    try:
        return ForeignTree(body["config"], dict(_groups(body)))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise FormatError(f"{place} is damaged: {error!r}") from error


def _groups(body: Mapping[str, Any]) -> Iterable[tuple[str, ForeignGroup]]:
    bases = [ArrayLayout(**{**b, "chunks": (), "filters": tuple(b["filters"])}) for b in body["layouts"]]
    for path, group in body["groups"].items():
        layouts = {name: replace(bases[n], chunks=tuple(chunks)) for name, (n, chunks) in group["arrays"].items()}
        yield path, ForeignGroup(group["digest"], AsItLies(layouts, frozenset(group["absent"])))


#: Trees that this process has read, by the names of their collections, which are unique.
_TREES: dict[str, ForeignTree] = {}
_MOST_TREES = 8
_lock = threading.Lock()


def resolve_foreign(store: ObjectStore, name: str) -> ForeignTree:
    """Read what is kept, once in a process; raises `FormatError`."""
    found = _TREES.get(name)
    if found is None:
        found = load_foreign(store, name)
        with _lock:
            if len(_TREES) >= _MOST_TREES:
                _TREES.clear()
            _TREES[name] = found
    return found


def lying_of(store: ObjectStore, name: str | None, path: str, *, imported: bool) -> AsItLies | None:
    """How a partition lies; None for one of our own.

    Parameters
    ----------
    store
        The collection's store.
    name
        Of the tree that the collection was made of; None for a collection of our own.
    path
        Of the partition, or of the group of the variables without the partitioned dimension.
    imported
        Whether nobody rewrote it since.
    """
    return resolve_foreign(store, name).group(path).lying if imported and name is not None else None
