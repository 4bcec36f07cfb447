"""The units of a CF time: a unit, and the reference time that it counts from.

Source: CF Metadata Conventions 1.11, section 4.4 "Time Coordinate", whose units are those of UDUNITS. Months and years
are refused, since their length is not fixed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SECOND = 1_000_000_000
DAY = 86_400 * SECOND

#: Nanoseconds of each unit.
NANOSECONDS = {
    "nanosecond": 1,
    "microsecond": 1_000,
    "millisecond": 1_000_000,
    "second": SECOND,
    "minute": 60 * SECOND,
    "hour": 3_600 * SECOND,
    "day": DAY,
}
_ABBREVIATIONS = {
    "ns": "nanosecond",
    "us": "microsecond",
    "microsec": "microsecond",
    "ms": "millisecond",
    "msec": "millisecond",
    "millisec": "millisecond",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "d": "day",
}
_NOT_FIXED = frozenset({"month", "year", "common_year"})

_UNITS = re.compile(r"\s*(?P<unit>.+?)\s+since\s+(?P<reference>.+?)\s*", re.IGNORECASE | re.DOTALL)
_REFERENCE = re.compile(
    r"(?P<year>[+-]?\d{1,5})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:[T\s]\s*(?P<hour>\d{1,2})(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:\.(?P<fraction>\d*))?)?)?)?"
    r"(?:\s*(?:Z|UTC|GMT)|(?:\s*(?P<sign>[+-])|\s+)(?P<zone_hour>\d{1,2})(?::?(?P<zone_minute>\d{2}))?)?",
    re.IGNORECASE,
)


class UnitsError(Exception):
    """Units that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class TimeUnits:
    """Units of a time, parsed.

    Attributes
    ----------
    unit
        Full name, singular: a key of `NANOSECONDS`.
    spelt_out
        Whether the source gave the full name.
    reference
        Year, month, day, hour, minute, second, in the axis's calendar.
    offset
        Nanoseconds to add to the reference: its fraction of a second, minus its time zone.
    """

    unit: str
    spelt_out: bool
    reference: tuple[int, int, int, int, int, int]
    offset: int

    @property
    def nanoseconds(self) -> int:
        """Nanoseconds of the unit."""
        return NANOSECONDS[self.unit]

    def spell(self) -> str:
        """Return the units as cftime reads them, with the reference to the microsecond."""
        year, month, day, hour, minute, second = self.reference
        shift, fraction = divmod(self.offset, SECOND)
        zone_hour, zone_minute = divmod(abs(shift) // 60, 60)
        zone = f" {'-' if shift > 0 else '+'}{zone_hour:02d}:{zone_minute:02d}" if shift else ""
        time = f"{hour:02d}:{minute:02d}:{second:02d}.{fraction // 1_000:06d}"
        return f"{self.unit}s since {year:04d}-{month:02d}-{day:02d} {time}{zone}"


def is_time_units(units: object) -> bool:
    """Tell whether units are those of a CF time ("... since ...")."""
    return isinstance(units, str) and " since " in units.lower()


def parse_time_units(units: str) -> TimeUnits:
    """Parse the units of a CF time.

    Raises
    ------
    UnitsError
        For an unknown unit, or a reference that is not "YYYY-MM-DD", optionally with a time and a time zone.
    """
    match = _UNITS.fullmatch(units)
    if match is None:
        raise UnitsError("units of a time are '<unit> since <date>'")
    unit, spelt_out = _parse_unit(match["unit"])
    reference, offset = _parse_reference(match["reference"])
    return TimeUnits(unit, spelt_out, reference, offset)


def _parse_unit(text: str) -> tuple[str, bool]:
    unit = text.lower()
    singular = unit.removesuffix("s")
    if singular in NANOSECONDS:
        return singular, True
    full = _ABBREVIATIONS.get(unit) or _ABBREVIATIONS.get(singular)
    if full is None:
        why = ", since its length is not fixed" if singular in _NOT_FIXED else ""
        raise UnitsError(f"{text!r} is not a unit of time from days to nanoseconds{why}")
    return full, False


def _parse_reference(text: str) -> tuple[tuple[int, int, int, int, int, int], int]:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise UnitsError(f"{text!r} is not a date 'YYYY-MM-DD hh:mm:ss'")
    parts = [int(match[key] or 0) for key in ("year", "month", "day", "hour", "minute", "second")]
    if parts[3] > 23 or parts[4] > 59 or parts[5] > 59:
        raise UnitsError(f"{text!r} has no valid time of day")
    zone = 60 * int(match["zone_hour"] or 0) + int(match["zone_minute"] or 0)
    if match["sign"] == "-":
        zone = -zone
    fraction = int((match["fraction"] or "").ljust(9, "0")[:9])
    reference = (parts[0], parts[1], parts[2], parts[3], parts[4], parts[5])
    return reference, fraction - 60 * zone * SECOND
