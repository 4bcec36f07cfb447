"""Turn the stored values of one packing, dtype, fill value and unit into those of another, without loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.granules.missing import is_any, marks, marks_in_common, translate
from zcollection_engine.granules.model import GranuleVariable
from zcollection_engine.granules.packing import UNPACKED, Packing, RecodeError
from zcollection_engine.granules.unitconversion import IDENTITY, Conversion
from zcollection_engine.schema import Scalar, Variable

#: Integers up to this are exact in float64.
_EXACT = 1 << 53
_INT64 = np.iinfo(np.int64)


def recode(found: GranuleVariable, variable: Variable, conversion: Conversion = IDENTITY) -> npt.NDArray[Any]:
    """Return the values of a numeric variable as a collection stores them.

    Integers that are not packed become others in other units by exact integer arithmetic where they can. All else is
    decoded and encoded again in float64.

    Parameters
    ----------
    found
        Raw values, with the granule's packing and fill value. ``missing_value`` means "missing" too; where it does so
        in the collection it stays. With ``_Unsigned`` on both sides signed integers stand for unsigned ones.
    variable
        The collection's dtype, packing and fill value.
    conversion
        From the granule's units to the collection's.

    Returns
    -------
    ndarray
        The same shape, ``variable.numpy_dtype``; the granule's own array where nothing differs.

    Raises
    ------
    RecodeError
        If a value would be lost, or changed by more than half a unit of the granule's packing; or changed at all, for
        an integer that counts from a reference time and is not packed.
    """
    stored = variable.numpy_dtype
    found, variable = _meant(found), _meant_target(variable)
    ours, theirs = Packing.of(variable.attributes), Packing.of(found.attributes).converted(conversion)
    kept = marks_in_common(found, variable) if ours == theirs else frozenset()
    missing = is_any(found.values, {found.fill_value, *marks(found.attributes)} - kept)
    if ours == theirs:
        values = _cast(found.values, missing, variable)
    elif _are_plain_integers(found, variable):
        values = _convert_integers(found.values, missing, variable.numpy_dtype, conversion)
    else:
        values = _repack(found.values, missing, variable.numpy_dtype, theirs=theirs, ours=ours)
    values = translate(values, missing, found, variable, kept=kept)
    return values if values.dtype == stored else values.view(stored)


def is_unsigned(attributes: Mapping[str, Any]) -> bool:
    """Tell whether signed integers stand for unsigned ones (attribute ``_Unsigned`` of the NetCDF Users Guide)."""
    return str(attributes.get("_Unsigned") or "false").strip().lower() != "false"


def _meant(found: GranuleVariable) -> GranuleVariable:
    """Return a variable with the unsigned integers that its values stand for."""
    size = found.values.dtype.itemsize
    if found.values.dtype.kind != "i" or not is_unsigned(found.attributes):
        return found
    fill, attributes = _meant_marks(found.fill_value, found.attributes, size)
    return replace(found, values=found.values.view(f"<u{size}"), fill_value=fill, attributes=attributes)


def _meant_target(variable: Variable) -> Variable:
    size = variable.numpy_dtype.itemsize
    if variable.numpy_dtype.kind != "i" or not is_unsigned(variable.attributes):
        return variable
    fill, attributes = _meant_marks(variable.fill_value, variable.attributes, size)
    return replace(variable, dtype=f"<u{size}", fill_value=fill, attributes=attributes)


def _meant_marks(
    fill_value: Scalar | None, attributes: Mapping[str, Any], size: int
) -> tuple[Scalar | None, dict[str, Any]]:
    wrap = 1 << (8 * size)
    fill = int(fill_value) % wrap if isinstance(fill_value, int) else fill_value
    return fill, {**attributes, "missing_value": [mark % wrap for mark in marks(attributes)]}


def _are_plain_integers(found: GranuleVariable, variable: Variable) -> bool:
    kinds = found.values.dtype.kind + variable.numpy_dtype.kind
    return set(kinds) <= set("iu") and Packing.of(found.attributes) == Packing.of(variable.attributes) == UNPACKED


def _convert_integers(
    values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], target: np.dtype[Any], conversion: Conversion
) -> npt.NDArray[Any]:
    """Convert between units; in float64 where a value is not whole in the wanted one and need not be."""
    present = values[~missing]
    if not present.size:
        return np.zeros(values.shape, target)
    lowest, highest = int(present.min()), int(present.max())
    divisor = math.lcm(conversion.factor.denominator, conversion.shift.denominator)
    times, plus = int(conversion.factor * divisor), int(conversion.shift * divisor)
    reached = (divisor, times, plus, highest, *(n * times + k for n in (lowest, highest) for k in (0, plus)))
    fits = all(_INT64.min <= number <= _INT64.max for number in reached)
    numbers = np.where(missing, present[0], values).astype(np.int64 if fits else object)
    scaled = np.asarray(numbers * times + plus, numbers.dtype)
    rest = np.asarray(scaled % divisor != 0, bool)
    if rest.any():
        if not conversion.whole:
            return _repack(values, missing, target, theirs=UNPACKED.converted(conversion), ours=UNPACKED)
        raise RecodeError(
            f"the value {int(numbers[rest][0])}",
            "whole numbers, and in its units that is none",
            "create the collection with the finer unit",
        )
    bounds = np.iinfo(target)
    for extreme in (lowest, highest):
        number = (extreme * times + plus) // divisor
        if not bounds.min <= number <= bounds.max:
            raise RecodeError(
                f"the value {extreme}, which is {number} in the collection's units",
                f"{target.name}, which it overflows",
                "create the collection with a wider dtype",
            )
    return np.asarray(scaled // divisor, numbers.dtype).astype(target)


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
    if target.kind == "b":
        raise RecodeError(f"a packing that is not {ours}", "dtype bool", "create the collection with a numeric dtype")
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
