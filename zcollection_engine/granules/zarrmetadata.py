"""The metadata of a Zarr hierarchy: which arrays it has, and what is said of each.

Sources: "Zarr core specification (version 3)", "Zarr storage specification version 2"; the attribute
``_ARRAY_DIMENSIONS`` and the base64 form of fill values are conventions of xarray ("Zarr Encoding Specification").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError
from zcollection_engine.granules.zarrobjects import Objects, reporting
from zcollection_engine.stores.keys import is_key

#: Bytes of metadata documents above which a granule is taken for hostile.
MAX_METADATA_NBYTES = 1 << 24

#: Attribute that names the dimensions of an array of format 2.
DIMENSIONS = "_ARRAY_DIMENSIONS"

#: Codecs that a granule may name, in the spelling of either format. Others can run code out of the data ("pickle"), or
#: come from whatever package happens to be installed.
_CODECS = frozenset(
    {"adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset"}
    | {"fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "quantize", "shuffle", "transpose"}
    | {"vlen-utf8", "zlib", "zstd"}
)
_SHARDING = "sharding_indexed"

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ArrayNode:
    """One array as its metadata describe it.

    Attributes
    ----------
    path
        Absolute, "/data_01/time".
    zarr_format
        Of this array.
    document
        ``.zarray``, or ``zarr.json`` of an array.
    attributes
        As written, without `DIMENSIONS`.
    dimensions
        Names; None where they are not told.
    """

    path: str
    zarr_format: Literal[2, 3]
    document: Document
    attributes: Document
    dimensions: tuple[str, ...] | None

    @property
    def key(self) -> str:
        """Path relative to the root."""
        return self.path[1:]

    @property
    def outermost_codec(self) -> str | None:
        """Name of the codec that wrote the bytes of an object; call `check_codecs` first."""
        if self.zarr_format == 3:
            return _label(self.document["codecs"][-1])
        names = list(_codecs_2(self.document))
        return names[-1] if names else None

    @property
    def objects(self) -> dict[str, bytes]:
        """Metadata objects from which zarr opens the array, by key relative to the root."""
        name = "zarr.json" if self.zarr_format == 3 else ".zarray"
        return {f"{self.key}/{name}": json.dumps(self.document).encode()}


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """All arrays by absolute path, and the attributes of the root."""

    arrays: Mapping[str, ArrayNode]
    attributes: Document


def read_hierarchy(objects: Objects, *, name: str, consolidated_only: bool = False) -> Hierarchy:
    """Read the metadata of a hierarchy: the consolidated ones where it has them, else the document of each node.

    Parameters
    ----------
    objects
        All objects below its root.
    name
        What errors call the granule.
    consolidated_only
        Whether a root ``zarr.json`` counts only with consolidated metadata, which are written when all else is.

    Raises
    ------
    InvalidGranuleError
        Reasons "not_zarr", "unsafe_path", "too_large", "unreadable".
    EmptyGranuleError
        Reason "unfinished", for what ``consolidated_only`` excludes.
    """
    documents = _Documents(objects, name)
    if "zarr.json" in objects.sizes:
        found = _version_3(documents, consolidated_only=consolidated_only)
    elif ".zgroup" in objects.sizes or ".zmetadata" in objects.sizes:
        found = _version_2(documents)
    else:
        raise _not_zarr(name, "there is no zarr.json, .zgroup or .zmetadata")
    for path in found.arrays:
        if not is_key(path[1:]):
            raise InvalidGranuleError(
                f"{name}: the metadata name an array {path!r}, whose path leads outside the store or cannot be stored",
                reason="unsafe_path",
                granule=name,
            )
    return found


def check_codecs(node: ArrayNode, *, name: str) -> None:
    """Refuse an array with codecs that are not known to be harmless.

    Raises
    ------
    InvalidGranuleError
        Reason "unsupported_codec".
    """
    with reporting(f"the list of codecs of variable {node.path}", name=name):
        found = set(_codecs_3(node.document["codecs"]) if node.zarr_format == 3 else _codecs_2(node.document))
    if unknown := sorted(found - _CODECS):
        raise InvalidGranuleError(
            f"{name}: variable {node.path} is encoded with {', '.join(map(repr, unknown))}; such codecs are not read, "
            f"those that are: {', '.join(sorted(_CODECS))}, and one level of {_SHARDING}; exclude the variable or "
            "write it with others",
            reason="unsupported_codec",
            granule=name,
        )


def _codecs_2(document: Document) -> Iterator[str]:
    """Iterate over the codecs in the order in which a writer applies them."""
    for codec in (*(document.get("filters") or ()), document.get("compressor")):
        if codec is not None:
            yield str(codec["id"])


def _codecs_3(codecs: Iterable[Any], *, inside: bool = False) -> Iterator[str]:
    for codec in codecs:
        if _label(codec) == _SHARDING and not inside:
            configuration = codec["configuration"]
            yield from _codecs_3(configuration["codecs"], inside=True)
            yield from _codecs_3(configuration.get("index_codecs", ()), inside=True)
        else:
            yield _label(codec)


def _label(codec: Any) -> str:
    name = codec if isinstance(codec, str) else str(codec["name"])
    return name.removeprefix("numcodecs.")


class _Documents:
    """JSON objects of a store, read within `MAX_METADATA_NBYTES`."""

    def __init__(self, objects: Objects, name: str) -> None:
        self.objects = objects
        self.name = name

    def ending(self, *names: str) -> list[str]:
        """Keys of all objects below the root's own with one of these names."""
        return [key for key in self.objects.sizes if key.rpartition("/")[2] in names and "/" in key]

    def read(self, keys: Iterable[str]) -> dict[str, Document]:
        wanted = [key for key in keys if key in self.objects.sizes]
        total = sum(self.objects.sizes[key] for key in wanted)
        if total > MAX_METADATA_NBYTES:
            raise InvalidGranuleError(
                f"{self.name}: its metadata take {total} bytes, more than {MAX_METADATA_NBYTES}",
                reason="too_large",
                granule=self.name,
            )
        with closing(self.objects.read(wanted)) as found:
            return {key: self._parse(key, data) for key, data in zip(wanted, found, strict=True)}

    def one(self, key: str) -> Document:
        """Return a document; an empty one where there is none."""
        return self.read([key]).get(key, {})

    def _parse(self, key: str, data: bytes) -> Document:
        with reporting(f"the metadata {key!r}", name=self.name):
            return _mapping(json.loads(data))


def _version_3(documents: _Documents, *, consolidated_only: bool) -> Hierarchy:
    root = documents.one("zarr.json")
    if root.get("node_type") != "group" or root.get("zarr_format") != 3:
        raise _not_zarr(documents.name, "its zarr.json is not that of a group of format 3")
    consolidated = root.get("consolidated_metadata")
    if consolidated is None and consolidated_only:
        raise EmptyGranuleError(
            f"{documents.name}: the root has no consolidated metadata, so it does not tell that the store is complete; "
            "it is passed over until they are written. If they never are, set granule.marker to the name of an object "
            "that is written last",
            reason="unfinished",
            granule=documents.name,
        )
    if consolidated is None:
        found = documents.read(documents.ending("zarr.json"))
        nodes = {key.removesuffix("/zarr.json"): document for key, document in found.items()}
    else:
        with reporting("the consolidated metadata", name=documents.name):
            nodes = {key: _mapping(document) for key, document in _mapping(consolidated["metadata"]).items()}
    with reporting("the metadata", name=documents.name):
        arrays = (_array_3(key, node) for key, node in nodes.items() if node.get("node_type") == "array")
        return _hierarchy(arrays, root.get("attributes"))


def _array_3(key: str, document: Document) -> ArrayNode:
    attributes = dict(_mapping(document.get("attributes") or {}))
    attributes.pop(DIMENSIONS, None)
    return ArrayNode(f"/{key}", 3, document, attributes, _names(document.get("dimension_names")))


def _version_2(documents: _Documents) -> Hierarchy:
    if ".zmetadata" in documents.objects.sizes:
        consolidated = documents.one(".zmetadata")
        with reporting("the consolidated metadata", name=documents.name):
            found = {key: _mapping(document) for key, document in _mapping(consolidated["metadata"]).items()}
    else:
        found = documents.read([".zattrs", *documents.ending(".zarray", ".zattrs")])
    keys = [key.removesuffix("/.zarray") for key in found if key.endswith("/.zarray")]
    with reporting("the metadata", name=documents.name):
        arrays = (_array_2(key, found[f"{key}/.zarray"], found.get(f"{key}/.zattrs", {})) for key in keys)
        return _hierarchy(arrays, found.get(".zattrs"))


def _array_2(key: str, document: Document, attributes: Document) -> ArrayNode:
    rest = dict(attributes)
    return ArrayNode(f"/{key}", 2, document, rest, _names(rest.pop(DIMENSIONS, None)))


def _hierarchy(arrays: Iterable[ArrayNode], attributes: Any) -> Hierarchy:
    return Hierarchy({node.path: node for node in arrays}, _mapping(attributes or {}))


def _names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a JSON object is expected, not {str(value)[:40]!r}")
    return value


def _not_zarr(name: str, what: str) -> InvalidGranuleError:
    return InvalidGranuleError(
        f"{name}: not the root of a Zarr hierarchy: {what}; correct granule.marker and 'match', or deliver a store "
        "whose root is a group",
        reason="not_zarr",
        granule=name,
    )
