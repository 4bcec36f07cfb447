"""Zarr v2 metadata documents, for readers that do not know Zarr v3: a pure function of schema and number of rows.

Sources: Zarr v2 specification; the attribute ``_ARRAY_DIMENSIONS`` of xarray's "Zarr Encoding Specification";
``.zmetadata`` as zarr-python writes it. It flips a partition: readers that use consolidated metadata take everything
from it. The number of the commit is the attribute ``zcollection_commit`` of groups, a member ``zcollection`` of each
``.zarray``, and an attribute of an array's own ``.zattrs``, which ``.zmetadata`` leaves out. ``.zgroup`` never changes
and has none.

Chunk keys have one spelling, "i.j"; generations do not change it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zcollection_engine.codecs import check_codecs, v2_codecs
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.jsonvalues import encode_fill_value
from zcollection_engine.layout.documents import COMMIT_ATTRIBUTE, EXTENSION, Version, dump
from zcollection_engine.schema import TEXT, TIME_CALENDAR, Schema, Variable

GROUP = ".zgroup"
ATTRIBUTES = ".zattrs"
ARRAY = ".zarray"
DOCUMENT = ".zmetadata"
DIMENSIONS = "_ARRAY_DIMENSIONS"

#: The member of ``.zcollection`` that is ours.
CONFIG_MEMBER = "zcollectiond"

NOT_A_TIME = int(np.iinfo(np.int64).min)

#: numpy's units of a time, by the CF units that count the same.
TIME_CODES = {
    f"{name} since 1970-01-01": code
    for name, code in {
        "nanoseconds": "ns",
        "microseconds": "us",
        "milliseconds": "ms",
        "seconds": "s",
        "minutes": "m",
        "hours": "h",
        "days": "D",
    }.items()
}
_CALENDARS = frozenset({TIME_CALENDAR, "standard", "gregorian", None})
_TIME_ATTRIBUTES = frozenset({"units", "calendar"})


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """How the values of an array lie on disk: all of ``.zarray`` but its shape.

    Attributes
    ----------
    dtype
        numpy dtype string as Zarr v2 spells it ("<M8[ns]", "|O").
    chunks
        Chunk shape.
    compressor
        numcodecs configuration, whatever codec it names; None for none.
    filters
        numcodecs configurations, in the order in which they encode.
    fill_value
        JSON, as Zarr v2 spells it; None means that the content of absent chunks is undefined.
    order
        "C" or "F".
    separator
        Between the numbers of a chunk key.
    """

    dtype: str
    chunks: tuple[int, ...]
    compressor: Mapping[str, Any] | None = None
    filters: tuple[Mapping[str, Any], ...] = ()
    fill_value: Any = None
    order: str = "C"
    separator: str = "."

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ArrayLayout:
        """Read a ``.zarray``; raises `FormatError` when it is none, or has fields (a structured dtype)."""
        try:
            dtype, chunks = document["dtype"], document["chunks"]
            if document["zarr_format"] != 2 or not isinstance(dtype, str):
                raise FormatError(f"zarr_format {document['zarr_format']} with dtype {dtype} is not supported")
            return cls(
                dtype,
                tuple(int(n) for n in chunks),
                document["compressor"],
                tuple(document["filters"] or ()),
                document["fill_value"],
                document.get("order", "C"),
                document.get("dimension_separator", "."),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"no array metadata of Zarr v2: {error!r}") from error

    def document(self, shape: Sequence[int]) -> dict[str, Any]:
        """The ``.zarray`` of an array of this layout."""
        separator = {} if self.separator == "." else {"dimension_separator": self.separator}
        return {
            "chunks": list(self.chunks),
            "compressor": self.compressor,
            "dtype": self.dtype,
            "fill_value": self.fill_value,
            "filters": list(self.filters) or None,
            "order": self.order,
            "shape": list(shape),
            "zarr_format": 2,
            **separator,
        }

    @property
    def is_time(self) -> bool:
        return self.dtype[1:].startswith("M8[")


def check_v2(schema: Schema) -> None:
    """Check that a schema can be stored as Zarr v2 so that released zcollection and xarray read it.

    Raises
    ------
    InvalidInputError
        Naming the variable, for nested groups, a hidden name, a chunk without rows, a codec that Zarr v2 does not have,
        or an axis of times that cannot be stored as ``datetime64``.
    """
    for variable in schema.variables:
        _check_variable(variable)
    axis = schema[schema.axis]
    if axis.attributes.get("units") in TIME_CODES and time_code(axis) is None:
        raise InvalidInputError(
            f"variable {axis.path!r}: zcollection needs times as datetime64 in Zarr v2; the axis must be int64 in the "
            "standard calendar, not packed, and without a fill value other than NaT"
        )
    check_codecs(replace(schema, zarr_format=2))


def _check_variable(variable: Variable) -> None:
    if "/" in variable.path:
        raise InvalidInputError(
            f"variable {variable.path!r}: released zcollection reads no nested groups; give it a name without '/', or "
            "use zarr_format = 3"
        )
    if variable.path.startswith("."):
        raise InvalidInputError(f"variable {variable.path!r}: in Zarr v2 a name must not start with '.'; rename it")
    if 0 in variable.chunks:
        raise InvalidInputError(f"variable {variable.path!r}: chunks {variable.chunks} hold nothing; use at least 1")


def time_code(variable: Variable) -> str | None:
    """numpy's unit of a time that is stored as ``datetime64``; None for every other variable.

    Such a variable is int64, counts a fixed unit from 1970-01-01 in the standard calendar, is not packed, and has
    either no fill value or NaT: then its bytes are those of ``datetime64``.
    """
    attributes = variable.attributes
    plain = variable.dtype == "<i8" and variable.fill_value in {None, NOT_A_TIME}
    packed = not attributes.keys().isdisjoint({"scale_factor", "add_offset"})
    if not plain or packed or attributes.get("calendar") not in _CALENDARS:
        return None
    units = attributes.get("units")
    return TIME_CODES.get(units) if isinstance(units, str) else None


def layout_of(variable: Variable, *, published: bool = True) -> ArrayLayout:
    """The layout that a variable gets in Zarr v2.

    Parameters
    ----------
    variable
        The variable.
    published
        As readers see it. If not, as the engine reads and writes chunks: times as int64, and zstd told to
        add a checksum, which TensorStore (0.1.86) refuses to see named although it reads and checks it.
    """
    filters, compressor = v2_codecs(variable, checksum=not published)
    code = time_code(variable) if published else None
    dtype = "|O" if variable.dtype == TEXT else f"<M8[{code}]" if code else variable.numpy_dtype.str
    # xarray takes a fill value of Zarr v2 for a declared one and masks it, so there is one only where one is declared.
    fill = None if variable.is_text else encode_fill_value(variable.fill_value)
    return ArrayLayout(dtype, variable.chunks, compressor, tuple(filters or ()), fill)


def render_v2(
    schema: Schema,
    version: Version,
    attributes: Mapping[str, Any] | None = None,
    *,
    immutable: bool = False,
    published: bool = True,
    layouts: Mapping[str, ArrayLayout] | None = None,
) -> dict[str, bytes]:
    """Render all documents of a partition, keyed by their path in it; ``.zmetadata`` is the one that flips it.

    Parameters
    ----------
    schema
        The collection's schema; `check_v2` has passed it.
    version
        Commit and rows; the generation is of no consequence here.
    attributes
        Attributes of the partition's group besides the schema's own.
    immutable
        Render the group of the variables without the partitioned dimension instead.
    published
        As readers see it; if not, as the engine reads and writes chunks (`layout_of`).
    layouts
        By variable, where chunks were written by someone else.
    """
    variables = schema.immutable_variables if immutable else schema.row_variables
    metadata: dict[str, Any] = {
        ATTRIBUTES: {**schema.attributes, **(attributes or {}), COMMIT_ATTRIBUTE: version.commit},
        GROUP: {"zarr_format": 2},
    }
    for variable in variables:
        layout = (layouts or {}).get(variable.path) or layout_of(variable, published=published)
        if not published and layout.is_time:
            layout = replace(layout, dtype=f"{layout.dtype[0]}i8")
        array = array_document_v2(schema, variable, version, layout)
        metadata[f"{variable.path}/{ARRAY}"] = array
        metadata[f"{variable.path}/{ATTRIBUTES}"] = _array_attributes(variable, layout)
    documents = {path: dump(document) for path, document in metadata.items()}
    for variable in variables:
        own = {**metadata[f"{variable.path}/{ATTRIBUTES}"], COMMIT_ATTRIBUTE: version.commit}
        documents[f"{variable.path}/{ATTRIBUTES}"] = dump(own)
    ordered = {path: metadata[path] for path in sorted(metadata)}
    documents[DOCUMENT] = dump({"metadata": ordered, "zarr_consolidated_format": 1})
    return documents


def array_document_v2(schema: Schema, variable: Variable, version: Version, layout: ArrayLayout) -> dict[str, Any]:
    """Metadata of one array."""
    shape = [version.rows if d == schema.dimension else schema.sizes[d] or 0 for d in variable.dimensions]
    return {**layout.document(shape), EXTENSION: {"commit": version.commit}}


def commit_of_v2(document: bytes) -> int:
    """Number of the commit that a document was rendered for; -1 if it carries none, or is damaged.

    ``.zcollection`` is one of the documents. ``.zgroup`` carries none: it is the same in every version.
    """
    try:
        data = json.loads(document)
        if COMMIT_ATTRIBUTE in data:
            return int(data[COMMIT_ATTRIBUTE])
        if "zarr_consolidated_format" in data:
            return int(data["metadata"][ATTRIBUTES][COMMIT_ATTRIBUTE])
        if "zarr_format" in data:
            return int(data[EXTENSION]["commit"])
        return int(data[CONFIG_MEMBER]["commit"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1


def _array_attributes(variable: Variable, layout: ArrayLayout) -> dict[str, Any]:
    hidden = _TIME_ATTRIBUTES if layout.is_time else frozenset()
    kept = {name: value for name, value in variable.attributes.items() if name not in hidden}
    return {**kept, DIMENSIONS: list(variable.dimensions)}
