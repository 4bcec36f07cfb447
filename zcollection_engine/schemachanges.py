"""What amendments do to the schema: change attributes and the policy for drift, add variables, drop them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zcollection_engine.amending import Amendment
from zcollection_engine.commits.records import EVERYTHING
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.committing import Committer
from zcollection_engine.config import CollectionConfig, StoredConfig, load_config
from zcollection_engine.errors import InvalidInputError, NotFoundError
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.schema import PROVENANCE, Dimension, Schema, Variable

#: Attributes of variables that say how stored numbers are read: changing them would change the data.
_MEANING = frozenset({"units", "calendar", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned"})


def plan_attributes(
    committer: Committer, state: CollectionState, attributes: Mapping[str, Any], variable: str | None
) -> Amendment:
    """Change attributes of the collection or of one variable; None as a value removes one.

    Raises
    ------
    NotFoundError
        If there is no such variable.
    InvalidInputError
        If an attribute decides what stored numbers mean.
    """
    stored = load_config(committer.store, state.config)
    schema = _with_attributes(stored.config.schema, attributes, variable)
    return _amendment(state, "attributes", stored, replace(stored.config, schema=schema))


def plan_drift(committer: Committer, state: CollectionState, policy: DriftPolicy) -> Amendment:
    """Change what becomes of granules that depart from the schema, from now on.

    Raises
    ------
    InvalidInputError
        If that is the policy already.
    """
    stored = load_config(committer.store, state.config)
    if stored.config.drift == policy:
        raise InvalidInputError(f"{committer.store.url}: the drift policy is {policy.to_json()} already")
    return _amendment(state, "drift", stored, replace(stored.config, drift=policy))


def plan_addition(
    committer: Committer, state: CollectionState, variables: Sequence[Variable], dimensions: Sequence[Dimension] = ()
) -> Amendment:
    """Add variables along the partitioned dimension; the rows that are there get the fill value.

    A variable whose name was used before gets chunks under new names: every partition is written anew.

    Parameters
    ----------
    variables
        Not in the collection yet.
    dimensions
        Of theirs, those that the collection does not have.

    Raises
    ------
    InvalidInputError
        If a variable is there, does not fit, or is without the partitioned dimension; if none is given.
    """
    stored = load_config(committer.store, state.config)
    old = stored.config
    if not variables:
        raise InvalidInputError("name the variables to be added")
    for variable in variables:
        _check_new(old.schema, variable)
    schema = replace(
        old.schema,
        dimensions=(*old.schema.dimensions, *_new_dimensions(old.schema, variables, dimensions)),
        variables=(*old.schema.variables, *variables),
    )
    names = {variable.path for variable in variables}
    used = names & set(old.retired)
    config = replace(old, schema=schema, retired=tuple(sorted(set(old.retired) - names)))
    copies = {path: p for path, p in state.partitions.items() if p.rows} if used else {}
    plan = _amendment(state, "add", stored, config)
    return replace(plan, copies=copies, filled=tuple(sorted(names)))


def plan_removal(committer: Committer, state: CollectionState, paths: Sequence[str]) -> Amendment:
    """Drop variables along the partitioned dimension.

    Raises
    ------
    NotFoundError
        If there is no such variable.
    InvalidInputError
        If the collection needs it, or it is stored once for the collection; if none is named.
    """
    stored = load_config(committer.store, state.config)
    old = stored.config
    if not paths:
        raise InvalidInputError("name the variables to be dropped")
    needed = {old.schema.axis, PROVENANCE, *old.partitioning.variables, *old.strategy.columns}
    for path in paths:
        variable = old.schema[path]
        if path in needed:
            raise InvalidInputError(
                f"variable {path!r} cannot be dropped: the collection needs it for its rows' places"
            )
        if variable not in old.schema.row_variables:
            raise InvalidInputError(f"variable {path!r} is stored once for the collection and cannot be dropped")
    staying = tuple(v for v in old.schema.variables if v.path not in paths)
    used = {name for v in staying for name in v.dimensions}
    dimensions = tuple(d for d in old.schema.dimensions if d.name in used)
    schema = replace(old.schema, variables=staying, dimensions=dimensions)
    config = replace(old, schema=schema, retired=tuple(sorted({*old.retired, *paths})))
    return replace(_amendment(state, "remove", stored, config), unlisted=tuple(paths))


def _amendment(state: CollectionState, operation: str, stored: StoredConfig, config: CollectionConfig) -> Amendment:
    return Amendment(state.number, operation, (EVERYTHING,), new_config=replace(stored, config=config))


def _check_new(schema: Schema, variable: Variable) -> None:
    if variable.path in schema.by_path:
        raise InvalidInputError(f"there is a variable {variable.path!r} already")
    if variable.path == PROVENANCE:
        raise InvalidInputError(f"{PROVENANCE!r} is kept for the origin of each row; call the variable otherwise")
    groups = {v.path for v in schema.variables}
    parts = variable.path.split("/")
    above = {"/".join(parts[:end]) for end in range(1, len(parts))}
    if above & groups or any(path.startswith(f"{variable.path}/") for path in groups):
        raise InvalidInputError(f"{variable.path!r} would be a variable and a group at once; call it otherwise")
    if not variable.dimensions or variable.dimensions[0] != schema.dimension:
        raise InvalidInputError(
            f"variable {variable.path!r} has the dimensions {variable.dimensions}; one that is added has"
            f" {schema.dimension!r} first"
        )


def _new_dimensions(
    schema: Schema, variables: Iterable[Variable], dimensions: Iterable[Dimension]
) -> tuple[Dimension, ...]:
    given = {d.name: d for d in dimensions}
    missing = {name for v in variables for name in v.dimensions} - set(schema.sizes)
    for name in sorted(missing - set(given)):
        raise InvalidInputError(f"the collection has no dimension {name!r}: give its size")
    for name, size in schema.sizes.items():
        if name in given and given[name].size != size:
            raise InvalidInputError(f"dimension {name!r} has size {size}, not {given[name].size}")
    return tuple(given[name] for name in sorted(missing))


def _with_attributes(schema: Schema, attributes: Mapping[str, Any], variable: str | None) -> Schema:
    if variable is None:
        return replace(schema, attributes=_merged(schema.attributes, attributes))
    if variable not in schema.by_path or variable == PROVENANCE:
        raise NotFoundError(f"no variable {variable!r}; there are {', '.join(schema.by_path)}")
    fixed = sorted(_MEANING & attributes.keys())
    if fixed:
        raise InvalidInputError(
            f"attribute {fixed[0]!r} of {variable!r} says what the stored numbers mean and cannot be changed"
        )
    changed = replace(schema[variable], attributes=_merged(schema[variable].attributes, attributes))
    return replace(schema, variables=tuple(changed if v.path == variable else v for v in schema.variables))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**old, **new}.items() if value is not None}
