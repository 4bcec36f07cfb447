"""Values that mean "missing": where they are, and how they become the collection's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.granules.packing import RecodeError
from zcollection_engine.schema import Scalar, Variable

#: Values of ``missing_value``, which may be several.
Marks = frozenset[int | float]


def is_fill(values: npt.NDArray[Any], fill_value: Scalar | None) -> npt.NDArray[np.bool_]:
    """Tell where values are the fill value; NaN is equal to NaN."""
    if fill_value is None or isinstance(fill_value, str):
        return np.zeros(values.shape, dtype=bool)
    if _is_nan(fill_value):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    return np.asarray(values == fill_value)


def is_any(values: npt.NDArray[Any], fill_values: Iterable[Scalar | None]) -> npt.NDArray[np.bool_]:
    """Tell where values are one of several fill values."""
    found = np.zeros(values.shape, dtype=bool)
    for fill_value in fill_values:
        found |= is_fill(values, fill_value)
    return found


def marks(attributes: Mapping[str, Any]) -> Marks:
    """Return the numbers of the attribute ``missing_value``, which the CF conventions keep beside ``_FillValue``."""
    items = np.ravel(np.asarray(attributes.get("missing_value", []), dtype=object)).tolist()
    plain = (item.item() if isinstance(item, np.generic) else item for item in items)
    return frozenset(item for item in plain if isinstance(item, int | float))


def marks_in_common(found: GranuleVariable, variable: Variable) -> Marks:
    """Return the values of ``missing_value`` that mean "missing" in the collection too, beside its fill value."""
    return (marks(found.attributes) & marks(variable.attributes)) - {variable.fill_value}


def translate(
    values: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_],
    found: GranuleVariable,
    variable: Variable,
    *,
    kept: Marks = frozenset(),
) -> npt.NDArray[Any]:
    """Put the collection's fill value where values are missing.

    Parameters
    ----------
    values
        As the collection stores them; any where they are missing.
    missing
        The same shape.
    found, variable
        Of the granule and of the collection.
    kept
        Values that mean "missing" and stay as they are.

    Returns
    -------
    ndarray
        The array itself where there is nothing to put.

    Raises
    ------
    RecodeError
        If a value that is not missing would be, or if there is no fill value to put.
    """
    ours = variable.fill_value
    _check_present(values, missing, found, variable, kept=kept)
    if bool(is_fill(values[missing], ours).all()):
        return values
    if ours is None:
        if values.dtype.kind != "f":
            raise RecodeError(
                f"{int(missing.sum())} missing values ({found.fill_value!r})",
                "no fill value",
                "create the collection with a fill value",
            )
        ours = math.nan
    return np.where(missing, np.asarray(ours, dtype=values.dtype), values)


def _check_present(
    values: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_],
    found: GranuleVariable,
    variable: Variable,
    *,
    kept: Marks,
) -> None:
    for ours in (variable.fill_value, *sorted(marks(variable.attributes) - kept)):
        present = is_fill(values, ours) & ~missing
        if present.any() and not _is_nan(ours):
            raise RecodeError(
                f"{int(present.sum())} values {ours!r} that are not missing (its fill value is {found.fill_value!r})",
                f"fill value {ours!r}, which would make them missing",
                "create the collection with another fill value",
            )


def _is_nan(value: Scalar | None) -> bool:
    return isinstance(value, float) and math.isnan(value)
