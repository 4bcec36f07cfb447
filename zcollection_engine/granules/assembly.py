"""What readers of all formats share: from the variables of a file to a granule.

A reader lists what a file holds as entries, chooses among them, reads the chosen ones raw, and assembles them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zcollection_engine.errors import EmptyGranuleError, InvalidGranuleError
from zcollection_engine.granules.model import Granule, GranuleSpec, GranuleVariable
from zcollection_engine.granules.selection import Names, Selection
from zcollection_engine.granules.timeaxis import decode_axis, decode_time
from zcollection_engine.granules.timeunits import is_time_units
from zcollection_engine.granules.values import (
    INTERNAL_ATTRIBUTES,
    FoundVariable,
    as_granule_variable,
    constant_rows,
)
from zcollection_engine.jsonvalues import json_attributes


class Entry(Protocol):
    """A variable in an open file, before its values are read.

    Attributes
    ----------
    dimensions, shape
        Names and sizes.
    owners
        Path of the group to which each dimension belongs, by the dimension's name; two groups may have different
        dimensions of one name.
    attributes
        With Python or numpy values.
    """

    @property
    def dimensions(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def owners(self) -> Mapping[str, str]: ...

    @property
    def attributes(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be read of a file.

    Attributes
    ----------
    names
        Chosen variables and their names in the collection.
    dimension
        The axis's.
    """

    names: Names
    dimension: str


def choose(entries: Mapping[str, Entry], selection: Selection, *, name: str) -> Choice:
    """Choose among the variables of a file.

    Parameters
    ----------
    entries
        All variables by absolute path.
    selection
        What to take.
    name
        What errors call the granule.

    Raises
    ------
    InvalidGranuleError
        With the codes "axis_missing", "axis_not_1d", "axis_twice", "other_axis", "dimension_conflict",
        "name_collision", "reserved_name", "nothing_selected".
    EmptyGranuleError
        If the axis has no rows.
    """
    axis_path = selection.spec.axis
    axis = _axis(entries, axis_path, name)
    names = selection.choose(entries, name=name)
    if selection.spec.include and not any(map(selection.takes, entries.keys() - {axis_path})):
        raise InvalidGranuleError(
            f"{name}: no variable matches {list(selection.spec.include)}; the file has {_some(entries)}",
            reason="nothing_selected",
            granule=name,
        )
    _check_dimensions({path: entries[path] for path in names.variables}, axis, name)
    return Choice(names, axis.dimensions[0])


def unsupported_type(path: str, kind: str, *, name: str) -> InvalidGranuleError:
    """Return the error for a variable of a type that a collection cannot store."""
    return InvalidGranuleError(
        f"{name}: variable {path} is of the type {kind}, which cannot be stored; exclude it",
        reason="unsupported_type",
        granule=name,
    )


def assemble(
    choice: Choice, found: Mapping[str, FoundVariable], attributes: Mapping[str, Any], spec: GranuleSpec, *, name: str
) -> Granule:
    """Return a granule from the raw variables of a file.

    Parameters
    ----------
    choice
        As `choose` made it.
    found
        Each chosen variable by its path in the file.
    attributes
        Global attributes.
    spec
        What to take.
    name
        What errors call the granule.

    Raises
    ------
    InvalidGranuleError
        With the codes "axis_not_finite", "axis_undecodable", "axis_out_of_range", "attribute_missing",
        "attribute_value"; for other times "time_missing", "time_not_1d", "time_not_finite", "time_undecodable",
        "time_out_of_range".
    """
    paths, dimension = choice.names.variables, choice.dimension
    variables = {paths[path]: as_granule_variable(variable, dimension) for path, variable in found.items()}
    axis = paths[spec.axis]
    variables[axis] = decode_axis(variables[axis], path=spec.axis, name=name)
    variables |= {path: _time(path, variables, paths, dimension, name) for path in spec.times if path != axis}
    rows = variables[axis].values.shape[0]
    for attribute, target in choice.names.attributes.items():
        values = constant_rows(attribute, attributes.get(attribute), spec.attributes[attribute], rows=rows, name=name)
        described = {"long_name": f"global attribute {attribute} of the granule"}
        variables[target] = GranuleVariable((dimension,), values, described)
    kept = {key: value for key, value in attributes.items() if key not in INTERNAL_ATTRIBUTES}
    return Granule(name, axis, dimension, dict(sorted(variables.items())), json_attributes(kept))


def _time(
    path: str, variables: Mapping[str, GranuleVariable], paths: Mapping[str, str], dimension: str, name: str
) -> GranuleVariable:
    """Decode a time beside the axis; ``path`` is its collection path."""
    found = variables.get(path)
    if found is None:
        times = sorted(other for other, candidate in variables.items() if _looks_like_time(candidate.attributes))
        raise InvalidGranuleError(
            f"{name}: there is no variable that becomes {path!r}, by whose date rows are partitioned; check 'include'"
            f" and 'rename'; variables that look like times: {', '.join(times) or 'none'}",
            reason="time_missing",
            granule=name,
        )
    if found.dimensions != (dimension,):
        raise InvalidGranuleError(
            f"{name}: variable {path!r}, by whose date rows are partitioned, must have the one dimension {dimension!r},"
            f" it has {found.dimensions}; choose another one",
            reason="time_not_1d",
            granule=name,
        )
    source = next(source for source, target in paths.items() if target == path)
    return decode_time(found, path=source, name=name)


def _axis(entries: Mapping[str, Entry], path: str, name: str) -> Entry:
    entry = entries.get(path)
    if entry is None:
        times = [other for other, candidate in entries.items() if _looks_like_time(candidate.attributes)]
        hint = f"variables that look like times: {', '.join(times)}" if times else f"it has {_some(entries)}"
        raise InvalidGranuleError(
            f"{name}: there is no variable {path!r} to be the axis; {hint}",
            reason="axis_missing",
            granule=name,
        )
    if len(entry.dimensions) != 1:
        raise InvalidGranuleError(
            f"{name}: the axis {path!r} must have one dimension, it has {entry.dimensions}; choose another "
            "variable as axis",
            reason="axis_not_1d",
            granule=name,
        )
    if entry.shape[0] == 0:
        raise EmptyGranuleError(f"{name}: the axis {path!r} has no rows, there is nothing to ingest", granule=name)
    return entry


def _looks_like_time(attributes: Mapping[str, Any]) -> bool:
    marked = attributes.get("standard_name") == "time" or attributes.get("axis") == "T"
    return marked or is_time_units(attributes.get("units"))


def _some(entries: Mapping[str, Entry]) -> str:
    paths = sorted(entries)
    more = f" and {len(paths) - 20} more" if len(paths) > 20 else ""
    return ", ".join(paths[:20]) + more if paths else "no variable at all"


def _check_dimensions(taken: Mapping[str, Entry], axis: Entry, name: str) -> None:
    """Refuse what would put values of other rows, or of another length, under a dimension's name."""
    dimension = axis.dimensions[0]
    sizes: dict[str, tuple[int, str]] = {}
    for path, entry in taken.items():
        if entry.dimensions.count(dimension) > 1:
            raise InvalidGranuleError(
                f"{name}: variable {path} has the axis's dimension {dimension!r} twice {entry.dimensions}; exclude it",
                reason="axis_twice",
                granule=name,
            )
        if dimension in entry.dimensions and entry.owners[dimension] != axis.owners[dimension]:
            raise InvalidGranuleError(
                f"{name}: variable {path} has the dimension {dimension!r} of group {entry.owners[dimension]}, the axis "
                f"has that of {axis.owners[dimension]}: other rows; exclude it",
                reason="other_axis",
                granule=name,
            )
        for label, size in zip(entry.dimensions, entry.shape, strict=True):
            known, owner = sizes.setdefault(label, (size, path))
            if known != size:
                raise InvalidGranuleError(
                    f"{name}: dimension {label!r} has {known} values for {owner} and {size} for {path}; exclude one of "
                    "them",
                    reason="dimension_conflict",
                    granule=name,
                )
