"""Units of measure: which mean the same, and how values of one become values of another.

A unit is a product of the units in a table with small integer powers, spelt as CF and UDUNITS do ("m s-1", "m/s",
"m.s-1", "kg m^-2"). Symbols are case-sensitive, names are not. What is not in the table is equal only to itself: a
conversion is never guessed.

Source: CF Metadata Conventions 1.11, section 3.1 "Units", and the spellings of UDUNITS 2; factors are those of the SI
(BIPM, The International System of Units, 9th edition, tables 2, 7 and 8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from zcollection_engine.granules.timeunits import NANOSECONDS, SECOND, UnitsError


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: value in base units = value * factor + shift.

    Attributes
    ----------
    factor, shift
        Exact, except that angles in degrees have the float64 nearest to pi in their factor.
    powers
        Base units with their powers, none of them 0; empty for pure numbers.
    """

    factor: Fraction
    shift: Fraction = Fraction(0)
    powers: frozenset[tuple[str, int]] = frozenset()


_PREFIXES = {
    "M": ("mega", 6),
    "k": ("kilo", 3),
    "h": ("hecto", 2),
    "d": ("deci", -1),
    "c": ("centi", -2),
    "m": ("milli", -3),
    "u": ("micro", -6),
    "n": ("nano", -9),
}
#: Both Unicode signs of "micro", and raised figures.
_PLAIN = str.maketrans({"µ": "u", "μ": "u", "⁻": "-", "¹": "1", "²": "2", "³": "3"})


def _base(name: str, factor: Fraction | int = 1, shift: Fraction | int = 0) -> Unit:
    return Unit(Fraction(factor), Fraction(shift), frozenset({(name, 1)}))


def _multiply(unit: Unit, factor: Unit, power: int) -> Unit:
    powers = dict(unit.powers)
    for name, exponent in factor.powers:
        powers[name] = powers.get(name, 0) + exponent * power
    return Unit(unit.factor * factor.factor**power, powers=frozenset(item for item in powers.items() if item[1]))


_ONE = Unit(Fraction(1))
_PERCENT = Unit(Fraction(1, 100))
_DEGREE = _base("rad", Fraction(math.pi) / 180)
_CELSIUS = _base("K", 1, Fraction(27315, 100))


def _prefixed(symbol: str, names: Iterable[str], unit: Unit, prefixes: str) -> Iterator[tuple[str, str, Unit]]:
    """Iterate over symbol, name and unit, first without prefix and then with each."""
    for name in names:
        yield symbol, name, unit
        for letter in prefixes:
            word, power = _PREFIXES[letter]
            yield letter + symbol, word + name, Unit(unit.factor * Fraction(10) ** power, powers=unit.powers)


def _tables() -> tuple[Mapping[str, Unit], Mapping[str, Unit]]:
    """Units by symbol, and by name in lower case."""
    symbols: dict[str, Unit] = {}
    names: dict[str, Unit] = {}
    for symbol, spelt, unit, prefixes in (
        ("m", ("metre", "meter"), _base("m"), "kdcmu"),
        ("g", ("gram",), _base("kg", Fraction(1, 1000)), "kmu"),
        ("Pa", ("pascal",), _base("Pa"), "kh"),
        ("bar", ("bar",), _base("Pa", 100_000), "dm"),
        ("Hz", ("hertz",), _multiply(_ONE, _base("s"), -1), "kM"),
    ):
        for short, name, made in _prefixed(symbol, spelt, unit, prefixes):
            symbols[short] = names[name] = names[f"{name}s"] = made
    for name, nanoseconds in NANOSECONDS.items():
        names[name] = names[f"{name}s"] = _base("s", Fraction(nanoseconds, SECOND))
    for short, name in (("s", "second"), ("ms", "millisecond"), ("us", "microsecond"), ("ns", "nanosecond")):
        symbols[short] = names[name]
    for short, name in (("min", "minute"), ("h", "hour"), ("d", "day")):
        symbols[short] = names[name]
    names |= {"sec": names["second"], "secs": names["second"], "hr": names["hour"], "hrs": names["hour"]}
    symbols |= {"rad": _base("rad"), "°": _DEGREE, "K": _base("K"), "°C": _CELSIUS, "%": _PERCENT, "1": _ONE}
    names |= dict.fromkeys(("radian", "radians"), symbols["rad"])
    names |= dict.fromkeys(_degrees(), _DEGREE)
    degrees = ("deg", "deg_", "degree", "degree_", "degrees", "degrees_")
    names |= dict.fromkeys(("kelvin", "kelvins", *(f"{start}k" for start in degrees)), symbols["K"])
    names |= dict.fromkeys((f"{start}c" for start in degrees), _CELSIUS)
    names |= dict.fromkeys((f"{start}celsius" for start in ("", *degrees)), _CELSIUS)
    names |= {"percent": _PERCENT, "count": _ONE, "counts": _ONE}
    return symbols, names


def _degrees() -> Iterator[str]:
    """Names of a degree; "north" and "east" say what it measures, not how large it is."""
    yield from ("deg", "degs", "arc_degree", "arc_degrees")
    for start in ("degree", "degrees"):
        yield start
        yield from (f"{start}{end}" for end in ("n", "_n", "_north", "e", "_e", "_east"))


_SYMBOLS, _NAMES = _tables()

_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?:[eE][+-]?\d{1,2})?(?![\w.])")
_FACTOR = re.compile(r"([A-Za-z°%_]+)(?:(?:\^|\*\*)?([+-]?\d))?")
_DIVIDED = re.compile(r"\s*/\s*|\s+per\s+", re.IGNORECASE)
_TIMES = re.compile(r"\s*[.*·]\s*|\s+")


def parse_unit(text: str) -> Unit:
    """Parse units of measure.

    Raises
    ------
    UnitsError
        For a unit that is not in the table, and a spelling that can be read in two ways.
    """
    text = text.strip().translate(_PLAIN)
    named = _SYMBOLS.get(text) or _NAMES.get(re.sub(r"\s+", "_", text).lower())
    return named or _parse_product(text)


def _parse_product(text: str) -> Unit:
    unit, place = _parse_factor(text, 0)
    divided = False
    while place < len(text):
        divides = _DIVIDED.match(text, place)
        separator = divides or _TIMES.match(text, place)
        if separator is None or (divided and not divides):
            raise UnitsError(f"{text!r} is not a product of units that can be read in one way only")
        divided = divides is not None
        factor, place = _parse_factor(text, separator.end())
        unit = _multiply(unit, factor, -1 if divided else 1)
    return unit


def _parse_factor(text: str, place: int) -> tuple[Unit, int]:
    """Return the unit that begins at a place, and where it ends."""
    number = _NUMBER.match(text, place)
    if number and (value := Fraction(number[0])):
        return Unit(value), number.end()
    match = _FACTOR.match(text, place)
    found = match and (_SYMBOLS.get(match[1]) or _NAMES.get(match[1].lower()))
    if not match or not found:
        raise UnitsError(f"{text[place:]!r} does not begin with a unit that is known")
    if found.shift:
        raise UnitsError(f"{match[1]!r} has a zero of its own, so it has no products and no powers")
    return _multiply(_ONE, found, int(match[2] or 1)), match.end()
