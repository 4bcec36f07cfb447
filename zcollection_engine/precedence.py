"""Which of two granules wins where both have rows: the rule of a collection.

A rule gives each granule a tuple of numbers, the greater one wins. The time of the object always comes last, so that of
two versions the newer one wins; equal ones are told apart by their keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from zcollection_engine.errors import FormatError, InvalidGranuleError, InvalidInputError


class Precedence(Protocol):
    """A rule of precedence."""

    def of(self, key: str, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        """Numbers that come before the time of the object, always as many of them.

        Parameters
        ----------
        key
            Of the object.
        attributes
            Global attributes of the granule.

        Raises
        ------
        InvalidGranuleError
            If the rule cannot be applied; names key and value.
        """

    def to_json(self) -> dict[str, Any]:
        """The rule as recorded with the collection."""


@dataclass(frozen=True, slots=True)
class ByTime:
    """The newer object wins."""

    def of(self, key: str, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        return ()

    def to_json(self) -> dict[str, Any]:
        return {"by": "time"}


@dataclass(frozen=True, slots=True)
class ByKey:
    """The groups of a regular expression on the key decide, the first one first.

    Parameters
    ----------
    pattern
        Searched in the key; has at least one group.
    order
        Texts from the lowest to the highest ("NR", "ST", "NT"); a group that holds digits is a number.
    """

    pattern: str
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _compile(self.pattern)

    def of(self, key: str, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        return _numbers(self.pattern, self.order, key, f"{key}: the key")

    def to_json(self) -> dict[str, Any]:
        return {"by": "key", "pattern": self.pattern, "order": list(self.order)}


@dataclass(frozen=True, slots=True)
class ByAttribute:
    """A global attribute of the granule decides.

    Parameters
    ----------
    name
        Of the attribute: a whole number or a text.
    pattern
        Regular expression for a text, with at least one group; by default all of it.
    order
        As in `ByKey`.
    """

    name: str
    pattern: str = r"\A(.*)\Z"
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _compile(self.pattern)

    def of(self, key: str, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        value = attributes.get(self.name)
        if value is None:
            raise InvalidGranuleError(
                f"{key}: the global attribute {self.name!r}, which decides on precedence, is missing",
                reason="precedence",
            )
        text = str(int(value)) if isinstance(value, (float, np.floating)) and value.is_integer() else str(value)
        return _numbers(self.pattern, self.order, text, f"{key}: the global attribute {self.name!r} ({text!r})")

    def to_json(self) -> dict[str, Any]:
        return {"by": "attribute", "name": self.name, "pattern": self.pattern, "order": list(self.order)}


def precedence_from_json(data: Mapping[str, Any] | None) -> Precedence:
    """Read a rule; None is `ByTime`. Raises `FormatError` for one that this version does not know."""
    if data is None:
        return ByTime()
    match data.get("by"):
        case "time":
            return ByTime()
        case "key":
            return ByKey(data["pattern"], tuple(data["order"]))
        case "attribute":
            return ByAttribute(data["name"], data["pattern"], tuple(data["order"]))
        case name:
            raise FormatError(f"precedence by {name!r} is not known to this version; there are time, key and attribute")


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidInputError(f"precedence: {pattern!r} is no regular expression: {error}") from error
    if not compiled.groups:
        raise InvalidInputError(f"precedence: {pattern!r} has no group (...): what it holds decides")
    return compiled


def _numbers(pattern: str, order: tuple[str, ...], text: str, what: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise InvalidGranuleError(
            f"{what} does not match {pattern!r}, which decides on precedence; correct the rule, or route such"
            " granules elsewhere",
            reason="precedence",
        )
    return tuple(_number(group, order, what) for group in found.groups())


def _number(group: str | None, order: tuple[str, ...], what: str) -> int:
    if group in order:
        return order.index(group)
    if group is not None and re.fullmatch(r"-?[0-9]{1,18}", group.strip()):
        return int(group)
    raise InvalidGranuleError(
        f"{what}: {group!r} is neither a number nor one of {list(order)}, the order of precedence; add it there",
        reason="precedence",
    )
