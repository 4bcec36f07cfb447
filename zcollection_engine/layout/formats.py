"""How collections lie on the store in Zarr v3 and in Zarr v2: names of documents, spellings of chunk keys, their bytes.

Zarr v3 spells the keys of chunks in three standard ways, so a rewrite goes to keys that published metadata do not name.
Zarr v2 has one spelling. There, what a rewrite writes lies in a folder that readers ignore, and readers get a copy of
it; a partition that was only appended to has no copy.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from uuid import UUID

from zcollection_engine.layout import documents, keyspaces, v2documents
from zcollection_engine.layout.chunkstore import with_frame
from zcollection_engine.layout.documents import COMMIT_ATTRIBUTE, Version
from zcollection_engine.layout.zstdmark import mark
from zcollection_engine.schema import Schema

#: Key spaces that generations use in turn: a retired one is used again after so many.
SPACES = keyspaces.SPACES

Layouts = Mapping[str, v2documents.ArrayLayout]

#: Attribute of a Zarr v2 partition: the generation that readers see.
GENERATION_ATTRIBUTE = "zcollection_generation"


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Where a chunk lies: its array, key space, and place in the grid."""

    path: str
    space: int
    index: tuple[int, ...]


class Format(Protocol):
    """A Zarr format. Keys are relative to the partition unless said otherwise."""

    zarr_format: ClassVar[int]

    #: The document that flips a partition.
    document: ClassVar[str]

    #: Folder of the variables without the partitioned dimension, below the collection.
    immutable: ClassVar[str]

    #: Whether readers are shown copies of what a rewrite wrote.
    copies: ClassVar[bool]

    def render(
        self,
        schema: Schema,
        version: Version,
        attributes: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        layouts: Layouts | None = None,
    ) -> dict[str, bytes]:
        """All documents of a partition as readers see them, by key.

        ``layouts`` tells, by variable, how chunks lie that someone else wrote; only Zarr v2 has such.
        """

    def internal(
        self, schema: Schema, version: Version, *, immutable: bool = False, layouts: Layouts | None = None
    ) -> dict[str, bytes]:
        """The documents by which the engine itself reads and writes chunks."""

    def root(self, attributes: Mapping[str, Any], commit: int) -> dict[str, bytes]:
        """Documents of the collection's root group, by key below the collection."""

    def parents(self, path: str) -> dict[str, bytes]:
        """Documents of the groups above a partition, by key below the collection."""

    def of_array(self, path: str) -> tuple[str, ...]:
        """Keys of the documents of one array."""

    def is_constant(self, key: str) -> bool:
        """Whether a document is the same in every version."""

    def shown_by(self, document: Mapping[str, Any], commit: int) -> Iterator[tuple[Version, dict[str, Any]]]:
        """Yield the versions, with their own attributes, for which a partition's document can have been rendered.

        Raises whatever reading a damaged document raises.
        """

    def attributes_of(self, root: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes that the root group's document tells."""

    def commit_of(self, document: bytes) -> int:
        """Number of the commit that a document was rendered for; -1 if it carries none."""

    def space(self, generation: int) -> int:
        """The key space of a generation."""

    def folder(self, generation: int) -> str:
        """Folder below which the chunks of a generation lie; empty for the partition's own."""

    def chunk_key(self, path: str, generation: int, index: tuple[int, ...]) -> str:
        """Key of a chunk below the folder of its generation, as zarr asks for it."""

    def place(self, key: str, paths: Container[str]) -> ChunkPlace | None:
        """The chunk of one of the arrays ``paths`` that a key names; None if it names none."""

    def overwritten_by(self, generation: int) -> int:
        """The generation behind whose commit chunks of ``generation`` may be written again."""

    def seal(self, chunk: bytes, attempt: UUID) -> bytes:
        """Mark an encoded chunk with the attempt that wrote it, so that its ETag never recurs."""


class Zarr3:
    """Zarr v3: nested groups, times as CF has them, three spellings of chunk keys."""

    zarr_format: ClassVar[int] = 3
    document: ClassVar[str] = documents.DOCUMENT
    immutable: ClassVar[str] = "_immutable"
    copies: ClassVar[bool] = False

    def render(
        self,
        schema: Schema,
        version: Version,
        attributes: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        layouts: Layouts | None = None,
    ) -> dict[str, bytes]:
        return documents.render(schema, version, attributes, immutable=immutable)

    def internal(
        self, schema: Schema, version: Version, *, immutable: bool = False, layouts: Layouts | None = None
    ) -> dict[str, bytes]:
        return documents.render(schema, version, immutable=immutable)

    def root(self, attributes: Mapping[str, Any], commit: int) -> dict[str, bytes]:
        return {self.document: documents.dump(documents.group_document({**attributes, COMMIT_ATTRIBUTE: commit}))}

    def parents(self, path: str) -> dict[str, bytes]:
        parts = path.split("/")
        group = documents.dump(documents.group_document({}))
        return {f"{'/'.join(parts[:end])}/{self.document}": group for end in range(1, len(parts))}

    def of_array(self, path: str) -> tuple[str, ...]:
        return (f"{path}/{self.document}",)

    def is_constant(self, key: str) -> bool:
        return False

    def shown_by(self, document: Mapping[str, Any], commit: int) -> Iterator[tuple[Version, dict[str, Any]]]:
        attributes = _coverage(document["attributes"])
        if document["node_type"] == "group":
            nodes = document["consolidated_metadata"]["metadata"].values()
            document = next((node for node in nodes if node["node_type"] == "array"), {})
        rows = _whole_number(document["shape"][0])
        for space in range(SPACES):
            yield Version(commit, space, rows), attributes

    def attributes_of(self, root: Mapping[str, Any]) -> dict[str, Any]:
        return dict(root["attributes"])

    def commit_of(self, document: bytes) -> int:
        return documents.commit_of(document)

    def space(self, generation: int) -> int:
        return generation % SPACES

    def folder(self, generation: int) -> str:
        return ""

    def chunk_key(self, path: str, generation: int, index: tuple[int, ...]) -> str:
        return f"{path}/{keyspaces.chunk_key(generation, index)}"

    def place(self, key: str, paths: Container[str]) -> ChunkPlace | None:
        path = _array_above(key, paths)
        for space in range(SPACES) if path is not None else ():
            index = keyspaces.parse(space, key.removeprefix(f"{path}/"))
            if path is not None and index is not None:
                return ChunkPlace(path, space, index)
        return None

    def overwritten_by(self, generation: int) -> int:
        return generation + SPACES - 1

    def seal(self, chunk: bytes, attempt: UUID) -> bytes:
        return with_frame(chunk, attempt)


class Zarr2:
    """Zarr v2 in the layout of released zcollection: flat names, times as ``datetime64``, one spelling of keys."""

    zarr_format: ClassVar[int] = 2
    document: ClassVar[str] = v2documents.DOCUMENT
    immutable: ClassVar[str] = ".immutable"
    copies: ClassVar[bool] = True

    _HIDDEN: ClassVar[str] = ".generations"
    _INDEX: ClassVar[re.Pattern[str]] = re.compile(r"\d+(\.\d+)*")

    def render(
        self,
        schema: Schema,
        version: Version,
        attributes: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        layouts: Layouts | None = None,
    ) -> dict[str, bytes]:
        told = {**(attributes or {}), GENERATION_ATTRIBUTE: version.generation}
        return v2documents.render_v2(schema, version, told, immutable=immutable, layouts=layouts)

    def internal(
        self, schema: Schema, version: Version, *, immutable: bool = False, layouts: Layouts | None = None
    ) -> dict[str, bytes]:
        return v2documents.render_v2(schema, version, immutable=immutable, published=False, layouts=layouts)

    def root(self, attributes: Mapping[str, Any], commit: int) -> dict[str, bytes]:
        return {
            v2documents.GROUP: documents.dump({"zarr_format": 2}),
            v2documents.ATTRIBUTES: documents.dump({**attributes, COMMIT_ATTRIBUTE: commit}),
        }

    def parents(self, path: str) -> dict[str, bytes]:
        return {}

    def of_array(self, path: str) -> tuple[str, ...]:
        return f"{path}/{v2documents.ARRAY}", f"{path}/{v2documents.ATTRIBUTES}"

    def is_constant(self, key: str) -> bool:
        return key.rpartition("/")[2] == v2documents.GROUP

    def shown_by(self, document: Mapping[str, Any], commit: int) -> Iterator[tuple[Version, dict[str, Any]]]:
        metadata = document.get("metadata", {})
        attributes = metadata.get(v2documents.ATTRIBUTES, document)
        arrays = [node for name, node in metadata.items() if name.endswith(v2documents.ARRAY)] or [document]
        rows = _whole_number(next((node["shape"][0] for node in arrays if "shape" in node), 0))
        generation = _whole_number(attributes.get(GENERATION_ATTRIBUTE, 0))
        yield Version(commit, generation, rows), _coverage(attributes)

    def attributes_of(self, root: Mapping[str, Any]) -> dict[str, Any]:
        return dict(root)

    def commit_of(self, document: bytes) -> int:
        return v2documents.commit_of_v2(document)

    def space(self, generation: int) -> int:
        return 1 + (generation - 1) % SPACES if generation else 0

    def folder(self, generation: int) -> str:
        return f"{self._HIDDEN}/{self.space(generation)}" if generation else ""

    def chunk_key(self, path: str, generation: int, index: tuple[int, ...]) -> str:
        return f"{path}/{'.'.join(map(str, index)) or '0'}"

    def place(self, key: str, paths: Container[str]) -> ChunkPlace | None:
        space, inside = 0, key
        if key.startswith(f"{self._HIDDEN}/"):
            number, _, inside = key.removeprefix(f"{self._HIDDEN}/").partition("/")
            if not number.isdecimal() or not 1 <= int(number) <= SPACES:
                return None
            space = int(number)
        path = _array_above(inside, paths)
        if path is None or not self._INDEX.fullmatch(inside.removeprefix(f"{path}/")):
            return None
        return ChunkPlace(path, space, tuple(map(int, inside.removeprefix(f"{path}/").split("."))))

    def overwritten_by(self, generation: int) -> int:
        return generation + SPACES - 1 if generation else 1

    def seal(self, chunk: bytes, attempt: UUID) -> bytes:
        return mark(chunk, attempt.bytes)


_FORMATS: Mapping[int, Format] = {3: Zarr3(), 2: Zarr2()}


def format_of(schema: Schema) -> Format:
    """The format in which a schema's collection lies."""
    return _FORMATS[schema.zarr_format]


def _coverage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name.startswith("time_coverage_")}


def _whole_number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _array_above(key: str, paths: Container[str]) -> str | None:
    """The one of ``paths`` whose folder holds a key; the longest, where one is a folder of another."""
    parts = key.split("/")
    folders = ("/".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((folder for folder in folders if folder in paths), None)
