"""From what zarr decodes to a variable as the readers of granules share it: values and fill value.

Fill values are those that xarray sees: the attribute ``_FillValue``, or else, in format 2 only, the array's own fill
value. In format 3 the array's own is what missing chunks read as, and says nothing about values that are there.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.granules.assembly import unsupported_type
from zcollection_engine.granules.timeaxis import time_attributes
from zcollection_engine.granules.values import FoundVariable
from zcollection_engine.granules.zarrmetadata import ArrayNode
from zcollection_engine.jsonvalues import decode_text

_FILL = "_FillValue"
_NAT = int(np.iinfo(np.int64).min)
_TIMEDELTA_UNITS = "nanoseconds"

#: Name of the dimension of characters that fixed-length text is given; joining the characters removes it.
_CHARACTERS = "\0characters"

_SPELLINGS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def found_variable(node: ArrayNode, values: Any, fill_value: Any, *, name: str) -> FoundVariable:
    """Return a variable from an array's decoded values.

    Parameters
    ----------
    node
        With dimensions.
    values
        As zarr returns them: datetime64 and timedelta64 become int64 nanoseconds, with the units in the attributes
        and NaT as fill value; text of any kind becomes Python strings, or characters to be joined.
    fill_value
        The array's own; None if it has none.
    name
        What errors call the granule.

    Raises
    ------
    InvalidGranuleError
        Reason "unsupported_type".
    """
    array = np.asarray(values)
    dimensions = node.dimensions or ()
    if array.dtype.kind in "Mm":
        return FoundVariable(dimensions, _nanoseconds(array), _time_attributes(array.dtype.kind, node.attributes))
    attributes = _with_fill_value(node, array.dtype, fill_value)
    if array.dtype.kind == "S" and array.dtype.itemsize > 1:
        width = array.dtype.itemsize
        characters = np.ascontiguousarray(array).reshape(-1).view("S1").reshape((*array.shape, width))
        return FoundVariable((*dimensions, _CHARACTERS), characters, attributes)
    if array.dtype.kind in "UTO":
        array = np.asarray(array, dtype=object)
        if not all(isinstance(item, str) for item in array.ravel().tolist()):
            raise unsupported_type(node.path, "'object' with values that are not text", name=name)
    elif array.dtype.kind not in "iufbS":
        raise unsupported_type(node.path, repr(array.dtype.name), name=name)
    return FoundVariable(dimensions, array, attributes)


def _nanoseconds(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    kind = values.dtype.kind
    exact: npt.NDArray[Any] = values.astype(f"{kind}8[ns]")
    # numpy turns times beyond the range of nanoseconds into others without a word.
    same = (exact.astype(values.dtype) == values) | np.isnat(values)
    if not same.all():
        wrong = values.reshape(-1)[int(np.argmin(same.reshape(-1)))]
        raise ValueError(f"{wrong} ({values.dtype}) is no number of nanoseconds in 64 bits")
    return exact.view(np.int64)


def _time_attributes(kind: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    described = time_attributes(attributes)
    if kind == "m":
        del described["calendar"]
        described["units"] = _TIMEDELTA_UNITS
    return {**described, _FILL: _NAT}


def _with_fill_value(node: ArrayNode, dtype: np.dtype[Any], own: Any) -> dict[str, Any]:
    """Return the attributes with the fill value as the netCDF library would give it."""
    attributes = dict(node.attributes)
    if _FILL in attributes:
        attributes[_FILL] = _decoded(attributes[_FILL], dtype)
    elif node.zarr_format == 2 and own is not None and dtype.kind in "iuf":
        attributes[_FILL] = own
    return attributes


def _decoded(value: Any, dtype: np.dtype[Any]) -> Any:
    """Decode the forms that a fill value has in JSON: base64 of a little-endian float64, spelt, or base64 of bytes."""
    if not isinstance(value, str) or dtype.kind not in "fS":
        return value
    if dtype.kind == "f" and value in _SPELLINGS:
        return _SPELLINGS[value]
    data = base64.b64decode(value, validate=True)
    return decode_text(data) if dtype.kind == "S" else struct.unpack("<d", data)[0]
