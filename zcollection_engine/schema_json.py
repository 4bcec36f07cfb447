"""A schema as JSON: the ``schema`` member of ``_zcollection.json``, and the file in which a user writes one.

The layout is that of zcollection's own ``_zcollection.json`` (its format version 1) as far as that goes: a
tree of groups with dimensions, variables and attributes. For an exact round trip there is more, which
zcollection ignores: ``axis`` (path of the axis variable), ``dimension`` (the partitioned one), and for each
variable its ``chunks``. A variable without ``codecs`` has those of the time before there was a choice.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from zcollection_engine.chunking import (
    DEFAULT_CHUNK_ROWS,
    provenance_variable,
    row_chunks,
    value_nbytes,
    whole_chunks,
)
from zcollection_engine.codecs import DEFAULT_PROFILE, Choice, codecs_to_json, parse_codecs, with_codecs
from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.jsonvalues import decode_fill_value, encode_fill_value, json_attributes
from zcollection_engine.schema import (
    PROVENANCE,
    TEXT,
    TIME_CALENDAR,
    TIME_UNITS,
    Dimension,
    Scalar,
    Schema,
    Variable,
)

SCHEMA_FORMAT_VERSION = 1

#: dtype of text in the document: numpy's code of its variable-width strings, since zcollection gives it to
#: numpy.
_TEXT_CODE = "T"
_TEXT_NAMES = frozenset({_TEXT_CODE, TEXT, "str"})
_TIME_NAMES = frozenset({"datetime64[ns]", "<M8[ns]"})

_GROUP_KEYS = frozenset({"name", "dimensions", "variables", "groups", "attrs"})
_ROOT_KEYS = _GROUP_KEYS | {"axis", "dimension", "format_version", "provenance", "codecs", "zarr_format"}
_DIMENSION_KEYS = frozenset({"name", "size", "chunks", "shards"})
_VARIABLE_KEYS = frozenset(
    {"name", "dtype", "dimensions", "chunks", "fill_value", "attrs", "codecs", "role", "immutable"}
)

T = TypeVar("T")


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Return a schema as strict JSON (no NaN, no infinity); `schema_from_json` gives back an equal one."""
    root: dict[str, Any] = {"name": "/", "variables": [], "groups": []}
    for variable in schema.variables:
        _group(root, variable.group)["variables"].append(_variable_to_json(variable, schema))
    return {
        "name": "/",
        "axis": schema.axis,
        "dimension": schema.dimension,
        "dimensions": [
            {"name": d.name, "size": d.size, "chunks": _dimension_chunk(d, schema), "shards": None}
            for d in schema.dimensions
        ],
        "variables": root["variables"],
        "groups": root["groups"],
        "attrs": json_attributes(schema.attributes),
        "format_version": SCHEMA_FORMAT_VERSION,
        **({} if schema.zarr_format == 3 else {"zarr_format": schema.zarr_format}),
    }


def _group(root: dict[str, Any], path: str) -> dict[str, Any]:
    group = root
    for part in path.split("/") if path else ():
        children: list[dict[str, Any]] = group["groups"]
        known = next((child for child in children if child["name"] == part), None)
        if known is None:
            known = {"name": part, "dimensions": [], "variables": [], "groups": [], "attrs": {}}
            children.append(known)
        group = known
    return group


def _variable_to_json(variable: Variable, schema: Schema) -> dict[str, Any]:
    codecs = {} if variable.codecs is None else {"codecs": codecs_to_json(variable.codecs, variable)}
    return {
        "name": variable.name,
        "dtype": _TEXT_CODE if variable.is_text else variable.dtype,
        "dimensions": list(variable.dimensions),
        "chunks": list(variable.chunks),
        "fill_value": encode_fill_value(variable.fill_value),
        "attrs": json_attributes(variable.attributes),
        "role": "user",
        "immutable": schema.dimension not in variable.dimensions,
        **codecs,
    }


def _dimension_chunk(dimension: Dimension, schema: Schema) -> int:
    """One chunk length a dimension, as zcollection has it: the axis's rows, or the largest of any variable."""
    if dimension.name == schema.dimension:
        return schema[schema.axis].chunks[0]
    used = (v.chunks[v.dimensions.index(dimension.name)] for v in schema.variables if dimension.name in v.dimensions)
    return max(used, default=max(1, dimension.size or 1))


def schema_from_json(data: Mapping[str, Any]) -> Schema:
    """Read a schema written by `schema_to_json`.

    Raises
    ------
    FormatError
        For a newer ``format_version``, or a document that is damaged; the message names the member.
    """
    try:
        return _Reader(strict=False).schema(data)
    except (_MemberError, InvalidInputError) as error:
        raise FormatError(f"schema: {error}") from error


def load_schema_file(path: str | Path, *, codecs: Choice = DEFAULT_PROFILE, zarr_format: int | None = None) -> Schema:
    """Read a schema that a user wrote, as TOML or JSON (by the name's ending).

    The members are those of `schema_to_json`. Needed are ``axis``, and for each variable ``name`` and
    ``dtype``; a name may be a path ("ku/range_ocean"). ``dimension`` is by default the axis's only dimension,
    or has its name; a variable's ``dimensions`` are by default the partitioned one alone; other dimensions
    need a ``size``. ``chunks`` follow the rule of `zcollection_engine.chunking`, with the rows that the
    partitioned dimension's ``chunks`` asks for. dtypes are numpy's ("int16"), "string", and for the axis
    "datetime64[ns]", which is stored as int64 with units. The variable that keeps each row's origin is added
    unless ``provenance = false``. A variable's ``codecs`` are what `parse_codecs` takes; those of the whole
    schema what `with_codecs` takes, and go before the arguments.

    Raises
    ------
    InvalidInputError
        Naming file and member, for what is missing, misspelt or wrong.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        document = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidInputError(f"{path}: the schema file cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInputError(f"{path}: neither TOML nor, named .json, JSON: {error}") from error
    try:
        schema = _Reader(strict=True).schema(document)
        schema = replace(schema, zarr_format=zarr_format or schema.zarr_format)
        return with_codecs(schema, document.get("codecs", codecs))
    except (_MemberError, InvalidInputError, FormatError) as error:
        raise InvalidInputError(f"{path}: {error}") from error


class _MemberError(Exception):
    """A member of the document is missing or wrong."""


def _fail(where: str, what: str) -> NoReturn:
    raise _MemberError(f"{where}: {what}")


def _member(data: Mapping[str, Any], key: str, kind: type[T], where: str, *, default: T | None = None) -> T:
    """Return a member, checked for its type; without a default it is needed."""
    value = data.get(key, default)
    if value is None:
        _fail(where, f"{key!r} is missing")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _fail(f"{where}.{key}", f"{value!r} is not {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {
    str: "text",
    list: "a list",
    dict: "a table",
    int: "a whole number",
    bool: "true or false",
}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a document; ``strict`` refuses members that it does not know and allows the comforts of a user's file."""

    strict: bool

    def schema(self, data: Mapping[str, Any]) -> Schema:
        if not isinstance(data, Mapping):
            _fail("schema", f"{data!r} is not a table")
        version = _member(data, "format_version", int, "schema", default=SCHEMA_FORMAT_VERSION)
        if version > SCHEMA_FORMAT_VERSION:
            raise FormatError(
                f"the schema has format version {version}, this version reads up to {SCHEMA_FORMAT_VERSION}: "
                "use a newer one"
            )
        self._check_keys(data, _ROOT_KEYS, "schema")
        axis = _member(data, "axis", str, "schema")
        members = dict(self._members(data, "", "schema"))
        if axis not in members:
            _fail("schema.axis", f"there is no variable {axis!r}; there are {', '.join(members) or 'none'}")
        listed = _texts(members[axis], "dimensions", axis, [])
        dimension = _member(data, "dimension", str, "schema", default=listed[0] if listed else axis.rpartition("/")[2])
        dimensions, chunks = self._dimensions(data, dimension)
        builder = _VariableReader(self.strict, axis, dimension, dimensions, chunks)
        variables = [builder.variable(path, member) for path, member in members.items()]
        if self.strict and PROVENANCE not in members and _member(data, "provenance", bool, "schema", default=True):
            variables.append(provenance_variable(dimension, builder.rows))
        return Schema(
            axis=axis,
            dimension=dimension,
            dimensions=tuple(Dimension(name, size) for name, size in dimensions.items()),
            variables=tuple(variables),
            attributes=json_attributes(_member(data, "attrs", dict, "schema", default={})),
            zarr_format=_member(data, "zarr_format", int, "schema", default=3),
        )

    def _check_keys(self, data: Mapping[str, Any], known: frozenset[str], where: str) -> None:
        for key in data.keys() - known if self.strict else ():
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            _fail(f"{where}.{key}", f"unknown; {hint}")

    def _members(self, data: Mapping[str, Any], prefix: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Iterate over all variables of a group and the groups below it, by path."""
        seen: set[str] = set()
        for member in _tables(data, "variables", where):
            path = prefix + _member(member, "name", str, f"{where}.variables")
            self._check_keys(member, _VARIABLE_KEYS, path)
            if path in seen:
                _fail(path, "this variable is there twice")
            seen.add(path)
            yield path, member
        for group in _tables(data, "groups", where):
            name = _member(group, "name", str, f"{where}.groups")
            self._check_keys(group, _GROUP_KEYS, prefix + name)
            yield from self._members(group, f"{prefix}{name}/", prefix + name)

    def _dimensions(self, data: Mapping[str, Any], partitioned: str) -> tuple[dict[str, int | None], dict[str, int]]:
        """Return sizes and wanted chunk lengths by name."""
        sizes: dict[str, int | None] = {}
        chunks: dict[str, int] = {}
        for member in _tables(data, "dimensions", "schema"):
            name = _member(member, "name", str, "schema.dimensions")
            self._check_keys(member, _DIMENSION_KEYS, name)
            sizes[name] = None if name == partitioned else _member(member, "size", int, f"dimension {name!r}")
            if member.get("chunks") is not None:
                chunks[name] = _positive(_member(member, "chunks", int, f"dimension {name!r}"), name)
        sizes.setdefault(partitioned, None)
        return sizes, chunks


@dataclass(frozen=True, slots=True)
class _VariableReader:
    """Reads variables, knowing the axis and the dimensions."""

    strict: bool
    axis: str
    dimension: str
    sizes: Mapping[str, int | None]
    chunks: Mapping[str, int]

    @property
    def rows(self) -> int:
        return self.chunks.get(self.dimension, DEFAULT_CHUNK_ROWS)

    def variable(self, path: str, member: Mapping[str, Any]) -> Variable:
        where = f"variable {path!r}"
        spelt = _member(member, "dtype", str, where)
        attributes = json_attributes(_member(member, "attrs", dict, where, default={}))
        if "_FillValue" in attributes:
            _fail(where, "'_FillValue' is no attribute here; write it as 'fill_value'")
        is_time = self.strict and path == self.axis and spelt in _TIME_NAMES
        if is_time:
            attributes |= {"units": TIME_UNITS, "calendar": TIME_CALENDAR}
        dtype = "<i8" if is_time else _dtype(spelt, where)
        dimensions = tuple(_texts(member, "dimensions", where, [self.dimension]))
        for name in dimensions:
            if name not in self.sizes:
                _fail(where, f"its dimension {name!r} is not among 'dimensions', where its size belongs")
        fill_value = _fill_value(member, dtype, where)
        chunks = self._chunks(member, dimensions, dtype, where)
        found = Variable(path, dtype, dimensions, chunks, fill_value, attributes)
        wanted = member.get("codecs")
        return found if wanted is None else replace(found, codecs=parse_codecs(wanted, found))

    def _chunks(
        self, member: Mapping[str, Any], dimensions: tuple[str, ...], dtype: str, where: str
    ) -> tuple[int, ...]:
        given = member.get("chunks")
        if given is not None:
            if not isinstance(given, list) or len(given) != len(dimensions):
                _fail(f"{where}.chunks", f"{given!r} is not a list of one number for each of {list(dimensions)}")
            return tuple(_positive(number, f"{where}.chunks") for number in given)
        nbytes = value_nbytes(dtype, 0 if dtype == TEXT else np.dtype(dtype).itemsize)
        inner = [self.chunks.get(name, self.sizes[name] or 1) for name in dimensions if name != self.dimension]
        if self.dimension in dimensions:
            return row_chunks(self.rows, inner, nbytes)
        return whole_chunks(inner, nbytes)


def _tables(data: Mapping[str, Any], key: str, where: str) -> Sequence[Mapping[str, Any]]:
    found = _member(data, key, list, where, default=[])
    for item in found:
        if not isinstance(item, Mapping):
            _fail(f"{where}.{key}", f"{item!r} is not a table")
    return found


def _texts(data: Mapping[str, Any], key: str, where: str, default: list[str]) -> list[str]:
    found = _member(data, key, list, where, default=default)
    if not all(isinstance(item, str) for item in found):
        _fail(f"{where}.{key}", f"{found!r} is not a list of names")
    return found


def _positive(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _fail(where, f"{value!r} is not a whole number of at least 1")
    return value


def _dtype(spelt: str, where: str) -> str:
    if spelt in _TEXT_NAMES:
        return TEXT
    try:
        dtype = np.dtype(spelt)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        _fail(
            f"{where}.dtype",
            f"{spelt!r} is none of bool, int8 to int64, uint8 to uint64, float32, float64, string",
        )
    return dtype.newbyteorder("<").str


def _fill_value(member: Mapping[str, Any], dtype: str, where: str) -> Scalar | None:
    try:
        return decode_fill_value(member.get("fill_value"), dtype)
    except InvalidInputError as error:
        _fail(f"{where}.fill_value", str(error))
