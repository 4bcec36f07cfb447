"""Read a granule that is a Zarr hierarchy of format 2 or 3: a zip archive, or a directory of objects.

Objects are fetched first, then zarr decodes them out of memory; it never sees the store, nor an object that the
listing does not have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.assembly import assemble, choose
from zcollection_engine.granules.limits import Budget
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.selection import Selection
from zcollection_engine.granules.values import FoundVariable
from zcollection_engine.granules.zarrmetadata import ArrayNode, Hierarchy, check_codecs, read_hierarchy
from zcollection_engine.granules.zarrobjects import FolderObjects, Objects, ZipObjects, check_stored, reporting
from zcollection_engine.granules.zarrvalues import found_variable
from zcollection_engine.stores.base import ObjectStore

#: Chunks to be decoded above which a granule is taken for damaged or hostile; each costs time, even a missing one.
MAX_CHUNKS = 1 << 18


@dataclass(frozen=True, slots=True)
class _Entry:
    """An array that can be chosen, and the group that owns each dimension."""

    node: ArrayNode
    owners: Mapping[str, str]
    name: str

    @property
    def dimensions(self) -> tuple[str, ...]:
        rank = len(self.shape)
        found = self.node.dimensions if rank else ()
        if found is None or len(found) != rank:
            raise InvalidGranuleError(
                f"{self.name}: variable {self.node.path} with {rank} dimensions has the names {found}; write them as "
                "dimension_names (format 3) or the attribute _ARRAY_DIMENSIONS (format 2), or exclude the variable",
                reason="dimensions_missing",
                granule=self.name,
                variable=self.node.path,
            )
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        with reporting(f"the shape of variable {self.node.path}", name=self.name):
            return tuple(_size(item) for item in self.node.document["shape"])

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.node.attributes


@dataclass(frozen=True, slots=True)
class _Opened:
    """An array that zarr opened in memory.

    Attributes
    ----------
    objects
        What zarr reads from, by key: the metadata, and the chunks while they are decoded.
    stored
        Shape of what one object holds: a chunk, or a shard.
    """

    node: ArrayNode
    array: zarr.Array[Any]
    objects: dict[str, Buffer]
    stored: tuple[int, ...]

    @property
    def chunks(self) -> int:
        """How many chunks there are, those inside shards counted one by one."""
        return math.prod(_chunks_along(self.array.shape, self.array.chunks))

    def implied(self) -> list[str]:
        """Keys of all objects that the metadata imply."""
        places = itertools.product(*map(range, _chunks_along(self.array.shape, self.stored)))
        return [f"{self.node.key}/{self.array.metadata.encode_chunk_key(place)}" for place in places]


def read_zarr_archive(data: bytes, spec: GranuleSpec, *, name: str) -> Granule:
    """Read the selected variables of a granule that is a zip archive.

    Parameters
    ----------
    data
        The whole archive. The root of the hierarchy is its own, or one folder in it.
    spec, name
        As for `read_zarr_folder`.

    Raises
    ------
    InvalidGranuleError
        As for `read_zarr_folder`; and with the codes "empty_file", "truncated".
    EmptyGranuleError
        If the axis has no rows.
    """
    selection = Selection(spec)
    objects = ZipObjects(data, max_nbytes=spec.max_nbytes, name=name)
    return _read(objects, read_hierarchy(objects, name=name), selection, name)


def read_zarr_folder(store: ObjectStore, folder: str, spec: GranuleSpec, *, name: str) -> Granule:
    """Read the selected variables of a granule that is a folder of a store.

    Packed values stay as they are stored. The axis is decoded when it is a CF time; datetime64 become nanoseconds
    since 1970. The axis's dimension comes first in every variable that has it. Characters and strings become arrays of
    Python strings. A dimension belongs to the outermost group, on the way from the root to the variable, that has an
    array with it.

    Parameters
    ----------
    store
        Any store; it is listed once.
    folder
        Path of the root group in it with a trailing "/", or empty.
    spec
        What to take, and under which names. A chunk of a chosen variable that is missing is refused unless
        ``missing_chunks`` is "fill"; one of the axis, or of an array without fill value, always.
    name
        What errors call the granule: the URL of its marker.

    Raises
    ------
    InvalidInputError
        If the specification itself is wrong.
    InvalidGranuleError
        With a stable ``code``: "not_zarr", "incomplete", "unreadable", "unsafe_path", "unsupported_codec",
        "dimensions_missing", and those of `zcollection_engine.granules.netcdf.read_netcdf` but for the ones that
        concern its files.
    EmptyGranuleError
        If the axis has no rows; reason "unfinished" if the default marker is a ``zarr.json`` without consolidated
        metadata.
    StorageError
        If the environment fails, or an object is removed meanwhile.
    """
    selection = Selection(spec)
    objects = FolderObjects(store, folder, name=name)
    hierarchy = read_hierarchy(objects, name=name, consolidated_only=not spec.marker)
    return _read(objects, hierarchy, selection, name)


def _read(objects: Objects, hierarchy: Hierarchy, selection: Selection, name: str) -> Granule:
    spec = selection.spec
    entries = _entries(hierarchy, name)
    choice = choose(entries, selection, name=name)
    opened = {path: _open(entries[path].node, name) for path in choice.names.variables}
    budget = _afford(opened, spec, name)
    keys = {}
    for path, variable in opened.items():
        fills = spec.missing_chunks == "fill" and path != spec.axis and variable.array.fill_value is not None
        keys[path] = _present(variable, objects, fills=fills, name=name)
    stored = (objects.sizes[key] for chosen in keys.values() for key in chosen)
    check_stored(stored, max_nbytes=spec.max_nbytes, name=name)
    found = {}
    with closing(objects.read(itertools.chain.from_iterable(keys.values()))) as chunks:
        for path, variable in opened.items():
            found[path] = _decode(variable, keys[path], chunks, name)
            if found[path].values.dtype.kind == "O":
                budget.add_text(path, found[path].values.ravel().tolist())
    with reporting("what it says of its variables", name=name):
        return assemble(choice, found, hierarchy.attributes, spec, name=name)


def _entries(hierarchy: Hierarchy, name: str) -> dict[str, _Entry]:
    """Give each dimension its owner, which Zarr itself does not tell."""
    used: dict[str, set[str]] = {}
    for path, node in hierarchy.arrays.items():
        used.setdefault(path.rpartition("/")[0], set()).update(node.dimensions or ())
    entries = {}
    for path, node in hierarchy.arrays.items():
        owners: dict[str, str] = {}
        for group in _groups(path):
            for dimension in used.get(group, ()):
                owners.setdefault(dimension, group or "/")
        entries[path] = _Entry(node, owners, name)
    return entries


def _groups(path: str) -> Iterator[str]:
    """Iterate over the groups of a variable, the root ("") first."""
    parts = path.split("/")[:-1]
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def _size(item: Any) -> int:
    if type(item) is not int or item < 0:
        raise TypeError(f"{item!r} is not a size")
    return item


def _open(node: ArrayNode, name: str) -> _Opened:
    check_codecs(node, name=name)
    objects = {key: _buffer(data) for key, data in node.objects.items()}
    with reporting(f"the metadata of variable {node.path}", name=name):
        store = MemoryStore(objects, read_only=True)
        array: zarr.Array[Any] = zarr.open_array(store, path=node.key, mode="r", zarr_format=node.zarr_format)
        return _Opened(node, array, objects, array.shards or array.chunks)


def _chunks_along(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[int]:
    return [-(-size // length) if size else 0 for size, length in zip(shape, chunk, strict=True)]


def _afford(opened: Mapping[str, _Opened], spec: GranuleSpec, name: str) -> Budget:
    """Refuse what would take too much memory or too many steps, before any of it is read."""
    budget = Budget(spec.max_nbytes, name=name)
    total = 0
    for path, variable in opened.items():
        with reporting(f"the chunk grid of variable {path}", name=name):
            total += variable.chunks
        if total > MAX_CHUNKS:
            raise InvalidGranuleError(
                f"{name}: the variables up to {path} have {total} chunks, more than {MAX_CHUNKS}; exclude some or "
                "write larger chunks",
                reason="too_large",
                granule=name,
            )
        _reserve(budget, path, variable)
    budget.reserve_axis(spec.axis, opened[spec.axis].array.shape[0])
    return budget


def _reserve(budget: Budget, path: str, variable: _Opened) -> None:
    array = variable.array
    shape, itemsize = array.shape, array.dtype.itemsize
    if array.dtype.kind == "S":
        budget.reserve(path, (*shape, itemsize) if itemsize > 1 else shape, kind="characters")
    else:
        budget.reserve(path, shape, itemsize)
        if array.dtype.kind in "UTO":
            budget.reserve(path, shape, kind="strings")
    budget.reserve_chunk(path, variable.stored, itemsize)


def _present(variable: _Opened, objects: Objects, *, fills: bool, name: str) -> list[str]:
    """Return the keys of a variable's chunks, of which none may be missing unless fill values stand in for it."""
    implied = variable.implied()
    missing = [key for key in implied if key not in objects.sizes]
    if missing and not fills:
        raise InvalidGranuleError(
            f"{name}: variable {variable.node.path}: the chunk {missing[0]} is missing ({len(missing)} of "
            f"{len(implied)} are); the granule is incomplete: deliver it again, its marker last. If its writer leaves "
            "out chunks that hold nothing but the fill value, as zarr does unless write_empty_chunks=True, have it "
            'write them or set granule.missing_chunks to "fill"; chunks of the axis, and of arrays without fill value, '
            "must be there in any case",
            reason="incomplete",
            granule=name,
            variable=variable.node.path,
            chunk=missing[0],
        )
    absent = set(missing)
    return [key for key in implied if key not in absent]


def _decode(variable: _Opened, keys: list[str], chunks: Iterator[bytes], name: str) -> FoundVariable:
    node, array = variable.node, variable.array
    with reporting(f"variable {node.path}", name=name):
        for key, data in zip(keys, chunks, strict=False):
            _check_whole(node, key, data)
            variable.objects[key] = _buffer(data)
        found = found_variable(node, array[...], array.fill_value, name=name)
    variable.objects.clear()
    return found


def _check_whole(node: ArrayNode, key: str, data: bytes) -> None:
    """Refuse a cut chunk of Blosc, whose decoder believes its header and would read on in foreign memory.

    Source: "Blosc chunk format", bytes 12 to 15 of the header: ``cbytes``.
    """
    if node.outermost_codec != "blosc":
        return
    told = int.from_bytes(data[12:16], "little")
    if len(data) < 16 or len(data) < told:
        raise ValueError(f"the chunk {key} has {len(data)} bytes, its header tells of {max(told, 16)}")


def _buffer(data: bytes) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(data)
