"""Read a granule from the bytes of a NetCDF file: NetCDF-3 (classic, 64-bit offset, CDF-5) and NetCDF-4.

The netCDF library does not allow two threads in it at a time. All calls are made under one lock, and
everything that does not need the library is done outside it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.assembly import Choice, assemble, choose, unsupported_type
from zcollection_engine.granules.container import openable
from zcollection_engine.granules.hdf5 import check_heaps
from zcollection_engine.granules.limits import Budget, Kind
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.selection import Selection
from zcollection_engine.granules.values import FoundVariable

#: Of the reference to a string in an HDF5 file.
_STRING_NBYTES = 16

_LIBRARY = threading.Lock()
_LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    SystemError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A variable in an open file, and the group that owns each dimension name in its scope."""

    variable: netCDF4.Variable[Any]
    owners: Mapping[str, str]

    @property
    def dimensions(self) -> tuple[str, ...]:
        return self.variable.dimensions

    @property
    def shape(self) -> tuple[int, ...]:
        return self.variable.shape

    @property
    def attributes(self) -> Mapping[str, Any]:
        return _attributes(self.variable)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is taken from a file before it is closed."""

    choice: Choice
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
    longest = check_heaps(content, name=name)
    try:
        with _LIBRARY, netCDF4.Dataset("granule", memory=content) as dataset:
            found = _extract(dataset, selection, longest, name)
    except InvalidGranuleError:
        raise
    except MemoryError as error:
        raise InvalidGranuleError(
            f"{name}: the netCDF library asked for more memory than there is to read this file of {len(data)} bytes; "
            "it is damaged, or max_nbytes is too high for this machine",
            reason="too_large",
            granule=name,
        ) from error
    except _LIBRARY_ERRORS as error:
        raise InvalidGranuleError(
            f"{name}: the netCDF library cannot read this file of {len(data)} bytes ({error}); it is damaged, have the "
            "granule delivered again",
            reason="unreadable",
            granule=name,
        ) from error
    return assemble(found.choice, found.variables, found.attributes, spec, name=name)


def _extract(dataset: netCDF4.Dataset, selection: Selection, longest: int, name: str) -> _Found:
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    entries = dict(_walk(dataset))
    choice = choose(entries, selection, name=name)
    chosen = {path: entries[path].variable for path in choice.names.variables}
    budget = Budget(selection.spec.max_nbytes, name=name)
    for path, variable in chosen.items():
        _reserve(budget, path, variable, name)
    budget.reserve_axis(selection.spec.axis, chosen[selection.spec.axis].shape[0])
    variables = {path: _read(budget, path, variable, longest) for path, variable in chosen.items()}
    return _Found(choice, variables, _attributes(dataset))


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


def _reserve(budget: Budget, path: str, variable: netCDF4.Variable[Any], name: str) -> None:
    """Refuse a variable before it is read: for its type, or for what it would take."""
    kind = variable.datatype
    if variable.dtype is not str and isinstance(kind, netCDF4.CompoundType | netCDF4.VLType):
        raise unsupported_type(path, f"{kind.name!r} ({type(kind).__name__})", name=name)
    stored: Kind = "strings" if variable.dtype is str else "characters" if variable.dtype == "S1" else "numbers"
    itemsize = _STRING_NBYTES if variable.dtype is str else np.dtype(variable.dtype).itemsize
    budget.reserve(path, variable.shape, itemsize, kind=stored)
    chunks = variable.chunking()
    if isinstance(chunks, list):
        budget.reserve_chunk(path, tuple(chunks), itemsize)


def _read(budget: Budget, path: str, variable: netCDF4.Variable[Any], longest: int) -> FoundVariable:
    is_text = variable.dtype is str
    values = _strings(budget, path, variable, longest) if is_text else np.asarray(variable[...])
    return FoundVariable(variable.dimensions, values, _attributes(variable))


def _strings(budget: Budget, path: str, variable: netCDF4.Variable[Any], longest: int) -> npt.NDArray[Any]:
    """Read strings block by block: a file may name one long string many times. ``longest`` is in bytes."""
    values = np.empty(variable.shape, dtype=object)
    for block in budget.blocks(variable.shape, longest):
        values[block] = variable[block]
        budget.add_text(path, np.ravel(values[block]).tolist())
    return values


def _attributes(owner: netCDF4.Dataset | netCDF4.Variable[Any]) -> dict[str, Any]:
    """Return attributes without those of types that the library cannot convert, which have no JSON form either."""
    found = {}
    for key in owner.ncattrs():
        try:
            found[key] = owner.getncattr(key)
        except KeyError:
            continue
    return found
