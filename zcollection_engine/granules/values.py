"""From what the netCDF library returns to the values and attributes of a granule's variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.jsonvalues import decode_text, fit_number, json_attributes
from zcollection_engine.schema import Scalar

#: Attributes by which the netCDF library and HDF5 keep their own records; they say nothing about the data.
INTERNAL_ATTRIBUTES = frozenset(
    {
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_NCProperties",
        "_nc3_strict",
        "_Encoding",
        "CLASS",
        "DIMENSION_LIST",
        "NAME",
        "REFERENCE_LIST",
    }
)

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FoundVariable:
    """A variable as the library returns it: values by ``dimensions``, any byte order; attributes with numpy values."""

    dimensions: tuple[str, ...]
    values: npt.NDArray[Any]
    attributes: Attributes


def as_granule_variable(found: FoundVariable, dimension: str) -> GranuleVariable:
    """Bring a variable into a granule's form.

    Parameters
    ----------
    found
        Raw values; text as single characters (dtype S1) or as Python strings (dtype object).
    dimension
        The axis's dimension, which is moved to the first place.

    Returns
    -------
    GranuleVariable
        Little-endian, C-contiguous numbers, or text as Python strings without the dimension of characters;
        ``_FillValue`` taken out of the attributes.
    """
    dimensions, values = _axis_first(found.dimensions, found.values, dimension)
    if values.dtype.kind == "S":
        dimensions, values = _join_characters(dimensions, values, dimension, found.attributes.get("_Encoding"))
    elif values.dtype.kind != "O":
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(values.shape)
    fill_value, attributes = split_fill_value(found.attributes, values.dtype)
    kept = {key: value for key, value in attributes.items() if key not in INTERNAL_ATTRIBUTES}
    return GranuleVariable(dimensions, values, json_attributes(kept), fill_value)


def _axis_first(
    dimensions: tuple[str, ...], values: npt.NDArray[Any], dimension: str
) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
    if dimension not in dimensions[1:]:
        return dimensions, values
    place = dimensions.index(dimension)
    rest = dimensions[:place] + dimensions[place + 1 :]
    return (dimension, *rest), np.moveaxis(values, place, 0)


def _join_characters(
    dimensions: tuple[str, ...], values: npt.NDArray[Any], dimension: str, encoding: str | None
) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
    """Join the last dimension into text; with only the axis's dimension there is one character a row."""
    if dimensions and dimensions[-1] != dimension:
        dimensions = dimensions[:-1]
        width = values.shape[-1]
        shape = values.shape[:-1]
        joined = np.ascontiguousarray(values).view(f"S{width}") if width else np.zeros(shape, dtype="S1")
        values = joined.reshape(shape)
    texts = np.empty(values.size, dtype=object)
    texts[:] = [_decode(item, encoding) for item in values.ravel().tolist()]
    return dimensions, texts.reshape(values.shape)


def _decode(item: bytes, encoding: str | None) -> str:
    text = decode_text(item) if encoding in {None, "utf-8", "none"} else item.decode(encoding, errors="replace")
    return text.rstrip("\0 ")


def split_fill_value(attributes: Attributes, dtype: np.dtype[Any]) -> tuple[Scalar | None, dict[str, Any]]:
    """Take the fill value out of a variable's attributes.

    ``_FillValue`` is the fill value, or else ``missing_value`` where it is a single value of the variable's
    dtype. A ``missing_value`` beside it stays, unless it adds nothing (the same value, or NaN).

    Returns
    -------
    fill_value, attributes
        A Python scalar exactly equal to the stored value, or None; the other attributes, as they were.
    """
    rest = dict(attributes)
    fill_value = _scalar(rest.pop("_FillValue", None), dtype)
    if "missing_value" not in rest:
        return fill_value, rest
    missing = _scalar(rest["missing_value"], dtype)
    if fill_value is None and missing is not None:
        fill_value = missing
    if missing is not None and (_is_nan(missing) or missing == fill_value):
        del rest["missing_value"]
    return fill_value, rest


def _scalar(value: Any, dtype: np.dtype[Any]) -> Scalar | None:
    """Return the one value of an attribute as a scalar of ``dtype``; None if there is none of that kind."""
    items = np.ravel(np.asarray(value, dtype=object))
    if value is None or items.size != 1:
        return None
    item = items[0].item() if isinstance(items[0], np.generic) else items[0]
    if dtype.kind == "O":
        return item if isinstance(item, str) else None
    if dtype.kind not in "iuf" or not isinstance(item, int | float):
        return None
    try:
        return fit_number(item, dtype)
    except InvalidInputError:
        return None


def _is_nan(value: Scalar) -> bool:
    return isinstance(value, float) and math.isnan(value)


def constant_rows(attribute: str, value: Any, dtype: str, *, rows: int, name: str) -> npt.NDArray[Any]:
    """Return a row variable that repeats the value of a granule's global attribute.

    Parameters
    ----------
    attribute
        Name of the attribute.
    value
        Its value; None if the granule has no such attribute.
    dtype
        numpy dtype name of the result, numeric.
    rows
        Length of the result.
    name
        What errors call the granule.

    Raises
    ------
    InvalidInputError
        If ``dtype`` is not numeric.
    InvalidGranuleError
        Reason "attribute_missing", or "attribute_value" for one that is not a number of that dtype.
    """
    target = _numeric_dtype(dtype, attribute)
    if value is None:
        raise InvalidGranuleError(
            f"{name}: there is no global attribute {attribute!r}, which gives a variable of the collection; correct "
            "'attributes' in the collection's settings or deliver a granule that has it",
            reason="attribute_missing",
            granule=name,
        )
    fitted = _scalar(value, target)
    if fitted is None or (target.kind == "f" and not math.isfinite(float(fitted))):
        raise InvalidGranuleError(
            f"{name}: the global attribute {attribute!r} is {value!r}, which is not a value of {target.name}; correct "
            "the dtype in 'attributes' of the collection's settings",
            reason="attribute_value",
            granule=name,
        )
    return np.full(rows, fitted, dtype=target.newbyteorder("<"))


def _numeric_dtype(dtype: str, attribute: str) -> np.dtype[Any]:
    try:
        target = np.dtype(dtype)
    except TypeError:
        target = np.dtype(object)
    if target.kind not in "iuf":
        raise InvalidInputError(
            f"global attribute {attribute!r}: {dtype!r} is not a numeric dtype such as 'uint16' or 'float64'"
        )
    return target
