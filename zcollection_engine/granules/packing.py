"""CF packing: how stored values stand for others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from zcollection_engine.granules.unitconversion import Conversion


class RecodeError(Exception):
    """Values cannot be kept as they are."""

    def __init__(self, found: str, expected: str, advice: str) -> None:
        super().__init__(f"{found}; {expected}; {advice}")
        self.found = found
        self.expected = expected
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Packing:
    """CF packing: value = stored * scale + offset (CF Metadata Conventions 1.11, section 8.1).

    Raises `RecodeError` for numbers that cannot be undone.
    """

    scale: float
    offset: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise RecodeError(
                f"scale_factor {self.scale} and add_offset {self.offset}",
                "a packing that can be undone",
                "correct them",
            )

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Packing:
        """Raises `RecodeError` for a packing that is not one."""
        scale, offset = (
            _number(key, attributes.get(key, default)) for key, default in (("scale_factor", 1), ("add_offset", 0))
        )
        return cls(scale, offset)

    def converted(self, conversion: Conversion) -> Packing:
        """Return the packing that gives the same stored values their meaning in other units.

        Raises `RecodeError` if its numbers overflow.
        """
        if conversion.is_identity:
            return self
        try:
            scale = float(Fraction(self.scale) * conversion.factor)
            offset = float(Fraction(self.offset) * conversion.factor + conversion.shift)
        except OverflowError:
            scale = offset = math.inf
        return Packing(scale, offset)

    def __str__(self) -> str:
        return f"scale_factor {self.scale!r} and add_offset {self.offset!r}"


#: Values that stand for themselves.
UNPACKED = Packing(1.0, 0.0)


def _number(key: str, value: Any) -> float:
    item = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    item = item[0] if isinstance(item, list) and len(item) == 1 else item
    if not isinstance(item, int | float):
        raise RecodeError(f"{key} {value!r}", "a number", "correct the attribute")
    return float(item)
