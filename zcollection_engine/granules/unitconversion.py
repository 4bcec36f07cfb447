"""From the units of a granule's variable to those of the collection, by exact arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from zcollection_engine.granules.calendars import REAL_CALENDARS, count_from, normal_calendar
from zcollection_engine.granules.timeunits import TimeUnits, UnitsError, is_time_units, parse_time_units
from zcollection_engine.granules.units import parse_unit


@dataclass(frozen=True, slots=True)
class Conversion:
    """A linear conversion: value in the wanted units = value * factor + shift.

    Attributes
    ----------
    factor, shift
        Exact.
    whole
        Whether integers must become integers without rounding, as those that count from a reference time.
    """

    factor: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)
    whole: bool = False

    @property
    def is_identity(self) -> bool:
        return self.factor == 1 and self.shift == 0


IDENTITY = Conversion()

#: What CF calls a temperature's zero that does and one that does not count (section 3.1.2 "Temperature units").
_DIFFERENCE, _ON_SCALE = "temperature: difference", "temperature: on_scale"
#: Words that tell of a difference between values rather than of a value.
_OF_DIFFERENCES = re.compile(
    r"anomal|bias|correction|deviation|difference|error|gradient|increment|range|tendency|uncertaint|variance",
    re.IGNORECASE,
)


def conversion(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Conversion:
    """Return how values with the attributes ``found`` become values with the attributes ``wanted``.

    Times ("... since ...") are converted between units and reference times, of any two calendars whose dates are
    instants or of the same artificial calendar. Other units are those of `zcollection_engine.granules.units`. Without
    ``units`` a variable is a pure number, equal to units "1".

    Parameters
    ----------
    found, wanted
        Attributes of a variable: ``units``, and ``calendar`` for times; ``units_metadata``, ``standard_name``,
        ``long_name`` and ``cell_methods`` for temperatures.

    Raises
    ------
    UnitsError
        If there is none, or none that is known; the message says why.
    """
    theirs, ours = _text(found), _text(wanted)
    if is_time_units(theirs) and is_time_units(ours):
        return _time_conversion(found, wanted)
    if theirs == ours or {theirs, ours} <= {"", "1"}:
        return IDENTITY
    if is_time_units(theirs) or is_time_units(ours):
        raise UnitsError("only one of them is a time")
    if not theirs or not ours:
        raise UnitsError("one of them is not told")
    return _plain_conversion(found, wanted)


def _text(attributes: Mapping[str, Any]) -> str:
    units = attributes.get("units")
    return "" if units is None else " ".join(str(units).split())


def _plain_conversion(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Conversion:
    theirs, ours = parse_unit(_text(found)), parse_unit(_text(wanted))
    if theirs.powers != ours.powers:
        raise UnitsError("they measure different things")
    shift = theirs.shift - ours.shift
    if shift and _is_difference(found, wanted):
        shift = Fraction(0)
    return Conversion(theirs.factor / ours.factor, shift / ours.factor)


def _is_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether temperatures are differences, to which the zero of the scale does not matter."""
    told = {str(side["units_metadata"]).strip() for side in (found, wanted) if "units_metadata" in side}
    if told == {_DIFFERENCE}:
        return True
    descriptions = (str(side.get(key, "")) for side in (found, wanted) for key in _DESCRIPTIONS)
    if told and told != {_ON_SCALE}:
        raise UnitsError("the two disagree about units_metadata")
    if not told and any(_OF_DIFFERENCES.search(text) for text in descriptions):
        raise UnitsError(
            f"it may be a difference of temperatures, for which only units_metadata = {_DIFFERENCE!r} would be clear"
        )
    return False


_DESCRIPTIONS = ("standard_name", "long_name", "cell_methods")


def _time_conversion(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Conversion:
    calendars = normal_calendar(found.get("calendar")), normal_calendar(wanted.get("calendar"))
    try:
        theirs, ours = (parse_time_units(_text(side)) for side in (found, wanted))
        return _between(theirs, ours, calendars)
    except UnitsError:
        if _text(found) == _text(wanted) and calendars[0] == calendars[1]:
            return IDENTITY
        raise


def _between(theirs: TimeUnits, ours: TimeUnits, calendars: tuple[str, str]) -> Conversion:
    if calendars[0] != calendars[1] and not REAL_CALENDARS.issuperset(calendars):
        raise UnitsError(f"dates of the calendars {calendars[0]!r} and {calendars[1]!r} are not the same days")
    apart = count_from(theirs, calendars[0]) - count_from(ours, calendars[1])
    step = ours.nanoseconds
    return Conversion(Fraction(theirs.nanoseconds, step), Fraction(apart, step), whole=True)
