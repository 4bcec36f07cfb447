"""Turn the stored values of one packing, dtype and fill value into those of another, without loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.schema import Scalar, Variable

#: Integers up to this are exact in float64.
_EXACT = 1 << 53


class RecodeError(Exception):
    """Values cannot be kept as they are."""

    def __init__(self, found: str, expected: str, advice: str) -> None:
        super().__init__(f"{found}; {expected}; {advice}")
        self.found = found
        self.expected = expected
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Packing:
    """CF packing: value = stored * scale + offset."""

    scale: float
    offset: float

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Packing:
        """Raises `RecodeError` for a packing that is not one."""
        scale, offset = (
            _number(key, attributes.get(key, default)) for key, default in (("scale_factor", 1), ("add_offset", 0))
        )
        if not (np.isfinite(scale) and np.isfinite(offset)) or scale == 0:
            raise RecodeError(
                f"scale_factor {scale} and add_offset {offset}",
                "a packing that can be undone",
                "correct them",
            )
        return cls(scale, offset)

    def __str__(self) -> str:
        return f"scale_factor {self.scale!r} and add_offset {self.offset!r}"


def _number(key: str, value: Any) -> float:
    item = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    item = item[0] if isinstance(item, list) and len(item) == 1 else item
    if not isinstance(item, int | float):
        raise RecodeError(f"{key} {value!r}", "a number", "correct the attribute")
    return float(item)


def recode(found: GranuleVariable, variable: Variable) -> npt.NDArray[Any]:
    """Return the values of a numeric variable as a collection stores them.

    Parameters
    ----------
    found
        Raw values, with the granule's packing and fill value.
    variable
        The collection's dtype, packing and fill value.

    Returns
    -------
    ndarray
        The same shape, ``variable.numpy_dtype``; the granule's own array where nothing differs.

    Raises
    ------
    RecodeError
        If a value would be lost, or changed by more than half a unit of the granule's packing.
    """
    ours, theirs = Packing.of(variable.attributes), Packing.of(found.attributes)
    missing = is_fill(found.values, found.fill_value)
    if ours == theirs:
        values = _cast(found.values, missing, variable)
    else:
        values = _repack(found.values, missing, variable.numpy_dtype, theirs=theirs, ours=ours)
    return _translate(values, missing, found, variable)


def is_fill(values: npt.NDArray[Any], fill_value: Scalar | None) -> npt.NDArray[np.bool_]:
    """Tell where values are the fill value; NaN is equal to NaN."""
    if fill_value is None or isinstance(fill_value, str):
        return np.zeros(values.shape, dtype=bool)
    if _is_nan(fill_value):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    return np.asarray(values == fill_value)


def _cast(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], variable: Variable) -> npt.NDArray[Any]:
    target = variable.numpy_dtype
    if values.dtype == target:
        return values
    if not np.can_cast(values.dtype, target, "safe"):
        raise RecodeError(
            f"dtype {values.dtype.name}",
            f"dtype {target.name}, to which it cannot be cast safely",
            "convert it, or create the collection with the wider dtype",
        )
    cast = values.astype(target)
    if target.kind == "f" and values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        _check_exact(values, missing, target)
    return cast


def _check_exact(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], target: np.dtype[Any]) -> None:
    """numpy calls the cast from 64-bit integers to float64 safe; beyond 2**53 it is not."""
    kept = values[~missing]
    if kept.size and (int(kept.max()) > _EXACT or int(kept.min()) < -_EXACT):
        raise RecodeError(
            f"{values.dtype.name} values up to {int(kept.max())}",
            f"dtype {target.name}, which is exact to 2**53 only",
            "create the collection with the integer dtype",
        )


def _repack(
    values: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_],
    target: np.dtype[Any],
    *,
    theirs: Packing,
    ours: Packing,
) -> npt.NDArray[Any]:
    if values.dtype.kind == "f" and target.kind != "f":
        raise RecodeError(
            f"dtype {values.dtype.name} with {theirs}",
            f"dtype {target.name} with {ours}",
            "pack it as the collection is",
        )
    if values.dtype.kind in "iu":
        _check_exact(values, missing, np.dtype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        decoded = np.where(missing, ours.offset, values.astype(np.float64) * theirs.scale + theirs.offset)
        packed = _round_to((decoded - ours.offset) / ours.scale, target, ours)
        restored = packed.astype(np.float64) * ours.scale + ours.offset
        changed = np.abs(restored - decoded) > _tolerance(values, decoded, theirs, ours)
    if changed.any():
        first = np.unravel_index(int(np.argmax(changed)), changed.shape)
        raise RecodeError(
            f"{theirs}, and {decoded[first]!r} at {tuple(map(int, first))}",
            f"{ours}, with which that becomes {restored[first]!r}",
            "this loses more than half a unit: create the collection with the finer packing",
        )
    return packed


def _tolerance(
    values: npt.NDArray[Any], decoded: npt.NDArray[np.float64], theirs: Packing, ours: Packing
) -> npt.NDArray[np.float64]:
    """Half a unit of the granule's packing, or the resolution of its floats; and the rounding of float64."""
    noise = 8 * np.finfo(np.float64).eps * (np.abs(decoded) + abs(ours.offset))
    own = abs(theirs.scale) / 2 if values.dtype.kind != "f" else np.finfo(values.dtype).eps * np.abs(decoded)
    return np.asarray(own + noise)


def _round_to(encoded: npt.NDArray[np.float64], target: np.dtype[Any], ours: Packing) -> npt.NDArray[Any]:
    if target.kind == "f":
        return encoded.astype(target)
    rounded = np.rint(encoded)
    bounds = np.iinfo(target)
    # The upper bound of 64-bit integers has no float64; the next number above it is the first that overflows.
    overflow = (rounded < bounds.min) | (rounded >= float(bounds.max) + (bounds.max < _EXACT))
    if overflow.any():
        first = np.unravel_index(int(np.argmax(overflow)), overflow.shape)
        raise RecodeError(
            f"the value {encoded[first] * ours.scale + ours.offset!r} at {tuple(map(int, first))}",
            f"{target.name} with {ours}, which it overflows",
            "create the collection with a wider dtype",
        )
    return rounded.astype(target)


def _translate(
    values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], found: GranuleVariable, variable: Variable
) -> npt.NDArray[Any]:
    """Put the collection's fill value where the granule has its own."""
    ours = variable.fill_value
    present = is_fill(values, ours) & ~missing
    if present.any() and not _is_nan(ours):
        raise RecodeError(
            f"{int(present.sum())} values {ours!r} that are not missing (its fill value is {found.fill_value!r})",
            f"fill value {ours!r}, which would make them missing",
            "create the collection with another fill value",
        )
    if not missing.any() or (_same(ours, found.fill_value) and values is found.values):
        return values
    if ours is None:
        if values.dtype.kind != "f":
            raise RecodeError(
                f"{int(missing.sum())} missing values ({found.fill_value!r})",
                "no fill value",
                "create the collection with a fill value",
            )
        ours = float("nan")
    return np.where(missing, np.asarray(ours, dtype=values.dtype), values)


def _same(first: Scalar | None, second: Scalar | None) -> bool:
    return first == second or (_is_nan(first) and _is_nan(second))


def _is_nan(value: Scalar | None) -> bool:
    return isinstance(value, float) and math.isnan(value)
