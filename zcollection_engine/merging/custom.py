"""The strategy that leaves merging to a user's own function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.merging.strategy import Mask, Owners, Rows, Strategy, Values
from zcollection_engine.schema import TIME_UNITS, Schema, Variable

MergeFunction = Callable[..., xr.Dataset]


@dataclass(frozen=True, slots=True)
class Custom(Strategy):
    """A user's function decides; the result may depend on the order in which granules come.

    Parameters
    ----------
    function
        ``module:function``; called as ``function(existing, inserted, axis=..., dim=...)`` with `xarray.Dataset` and
        returning one, see `zcollection_engine.merging.custom`.
    """

    function: str

    def __post_init__(self) -> None:
        module, colon, name = self.function.partition(":")
        if not (module and colon and name):
            raise InvalidInputError(f"merge function {self.function!r} is not spelt as 'module:function'")

    def keep(self, rows: Rows, owners: Owners) -> Mask:
        raise InvalidInputError(f"{self.function} merges datasets, not single rows")

    def to_json(self) -> dict[str, Any]:
        return {"strategy": "callable", "function": self.function}


def load_function(name: str) -> MergeFunction:
    """Import ``module:function``; raises `InvalidInputError` if there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(f"merge function {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise InvalidInputError(f"merge function {name!r} is no function but a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def call_function(
    name: str, schema: Schema, existing: Mapping[str, Values], inserted: Mapping[str, Values]
) -> dict[str, Values]:
    """Merge the rows of a partition by a user's function and return them ordered by the axis, stably.

    The function is called as ``function(existing, inserted, axis=path, dim=name)``, and not at all for the first rows
    of a partition. Both datasets have all variables along the partitioned dimension, under their paths in the
    collection and as stored (packed); times in nanoseconds are ``datetime64[ns]``. It returns such a dataset.

    Parameters
    ----------
    name
        ``module:function``.
    schema
        Of the collection.
    existing, inserted
        Values by path.

    Raises
    ------
    InvalidInputError
        If the function cannot be imported, fails, or returns something else; names the function and the variable.
    """
    function = load_function(name)
    if not existing[schema.axis].size:
        return _ordered(inserted, schema.axis)
    try:
        merged = function(
            _dataset(schema, existing), _dataset(schema, inserted), axis=schema.axis, dim=schema.dimension
        )
    except Exception as error:
        raise InvalidInputError(f"merge function {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(merged, xr.Dataset):
        raise InvalidInputError(f"merge function {name!r} returned a {type(merged).__name__}, not a xarray.Dataset")
    values = {variable.path: _values(name, merged, variable) for variable in schema.row_variables}
    rows = {len(v) for v in values.values()}
    if len(rows) != 1:
        raise InvalidInputError(f"merge function {name!r} returned variables with {sorted(rows)} rows")
    return _ordered(values, schema.axis)


def _ordered(values: Mapping[str, Values], axis: str) -> dict[str, Values]:
    order = np.argsort(values[axis], kind="stable")
    return {path: v[order] for path, v in values.items()}


def _dataset(schema: Schema, values: Mapping[str, Values]) -> xr.Dataset:
    return xr.Dataset({v.path: _as_xarray(v, values[v.path]) for v in schema.row_variables})


def _as_xarray(variable: Variable, values: Values) -> xr.Variable:
    if not _is_time(variable):
        return xr.Variable(variable.dimensions, values, dict(variable.attributes))
    attributes = {k: a for k, a in variable.attributes.items() if k not in ("units", "calendar")}
    return xr.Variable(variable.dimensions, values.view("datetime64[ns]"), attributes)


def _is_time(variable: Variable) -> bool:
    return variable.dtype == "<i8" and variable.attributes.get("units") == TIME_UNITS


def _values(name: str, merged: xr.Dataset, variable: Variable) -> Values:
    if variable.path not in merged.variables:
        raise InvalidInputError(f"merge function {name!r} returned no variable {variable.path!r}")
    found = merged.variables[variable.path]
    if found.dims != variable.dimensions:
        raise InvalidInputError(
            f"merge function {name!r} returned {variable.path!r} with the dimensions {found.dims}; it has"
            f" {variable.dimensions}"
        )
    values = found.values
    if _is_time(variable) and values.dtype.kind == "M":
        values = values.astype("datetime64[ns]").view(np.int64)
    if variable.is_text or np.can_cast(values.dtype, variable.numpy_dtype, "safe"):
        return values.astype(variable.numpy_dtype)
    raise InvalidInputError(
        f"merge function {name!r} returned {variable.path!r} as {values.dtype}; it is stored as {variable.dtype}"
    )
