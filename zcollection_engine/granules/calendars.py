"""Calendars of CF times, and how far apart the reference times of two units are.

Source: CF Metadata Conventions 1.11, section 4.4.1 "Calendar".
"""

from __future__ import annotations

import cftime

from zcollection_engine.granules.timeunits import DAY, SECOND, TimeUnits, UnitsError

#: Calendars whose days are days: a date in them is an instant.
REAL_CALENDARS = frozenset({"standard", "proleptic_gregorian", "julian"})
#: Calendars of models: a date in them is a label.
ARTIFICIAL_CALENDARS = frozenset({"noleap", "all_leap", "360_day"})

_SPELLINGS = {
    "": "standard",
    "none": "standard",
    "gregorian": "standard",
    "365_day": "noleap",
    "366_day": "all_leap",
}
#: Calendars in which the year 1 follows the year -1.
_WITHOUT_YEAR_ZERO = frozenset({"standard", "julian"})


def normal_calendar(calendar: object) -> str:
    """Return the one name of a calendar; None is CF's default. An unknown one is returned in lower case."""
    name = "" if calendar is None else str(calendar).strip().lower()
    return _SPELLINGS.get(name, name)


def count_from(units: TimeUnits, calendar: str) -> int:
    """Return the nanoseconds from the calendar's day number 0 to the reference time of units.

    Day numbers of all real calendars are Julian day numbers, so that times of two of them can be compared; those of an
    artificial calendar are its own.

    Parameters
    ----------
    units
        Parsed.
    calendar
        A normal name.

    Raises
    ------
    UnitsError
        For an unknown calendar, or a reference date that does not exist in it.
    """
    if calendar not in REAL_CALENDARS | ARTIFICIAL_CALENDARS:
        raise UnitsError(f"{calendar!r} is not one of CF's calendars")
    year, month, day, hour, minute, second = units.reference
    if year < 1 and calendar in _WITHOUT_YEAR_ZERO:
        raise UnitsError(f"years before 1 have no agreed number in the calendar {calendar!r}")
    try:
        date = cftime.datetime(year, month, day, calendar=calendar)
    except ValueError as error:
        raise UnitsError(f"the reference date does not exist in the calendar {calendar!r} ({error})") from error
    return int(date.toordinal()) * DAY + (3_600 * hour + 60 * minute + second) * SECOND + units.offset
