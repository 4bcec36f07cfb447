"""Values of attributes and fill values as strict JSON.

JSON has no NaN and no infinity. They are written as the strings that Zarr v3 uses for fill values ("NaN",
"Infinity", "-Infinity"), so that every JSON parser reads the document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zcollection_engine.errors import InvalidInputError
from zcollection_engine.schema import TEXT, Scalar

_SPELLINGS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_value(value: Any) -> Any:
    """Return an attribute's value as JSON.

    numpy scalars become Python numbers, arrays lists, bytes text, NaN and infinities their spelling; what
    JSON has no counterpart for becomes its text.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return spell_float(value)
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    return str(value)


def json_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with all values as JSON."""
    return {str(key): json_value(value) for key, value in attributes.items()}


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or ISO-8859-1, which older products use, where it is not valid UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def spell_float(value: float) -> float | str:
    """Return a finite number as it is, the others as their spelling."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def encode_fill_value(value: Scalar | None) -> Scalar | None:
    """Return a fill value as JSON."""
    return spell_float(value) if isinstance(value, float) else value


def decode_fill_value(value: Any, dtype: str) -> Scalar | None:
    """Return the fill value that JSON stands for, as a Python scalar of the stored dtype.

    Parameters
    ----------
    value
        JSON scalar, spelling of a float that is not finite, or None.
    dtype
        numpy dtype string, or "string".

    Raises
    ------
    InvalidInputError
        If the value is not one of the dtype.
    """
    if value is None:
        return None
    if dtype == TEXT:
        if isinstance(value, str):
            return value
        raise InvalidInputError(f"the fill value {value!r} is not text")
    return _numeric_fill_value(value, np.dtype(dtype))


def _numeric_fill_value(value: Any, dtype: np.dtype[Any]) -> Scalar:
    if dtype.kind == "f" and isinstance(value, str) and value in _SPELLINGS:
        return _SPELLINGS[value]
    if dtype.kind == "b" and isinstance(value, bool):
        return value
    if dtype.kind in "iuf" and isinstance(value, int | float) and not isinstance(value, bool):
        return fit_number(value, dtype)
    raise InvalidInputError(f"the fill value {value!r} is not a value of {dtype}")


def fit_number(value: float, dtype: np.dtype[Any]) -> int | float:
    """Return a number as the Python scalar of the nearest value of a numeric dtype.

    Raises
    ------
    InvalidInputError
        If an integer dtype cannot hold it exactly, or if it overflows a float dtype.
    """
    if dtype.kind == "f":
        if math.isnan(value):
            return math.nan
        with np.errstate(over="ignore"):
            fitted = _as_float(value, dtype)
        if math.isinf(fitted) and not math.isinf(value):
            raise InvalidInputError(f"{value!r} overflows {dtype}")
        return fitted
    bounds = np.iinfo(dtype)
    if not math.isfinite(value) or int(value) != value or not bounds.min <= value <= bounds.max:
        raise InvalidInputError(f"{value!r} is not a value of {dtype} ({bounds.min} to {bounds.max})")
    return int(value)


def _as_float(value: float, dtype: np.dtype[Any]) -> float:
    try:
        return float(np.float64(value).astype(dtype))
    except OverflowError:
        return math.inf
