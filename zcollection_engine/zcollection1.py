"""The ``.zcollection`` file of released zcollection (0.1 to 2026.6.0), both ways.

Source: the files that zcollection 2024.2.0 and 2026.6.0 write; those of 0.1 lack ``chunks`` and ``block_size_limit``,
those of its unreleased successor of 2025 have ``version`` and tell each dimension as [name, size, chunks]. What is
written here is the form of 2026.6.0; its readers ignore the one member more, ``zcollectiond``.

Three things have no counterpart there. A grouped sequence is written as the plain sequence it looks like on disk, with
the rule in our member. The codecs of other writers are kept as they are (`ArrayLayout`), also unknown ones. A time is
an int64 with units here: ``<M8[us]`` becomes "microseconds since 1970-01-01", and back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zcollection_engine.chunking import DEFAULT_CHUNK_ROWS, row_chunks, value_nbytes, whole_chunks
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.jsonvalues import decode_fill_value, encode_fill_value, json_value
from zcollection_engine.layout.v2documents import (
    CONFIG_MEMBER,
    NOT_A_TIME,
    TIME_CODES,
    ArrayLayout,
    check_v2,
    layout_of,
)
from zcollection_engine.schema import TEXT, TIME_CALENDAR, Dimension, Scalar, Schema, Variable

CONFIG_KEY = ".zcollection"

#: Group of the variables without the partitioned dimension.
IMMUTABLE = ".immutable"

FORMAT_VERSION = 1

#: zcollection's default, bytes; it limits chunks that dask chooses, which we never ask for.
_BLOCK_SIZE_LIMIT = 134_217_728

_GROUPED = "grouped-sequence"
_UNITS = {code: units for units, code in TIME_CODES.items()}


@dataclass(frozen=True, slots=True)
class Translation:
    """A ``.zcollection`` in our terms.

    Attributes
    ----------
    schema
        Times as int64 with units, little-endian dtypes. Chunks of rows as the file says, else as `chunking` has it.
    partitioning
        As in ``_zcollection.json``: "name" and its parameters.
    layouts
        By variable, what the file says of dtype, codecs and fill value; ``chunks`` is empty where it leaves the rows of
        a chunk open, and zcollection made each partition one chunk. Partitions may differ.
    warnings
        What was understood otherwise than written, or passed over.
    """

    schema: Schema
    partitioning: Mapping[str, Any]
    layouts: Mapping[str, ArrayLayout]
    warnings: tuple[str, ...]


def dump_zcollection(document: Mapping[str, Any]) -> bytes:
    """Serialise as zcollection does: ASCII, indented by 4; strict JSON besides."""
    return json.dumps(document, indent=4, allow_nan=False).encode()


def parse_zcollection(data: bytes, *, name: str = CONFIG_KEY) -> dict[str, Any]:
    """Parse the file; raises `FormatError`, which names it. NaN is accepted, since zcollection writes it."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{name} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{name} is damaged: it holds no table")
    return document


def to_zcollection(
    schema: Schema,
    partitioning: Mapping[str, Any],
    *,
    commit: int | None = None,
    layouts: Mapping[str, ArrayLayout] | None = None,
) -> dict[str, Any]:
    """Return the ``.zcollection`` of a collection.

    Parameters
    ----------
    schema
        Flat, see `check_v2`.
    partitioning
        As in ``_zcollection.json``.
    commit
        Number of the commit that brought this configuration.
    layouts
        By variable, those that an imported tree's own file had; codecs and dtypes are then taken from there.

    Raises
    ------
    InvalidInputError
        If released zcollection could not read the collection.
    """
    check_v2(schema)
    told = _partitioning_to_v1(partitioning)
    ours: dict[str, Any] = {} if commit is None else {"commit": commit}
    if partitioning["name"] == _GROUPED:
        ours["partitioning"] = {key: partitioning[key] for key in ("name", "variables", "size", "start")}
    document = {
        "axis": schema.axis,
        "dataset": {
            "attrs": _pairs(schema.attributes),
            "dimensions": [d.name for d in schema.dimensions],
            "variables": [_variable_to_v1(v, (layouts or {}).get(v.path)) for v in schema.variables],
            "chunks": _chunks_to_v1(schema),
            "block_size_limit": _BLOCK_SIZE_LIMIT,
        },
        "partitioning": told,
    }
    return {**document, CONFIG_MEMBER: {"format_version": FORMAT_VERSION, **ours}} if ours else document


def _partitioning_to_v1(partitioning: Mapping[str, Any]) -> dict[str, Any]:
    match partitioning["name"]:
        case "date":
            return {"id": "Date", "variables": [partitioning["variable"]], "resolution": partitioning["resolution"]}
        case "sequence" | "grouped-sequence":
            return {"id": "Sequence", "variables": list(partitioning["variables"])}
        case name:
            raise InvalidInputError(f"partitioning {name!r} has no counterpart in released zcollection; use Zarr v3")


def _pairs(attributes: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, json_value(attributes[name])] for name in sorted(attributes)]


def _variable_to_v1(variable: Variable, known: ArrayLayout | None) -> dict[str, Any]:
    layout = known or layout_of(variable)
    hidden = {"units", "calendar"} if layout.is_time else set()
    return {
        "attrs": _pairs({name: value for name, value in variable.attributes.items() if name not in hidden}),
        "compressor": layout.compressor,
        "dimensions": list(variable.dimensions),
        "dtype": layout.dtype,
        "fill_value": encode_fill_value(variable.fill_value),
        "filters": list(layout.filters),
        "name": variable.path,
    }


def _chunks_to_v1(schema: Schema) -> list[list[Any]]:
    """One length a dimension, as zcollection has it; none for a dimension that every chunk covers."""
    chunks: list[list[Any]] = [[schema.dimension, schema[schema.axis].chunks[0]]]
    for dimension in schema.dimensions:
        used = [
            v.chunks[v.dimensions.index(dimension.name)] for v in schema.variables if dimension.name in v.dimensions
        ]
        if dimension.name != schema.dimension and used and max(used) < (dimension.size or 0):
            chunks.append([dimension.name, max(used)])
    return chunks


def from_zcollection(
    document: Mapping[str, Any], sizes: Mapping[str, int] | None = None, *, name: str = CONFIG_KEY
) -> Translation:
    """Understand a ``.zcollection``.

    Parameters
    ----------
    document
        As parsed.
    sizes
        Sizes of the dimensions besides the partitioned one: released zcollection tells them in the partitions only.
    name
        What messages call the file.

    Raises
    ------
    FormatError
        If a member is missing, or for what the engine has no counterpart for: a dtype of fixed-width text, a structured
        one, a duration, a time counted in months or with a fill value other than NaT. All such variables are named.
    """
    try:
        return _Reader(document, dict(sizes or {})).translation()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, InvalidInputError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{name}: {what}") from error
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from error


def depth_of(document: Mapping[str, Any]) -> int:
    """Number of folders, one in the other, that make a partition's path; raises `FormatError`."""
    try:
        partitioning = _partitioning_from_v1(document)
        if partitioning["name"] == "date":
            return 1 + "YMDhms".index(partitioning["resolution"])
        return len(partitioning["variables"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{CONFIG_KEY}: its partitioning is damaged: {error!r}") from error


class _Reader:
    def __init__(self, document: Mapping[str, Any], sizes: dict[str, int]) -> None:
        self._document = document
        self._dataset = document["dataset"]
        self._sizes = sizes
        self._warnings: list[str] = []

    def translation(self) -> Translation:
        members: dict[str, Mapping[str, Any]] = {m["name"]: m for m in self._dataset["variables"]}
        axis = self._document["axis"]
        if axis not in members:
            raise FormatError(f"there is no variable for the axis {axis!r}")
        dimension = members[axis]["dimensions"][0]
        names, chunks = self._dimensions(dimension)
        layouts: dict[str, ArrayLayout] = {}
        variables: list[Variable] = []
        refused: list[str] = []
        for path, member in members.items():
            try:
                variable = self._variable(member, dimension, chunks)
            except FormatError as error:
                refused.append(f"variable {path!r} {error}")
                continue
            variables.append(variable)
            is_open = dimension in variable.dimensions and dimension not in chunks
            layouts[path] = _layout(member, () if is_open else variable.chunks)
        if refused:
            raise FormatError("; ".join(refused))
        dimensions = tuple(Dimension(n, None if n == dimension else self._size(n)) for n in names)
        schema = Schema(
            axis, dimension, dimensions, tuple(variables), self._attributes(self._dataset["attrs"], "dataset")
        )
        return Translation(schema, _partitioning_from_v1(self._document), layouts, tuple(self._warnings))

    def _dimensions(self, partitioned: str) -> tuple[list[str], dict[str, int]]:
        """Names, and lengths of chunks as far as told."""
        names: list[str] = []
        told: list[Sequence[Any]] = list(self._dataset.get("chunks", ()))
        for item in self._dataset["dimensions"]:
            name, size, chunk = (item, None, None) if isinstance(item, str) else (*item, None, None)[:3]
            names.append(name)
            if size is not None and size >= 0 and name != partitioned:
                self._sizes.setdefault(name, size)
            if chunk is not None:
                told.append((name, chunk))
        chunks: dict[str, int] = {}
        for name, length in told:
            if isinstance(length, int) and length > 0:
                chunks[name] = length
            elif length != -1:
                self._warnings.append(f"chunks of dimension {name!r}: {length!r} is left to us")
        return names, chunks

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            raise FormatError(f"the size of dimension {name!r} is neither here nor in a partition")
        return self._sizes[name]

    def _variable(self, member: Mapping[str, Any], dimension: str, chunks: Mapping[str, int]) -> Variable:
        path, dimensions = member["name"], tuple(member["dimensions"])
        if dimension in dimensions[1:]:
            raise FormatError(f"has the partitioned dimension {dimension!r} not as its first: {dimensions}")
        attributes = self._attributes(member["attrs"], f"variable {path!r}")
        dtype, units = _dtype(member)
        if units is not None:
            if not attributes.keys().isdisjoint({"units", "calendar"}):
                self._warnings.append(f"variable {path!r}: its units and calendar are those of its dtype")
            attributes |= {"units": units, "calendar": TIME_CALENDAR}
        fill_value = _fill_value(member["fill_value"], dtype, is_time=units is not None)
        nbytes = value_nbytes(dtype, 0 if dtype == TEXT else np.dtype(dtype).itemsize)
        inner = [min(chunks.get(n, self._size(n)), max(1, self._size(n))) for n in dimensions if n != dimension]
        shape = whole_chunks(inner, nbytes)
        if dimension in dimensions:
            rows = chunks.get(dimension)
            shape = row_chunks(DEFAULT_CHUNK_ROWS, inner, nbytes) if rows is None else (rows, *inner)
        return Variable(path, dtype, dimensions, shape, fill_value, attributes)

    def _attributes(self, pairs: Sequence[Sequence[Any]], owner: str) -> dict[str, Any]:
        attributes = {str(name): json_value(value) for name, value in pairs}
        for name in ("_FillValue", "_ARRAY_DIMENSIONS"):
            if attributes.pop(name, None) is not None:
                self._warnings.append(f"{owner}: attribute {name!r} is passed over, the file tells it elsewhere")
        return attributes


def _partitioning_from_v1(document: Mapping[str, Any]) -> dict[str, Any]:
    told = document["partitioning"]
    ours = document.get(CONFIG_MEMBER, {})
    match told["id"]:
        case "Date":
            (variable,) = told["variables"]
            return {"name": "date", "variable": variable, "resolution": told["resolution"]}
        case "Sequence" if "partitioning" in ours:
            return dict(ours["partitioning"])
        case "Sequence":
            return {"name": "sequence", "variables": list(told["variables"])}
        case "GroupedSequence":
            start = told.get("start", 0)
            return {"name": _GROUPED, "variables": list(told["variables"]), "size": told["size"], "start": start}
        case other:
            raise FormatError(f"partitioning {other!r} is not known: it was registered by a user of zcollection")


def _dtype(member: Mapping[str, Any]) -> tuple[str, str | None]:
    """Our dtype, and the units if it is a time."""
    spelt = member["dtype"]
    if not isinstance(spelt, str):
        raise FormatError(f"has the structured dtype {spelt}, which is not supported: split it into several variables")
    dtype = np.dtype(spelt)
    if dtype.kind == "M":
        code = np.datetime_data(dtype)
        if code[0] not in _UNITS or code[1] != 1:
            raise FormatError(f"has dtype {spelt}, which is not supported: convert its times to <M8[ns]")
        return "<i8", _UNITS[code[0]]
    if dtype.kind in "biuf":
        return dtype.newbyteorder("<").str, None
    if dtype.kind == "O" and any(f and f["id"] == "vlen-utf8" for f in member["filters"]):
        return TEXT, None
    raise FormatError(f"has dtype {spelt}, which is not supported: convert it to numbers, or to text with vlen-utf8")


def _fill_value(value: Any, dtype: str, *, is_time: bool) -> Scalar | None:
    if is_time and value not in {None, NOT_A_TIME}:
        raise FormatError(f"is a time with the fill value {value!r}, which is not supported: use NaT")
    try:
        return decode_fill_value(value, dtype)
    except InvalidInputError as error:
        raise FormatError(str(error)) from error


def _layout(member: Mapping[str, Any], chunks: tuple[int, ...]) -> ArrayLayout:
    filters = tuple(f for f in member["filters"] if f is not None)
    return ArrayLayout(member["dtype"], chunks, member["compressor"], filters, member["fill_value"])
