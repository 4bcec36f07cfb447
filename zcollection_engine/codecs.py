"""How chunks are encoded: named profiles, a user's own chains, and how each Zarr format spells them. No I/O.

A chain is limited to the codecs that Zarr v3 standardises and its readers have: ``transpose``, ``bytes``, ``blosc``,
``gzip``, ``crc32c``, ``zstd``. Integers have two filters more in Zarr v2, ``delta`` and ``shuffle``, and Zarr v2 has
neither ``transpose`` nor ``crc32c``.

Every chunk ends in a skippable frame that readers accept behind zstd only. Therefore a chain that ends in another codec
gets zstd level 1 with a checksum appended (`zcollection_engine.schema.Codecs`); it costs little, since what it gets is
compressed already, and its checksum makes a flipped bit an error.

Sources: Zarr v3 codec specifications (blosc, bytes, crc32c, gzip, transpose, and zstd of zarr-extensions); for Zarr v2
the configurations of numcodecs. What the profiles hold was measured by ``benchmarks/codecs.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.schema import PROVENANCE, Codec, Codecs, Schema, Setting, Variable

#: What one variable may get: a profile's name, a chain of codecs, or the document's form (`codecs_to_json`).
Wanted = str | Sequence[str | Mapping[str, Any]] | Mapping[str, Any]

#: What a collection may get: the same for all variables, or by pattern of their paths (`with_codecs`).
Choice = str | Sequence[str | Mapping[str, Any]] | Mapping[str, Wanted]

DEFAULT_PROFILE = "default"

_BYTES, _TEXT = "bytes", "vlen-utf8"
_ARRAY_CODECS = frozenset({"delta", "transpose"})
#: numpy's kinds of the values that a codec is for. zarr-python gives transposed text back in another order.
_KINDS = {"delta": "iu", "shuffle": "iu", "transpose": "biuf"}
_ABSENT = {2: frozenset({"crc32c", "transpose"}), 3: frozenset({"delta", "shuffle"})}
_DOCUMENT_KEYS = frozenset({"array_to_array", "array_to_bytes", "bytes_to_bytes", "sharded", "shard_target_bytes"})
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


@dataclass(frozen=True, slots=True)
class _Option:
    """A codec's setting: what it may be, and what it is when nobody says."""

    meaning: str
    allows: Callable[[Any], bool]
    default: Setting | None = None


def _whole(low: int, high: int, default: int | None = None) -> _Option:
    def allows(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return _Option(f"a whole number from {low} to {high}", allows, default)


def _one_of(*values: Setting, default: Setting) -> _Option:
    def allows(value: Any) -> bool:
        return any(type(value) is type(known) and value == known for known in values)

    return _Option(f"one of {', '.join(map(repr, values))}", allows, default)


def _is_order(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int for item in value)


#: Settings in the order in which they are written. A default of None depends on the variable (`_default`).
_OPTIONS: Mapping[str, Mapping[str, _Option]] = {
    "transpose": {"order": _Option("the numbers of all dimensions in another order", _is_order)},
    "delta": {},
    "shuffle": {},
    "blosc": {
        "typesize": _whole(1, 255),
        "cname": _one_of("blosclz", "lz4", "lz4hc", "zlib", "zstd", default="zstd"),
        "clevel": _whole(0, 9, 3),
        "shuffle": _one_of(*_SHUFFLES, default="shuffle"),
        "blocksize": _whole(0, 2**31 - 1, 0),
    },
    "gzip": {"level": _whole(0, 9, 5)},
    "crc32c": {},
    "zstd": {"level": _whole(-131072, 22, 3), "checksum": _one_of(True, False, default=True)},
}


def _zstd(level: int) -> Codecs:
    return Codecs(bytes_to_bytes=(Codec("zstd", (("level", level), ("checksum", True))),))


def _blosc(variable: Variable, cname: str, clevel: int) -> Codecs:
    settings = {"cname": cname, "clevel": clevel}
    return Codecs(bytes_to_bytes=(_codec({"name": "blosc", "configuration": settings}, variable),))


#: Of a variable without codecs, in every collection ever written: never changes.
_UNNAMED = _zstd(3)


def _default(variable: Variable) -> Codecs:
    if not _is_shuffled(variable):
        return _zstd(3)
    if variable.numpy_dtype.kind == "f":
        return _blosc(variable, "zstd", 2)
    return _blosc(variable, "zstd", 5 if variable.numpy_dtype.itemsize == 8 else 3)


#: Profiles by name: the codecs of a variable, for new collections. What a collection holds is written out in its
#: configuration, so that these may change.
_PROFILES: Mapping[str, Callable[[Variable], Codecs]] = {
    DEFAULT_PROFILE: _default,
    "zstd": lambda _: _zstd(3),
    "blosc": lambda variable: _blosc(variable, "zstd", 3),
    "fast": lambda variable: _blosc(variable, "lz4", 5) if _is_shuffled(variable) else _zstd(1),
    "small": lambda variable: _blosc(variable, "zstd", 5) if _is_shuffled(variable) else _zstd(9),
}

PROFILES = tuple(_PROFILES)


def _is_shuffled(variable: Variable) -> bool:
    """Numbers of several bytes gain by shuffling; runs of one identifier, single bytes and text lose."""
    return _itemsize(variable) > 1 and variable.path != PROVENANCE


def _itemsize(variable: Variable) -> int:
    return 1 if variable.is_text else variable.numpy_dtype.itemsize


def with_codecs(schema: Schema, choice: Choice = DEFAULT_PROFILE) -> Schema:
    """Return a schema in which every variable has codecs; those that have some keep them.

    Parameters
    ----------
    schema
        Of a new collection: a collection's codecs never change.
    choice
        A profile's name, a chain, or either by pattern of the variables' paths: the first pattern that matches counts,
        "*" stays inside a group, "**" is every variable; variables without a match get the default.

    Returns
    -------
    Schema
        For Zarr v2 the default is plain zstd: not every reader knows filters.

    Raises
    ------
    InvalidInputError
        Naming variable and codec, for what `parse_codecs` and `check_codecs` refuse, or the pattern that matches no
        variable.
    """
    patterns: Mapping[str, Wanted] = choice if isinstance(choice, Mapping) else {"**": choice}
    for pattern in patterns:
        if not any(_matches(path, pattern) for path in schema.by_path):
            raise InvalidInputError(
                f"codecs: the pattern {pattern!r} matches none of the variables {', '.join(schema.by_path)}"
            )

    def coded(variable: Variable) -> Variable:
        if variable.codecs is not None:
            return variable
        found = (wanted for pattern, wanted in patterns.items() if _matches(variable.path, pattern))
        wanted = next(found, DEFAULT_PROFILE)
        if schema.zarr_format == 2 and wanted == DEFAULT_PROFILE:
            wanted = "zstd"
        return replace(variable, codecs=parse_codecs(wanted, variable))

    complete = replace(schema, variables=tuple(map(coded, schema.variables)))
    check_codecs(complete)
    return complete


def _matches(path: str, pattern: str) -> bool:
    names, parts = path.split("/"), pattern.split("/")
    return pattern == "**" or (len(names) == len(parts) and all(map(fnmatchcase, names, parts)))


def check_codecs(schema: Schema) -> None:
    """Raise `InvalidInputError` if a variable has a codec that a Zarr format (2 or 3) does not have."""
    for variable in schema.variables:
        _chain(variable, schema.zarr_format)


def parse_codecs(value: Wanted, variable: Variable) -> Codecs:
    """Return the codecs that were asked for.

    Parameters
    ----------
    value
        A profile's name (`PROFILES`); or codecs in the order of encoding, each a name or a table with ``name`` and
        ``configuration``, of which settings may be left out; or what `codecs_to_json` wrote.
    variable
        For which they are; its own codecs are not looked at.

    Raises
    ------
    InvalidInputError
        Naming variable and codec.
    """
    if isinstance(value, str):
        if value not in _PROFILES:
            _fail(variable, f"{value!r} is no profile of codecs; there are {', '.join(_PROFILES)}")
        return _PROFILES[value](variable)
    chain = list(_members(value, variable))
    places = [0 if c.name in _ARRAY_CODECS else 1 if c.name in (_BYTES, _TEXT) else 2 for c in chain]
    if places != sorted(places) or places.count(1) > 1:
        _fail(variable, f"the codecs {[c.name for c in chain]} do not go in this order: transpose, bytes, the others")
    return Codecs(
        tuple(c for c, place in zip(chain, places, strict=True) if place == 0),
        tuple(c for c, place in zip(chain, places, strict=True) if place == 2),
    )


def _members(value: Any, variable: Variable) -> Iterator[Codec]:
    members = _of_document(value, variable) if isinstance(value, Mapping) else value
    if not isinstance(members, Sequence):
        _fail(variable, f"the codecs {value!r} are neither the name of a profile nor a list of codecs")
    for member in members:
        table = {"name": member} if isinstance(member, str) else member
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            _fail(variable, f"the codec {member!r} is neither a name nor a table with a 'name'")
        yield _codec(table, variable)


def _of_document(value: Mapping[str, Any], variable: Variable) -> list[Any]:
    before, after = value.get("array_to_array", []), value.get("bytes_to_bytes", [])
    if value.keys() - _DOCUMENT_KEYS or not isinstance(before, list) or not isinstance(after, list):
        _fail(variable, f"the codecs {dict(value)} are no table of array_to_array, array_to_bytes and bytes_to_bytes")
    if value.get("sharded"):
        _fail(variable, "the codecs are 'sharded', which this version does not write")
    return [*before, *([value["array_to_bytes"]] if value.get("array_to_bytes") else []), *after]


def _codec(table: Mapping[str, Any], variable: Variable) -> Codec:
    name, given = table["name"], table.get("configuration") or {}
    if table.keys() - {"name", "configuration"} or not isinstance(given, Mapping):
        _fail(variable, f"codec {name!r} has members other than 'name' and a table 'configuration': {dict(table)}")
    if name in (_BYTES, _TEXT):
        if name != _to_bytes(variable)["name"] or given.get("endian", "little") != "little" or len(given) > 1:
            _fail(variable, f"codec {name!r} with {dict(given)}: it is {_to_bytes(variable)} for {variable.dtype}")
        return Codec(name)
    if name not in _OPTIONS:
        _fail(variable, f"codec {name!r} is none of {', '.join(_OPTIONS)}, which every reader has")
    if variable.numpy_dtype.kind not in _KINDS.get(name, "biufO"):
        _fail(variable, f"codec {name!r} is not for {variable.dtype}")
    options = _OPTIONS[name]
    for key in given.keys() - options.keys():
        _fail(variable, f"codec {name!r} has no setting {key!r}; it has {', '.join(options) or 'none'}")
    return Codec(name, tuple((key, _setting(name, key, given, variable)) for key in options))


def _setting(name: str, key: str, given: Mapping[str, Any], variable: Variable) -> Setting:
    option = _OPTIONS[name][key]
    places = tuple(range(len(variable.dimensions)))
    of_variable: dict[str, Setting] = {"typesize": _itemsize(variable), "order": places[::-1]}
    value = given.get(key, of_variable.get(key, option.default))
    value = tuple(value) if isinstance(value, list) else value
    if not option.allows(value) or (key == "order" and tuple(sorted(value)) != places):
        _fail(variable, f"codec {name!r}: {key} is {given[key]!r}, it must be {option.meaning}")
    return value


def _fail(variable: Variable, what: str) -> NoReturn:
    raise InvalidInputError(f"variable {variable.path!r}: {what}")


def codecs_to_json(codecs: Codecs, variable: Variable) -> dict[str, Any]:
    """Return codecs in the shape of zcollection's own schema; `parse_codecs` gives back equal ones."""
    return {
        "array_to_array": [_named(codec) for codec in codecs.array_to_array],
        "array_to_bytes": _to_bytes(variable),
        "bytes_to_bytes": [_named(codec) for codec in codecs.bytes_to_bytes],
    }


def v3_codecs(variable: Variable) -> list[dict[str, Any]]:
    """Return the ``codecs`` of a Zarr v3 array.

    Raises
    ------
    InvalidInputError
        Naming the codec that Zarr v3 does not have.
    """
    codecs = _chain(variable, 3)
    return [
        *(_named(codec) for codec in codecs.array_to_array),
        _to_bytes(variable),
        *(_named(codec) for codec in codecs.bytes_to_bytes),
    ]


def v2_codecs(variable: Variable, *, checksum: bool = True) -> tuple[list[dict[str, Any]] | None, dict[str, Any]]:
    """Return ``filters`` and ``compressor`` of a Zarr v2 array as configurations of numcodecs.

    The last codec, zstd, is the compressor; those before it are filters, in their order. A text's first filter makes
    the bytes of it.

    Parameters
    ----------
    variable
        The variable.
    checksum
        Whether zstd's setting of that name is given. Who encodes needs it; in what is published it can be left out,
        since each zstd frame tells by itself whether it has a checksum, and TensorStore refuses the setting.

    Raises
    ------
    InvalidInputError
        Naming the codec that Zarr v2 does not have.
    """
    codecs = _chain(variable, 2)
    text = [{"id": _TEXT}] if variable.is_text else []
    *filters, compressor = (
        _numcodecs(codec, variable, checksum=checksum) for codec in (*codecs.array_to_array, *codecs.bytes_to_bytes)
    )
    return [*text, *filters] or None, compressor


def _chain(variable: Variable, zarr_format: int) -> Codecs:
    codecs = variable.codecs or _UNNAMED
    for codec in (*codecs.array_to_array, *codecs.bytes_to_bytes):
        if codec.name in _ABSENT[zarr_format]:
            _fail(variable, f"codec {codec.name!r} does not exist in Zarr v{zarr_format}")
    return codecs


def _to_bytes(variable: Variable) -> dict[str, Any]:
    if variable.is_text:
        return {"name": _TEXT}
    if variable.numpy_dtype.itemsize == 1:
        return {"name": _BYTES}
    return {"name": _BYTES, "configuration": {"endian": "little"}}


def _named(codec: Codec) -> dict[str, Any]:
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in codec.configuration}
    return {"name": codec.name, "configuration": settings} if settings else {"name": codec.name}


def _numcodecs(codec: Codec, variable: Variable, *, checksum: bool) -> dict[str, Any]:
    settings: dict[str, Any] = dict(codec.configuration)
    match codec.name:
        case "delta":
            settings = {"dtype": variable.dtype}
        case "shuffle":
            settings = {"elementsize": _itemsize(variable)}
        case "blosc":
            del settings["typesize"]  # numcodecs takes it from the values, and before 0.16 knows no such setting
            settings["shuffle"] = _SHUFFLES.index(settings["shuffle"])
        case "zstd" if not checksum:
            del settings["checksum"]
    return {"id": codec.name, **settings}
