"""Read a granule from the bytes of a NetCDF file: NetCDF-3 (classic, 64-bit offset, CDF-5) and NetCDF-4.

The netCDF library does not allow two threads in it at a time. All calls are made under one lock, and
everything that does not need the library is done outside it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError
from zcollection_engine.granules.container import openable
from zcollection_engine.granules.model import Granule, GranuleSpec, GranuleVariable
from zcollection_engine.granules.selection import Names, Selection
from zcollection_engine.granules.timeaxis import decode_axis
from zcollection_engine.granules.timeunits import is_time_units
from zcollection_engine.granules.values import (
    INTERNAL_ATTRIBUTES,
    FoundVariable,
    as_granule_variable,
    constant_rows,
)
from zcollection_engine.jsonvalues import json_attributes

#: Bytes of one decoded variable above which a file is taken for damaged or hostile: compressed zeros, or an
#: unlimited dimension that nothing was written to, need next to nothing in the file.
MAX_VARIABLE_NBYTES = 1 << 33

_LIBRARY = threading.Lock()
_LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    SystemError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A variable in an open file, and the group that owns each dimension name in its scope."""

    variable: netCDF4.Variable[Any]
    owners: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is taken from a file before it is closed."""

    names: Names
    dimension: str
    variables: Mapping[str, FoundVariable]
    attributes: Mapping[str, Any]


def read_netcdf(data: bytes, spec: GranuleSpec, *, name: str) -> Granule:
    """Read the selected variables of a granule.

    Packed values stay as they are stored. The axis is decoded when it is a CF time (see
    `zcollection_engine.granules.timeaxis.decode_axis`). The axis's dimension comes first in every variable
    that has it. Character arrays and NetCDF strings become arrays of Python strings, enumerations their
    integers.

    Parameters
    ----------
    data
        The whole file.
    spec
        What to take, and under which names.
    name
        What errors call the granule: its key or URL.

    Raises
    ------
    InvalidInputError
        If the specification itself is wrong.
    InvalidGranuleError
        With a stable ``code``: "empty_file", "not_netcdf", "truncated", "unreadable", "axis_missing",
        "axis_not_1d", "axis_twice", "axis_not_finite", "axis_undecodable", "axis_out_of_range", "other_axis",
        "dimension_conflict", "unsupported_type", "too_large", "name_collision", "reserved_name",
        "nothing_selected", "attribute_missing", "attribute_value".
    EmptyGranuleError
        If the axis has no rows.
    """
    selection = Selection(spec)
    content = openable(data, name)
    try:
        with _LIBRARY, netCDF4.Dataset("granule", memory=content) as dataset:
            found = _extract(dataset, selection, name)
    except InvalidGranuleError:
        raise
    except _LIBRARY_ERRORS as error:
        raise InvalidGranuleError(
            f"{name}: the netCDF library cannot read this file of {len(data)} bytes ({error}); it is damaged, have the "
            "granule delivered again",
            reason="unreadable",
            granule=name,
        ) from error
    return _assemble(found, spec, name)


def _assemble(found: _Found, spec: GranuleSpec, name: str) -> Granule:
    paths = found.names.variables
    variables = {
        paths[path]: as_granule_variable(variable, found.dimension) for path, variable in found.variables.items()
    }
    axis = paths[spec.axis]
    variables[axis] = decode_axis(variables[axis], path=spec.axis, name=name)
    rows = variables[axis].values.shape[0]
    for attribute, target in found.names.attributes.items():
        values = constant_rows(
            attribute, found.attributes.get(attribute), spec.attributes[attribute], rows=rows, name=name
        )
        described = {"long_name": f"global attribute {attribute} of the granule"}
        variables[target] = GranuleVariable((found.dimension,), values, described)
    kept = {key: value for key, value in found.attributes.items() if key not in INTERNAL_ATTRIBUTES}
    return Granule(name, axis, found.dimension, dict(sorted(variables.items())), json_attributes(kept))


def _extract(dataset: netCDF4.Dataset, selection: Selection, name: str) -> _Found:
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    entries = dict(_walk(dataset))
    axis_path = selection.spec.axis
    axis = _axis(entries, axis_path, name)
    dimension = axis.variable.dimensions[0]
    names = selection.choose(entries, name=name)
    if selection.spec.include and not any(map(selection.takes, entries.keys() - {axis_path})):
        raise InvalidGranuleError(
            f"{name}: no variable matches {list(selection.spec.include)}; the file has {_some(entries)}",
            reason="nothing_selected",
            granule=name,
        )
    taken = {path: entries[path] for path in names.variables}
    _check_dimensions(taken, axis, name)
    variables = {path: _read(path, entry.variable, name) for path, entry in taken.items()}
    return _Found(names, dimension, variables, _attributes(dataset))


def _walk(dataset: netCDF4.Dataset) -> Iterator[tuple[str, _Entry]]:
    """Iterate over all variables by absolute path. A dimension is that of the nearest group which defines its name."""
    pending: list[tuple[netCDF4.Dataset, dict[str, str]]] = [(dataset, {})]
    while pending:
        group, outer = pending.pop()
        owners = {**outer, **dict.fromkeys(group.dimensions, group.path)} if group.dimensions else outer
        prefix = group.path.rstrip("/")
        for name, variable in group.variables.items():
            yield f"{prefix}/{name}", _Entry(variable, owners)
        pending.extend((child, owners) for child in group.groups.values())


def _axis(entries: Mapping[str, _Entry], path: str, name: str) -> _Entry:
    entry = entries.get(path)
    if entry is None:
        times = [other for other, candidate in entries.items() if _looks_like_time(candidate.variable)]
        hint = f"variables that look like times: {', '.join(times)}" if times else f"it has {_some(entries)}"
        raise InvalidGranuleError(
            f"{name}: there is no variable {path!r} to be the axis; {hint}",
            reason="axis_missing",
            granule=name,
        )
    if len(entry.variable.dimensions) != 1:
        raise InvalidGranuleError(
            f"{name}: the axis {path!r} must have one dimension, it has {entry.variable.dimensions}; choose another "
            "variable as axis",
            reason="axis_not_1d",
            granule=name,
        )
    if entry.variable.shape[0] == 0:
        raise EmptyGranuleError(f"{name}: the axis {path!r} has no rows, there is nothing to ingest", granule=name)
    return entry


def _looks_like_time(variable: netCDF4.Variable[Any]) -> bool:
    attributes = _attributes(variable)
    marked = attributes.get("standard_name") == "time" or attributes.get("axis") == "T"
    return marked or is_time_units(attributes.get("units"))


def _some(entries: Mapping[str, _Entry]) -> str:
    paths = sorted(entries)
    more = f" and {len(paths) - 20} more" if len(paths) > 20 else ""
    return ", ".join(paths[:20]) + more if paths else "no variable at all"


def _check_dimensions(taken: Mapping[str, _Entry], axis: _Entry, name: str) -> None:
    """Refuse what would put values of other rows, or of another length, under a dimension's name."""
    dimension = axis.variable.dimensions[0]
    sizes: dict[str, tuple[int, str]] = {}
    for path, entry in taken.items():
        dimensions, shape = entry.variable.dimensions, entry.variable.shape
        if dimensions.count(dimension) > 1:
            raise InvalidGranuleError(
                f"{name}: variable {path} has the axis's dimension {dimension!r} twice {dimensions}; exclude it",
                reason="axis_twice",
                granule=name,
            )
        if dimension in dimensions and entry.owners[dimension] != axis.owners[dimension]:
            raise InvalidGranuleError(
                f"{name}: variable {path} has the dimension {dimension!r} of group {entry.owners[dimension]}, the axis "
                f"has that of {axis.owners[dimension]}: other rows; exclude it",
                reason="other_axis",
                granule=name,
            )
        for label, size in zip(dimensions, shape, strict=True):
            known, owner = sizes.setdefault(label, (size, path))
            if known != size:
                raise InvalidGranuleError(
                    f"{name}: dimension {label!r} has {known} values for {owner} and {size} for {path}; exclude one of "
                    "them",
                    reason="dimension_conflict",
                    granule=name,
                )


def _read(path: str, variable: netCDF4.Variable[Any], name: str) -> FoundVariable:
    kind = variable.datatype
    if variable.dtype is not str and isinstance(kind, netCDF4.CompoundType | netCDF4.VLType):
        raise InvalidGranuleError(
            f"{name}: variable {path} is of the type {kind.name!r} ({type(kind).__name__}), which cannot be stored; "
            "exclude it",
            reason="unsupported_type",
            granule=name,
        )
    itemsize = 8 if variable.dtype is str else np.dtype(variable.dtype).itemsize
    nbytes = itemsize * math.prod(variable.shape)
    if nbytes > MAX_VARIABLE_NBYTES:
        raise InvalidGranuleError(
            f"{name}: variable {path} of shape {variable.shape} would take {nbytes} bytes, more than "
            f"{MAX_VARIABLE_NBYTES}; exclude it",
            reason="too_large",
            granule=name,
        )
    values: npt.NDArray[Any] = np.asarray(variable[...], dtype=object if variable.dtype is str else None)
    return FoundVariable(variable.dimensions, values, _attributes(variable))


def _attributes(owner: netCDF4.Dataset | netCDF4.Variable[Any]) -> dict[str, Any]:
    """Return attributes without those of types that the library cannot convert, which have no JSON form either."""
    found = {}
    for key in owner.ncattrs():
        try:
            found[key] = owner.getncattr(key)
        except KeyError:
            continue
    return found
