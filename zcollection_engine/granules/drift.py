"""What a collection does with a granule that departs from its schema: one choice for each kind of drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints

from zcollection_engine.errors import FormatError, InvalidInputError


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """One choice for each kind of drift. "reject" refuses the granule with `SchemaMismatchError`.

    Attributes
    ----------
    missing
        The granule lacks a row variable of the collection. "fill" stores the collection's fill value in its rows: the
        declared one, or else NaN for floats and "" for text. The axis, and the variables that decide where a row
        belongs, may never be missing.
    new
        The granule has a variable that the collection lacks. "ignore" leaves it out; "add" adds it, if it has rows, to
        the collection.
    dtype
        A numeric variable has another dtype. "cast" takes it where every value is kept.
    packing
        Another ``scale_factor`` or ``add_offset``. "re-encode" decodes and encodes again, within half a unit of the
        granule's own packing.
    size
        A dimension other than the partitioned one is shorter. "pad" appends fill values. A longer one never fits.
    units
        Other units. "convert" converts where their meaning is known exactly (`zcollection_engine.granules.units`),
        within half a unit of the granule's own packing. Another spelling of the same units is no drift.
    immutable
        A variable without the partitioned dimension has other values than the collection stored. "keep" keeps those
        stored.
    """

    missing: Literal["fill", "reject"] = "reject"
    new: Literal["ignore", "add", "reject"] = "ignore"
    dtype: Literal["cast", "reject"] = "cast"
    packing: Literal["re-encode", "reject"] = "re-encode"
    size: Literal["pad", "reject"] = "reject"
    units: Literal["convert", "reject"] = "convert"
    immutable: Literal["keep", "reject"] = "reject"

    def __post_init__(self) -> None:
        for kind, choices in CHOICES.items():
            if getattr(self, kind) not in choices:
                raise InvalidInputError(
                    f"drift policy {kind!r} is {getattr(self, kind)!r}; choose one of {', '.join(choices)}"
                )

    def to_json(self) -> dict[str, str]:
        """Return every choice by its kind, defaults too."""
        return asdict(self)


#: The choices for each kind of drift.
CHOICES: Mapping[str, tuple[str, ...]] = {
    kind: get_args(choices) for kind, choices in get_type_hints(DriftPolicy).items()
}

#: The policy of a collection for which none was chosen.
DEFAULT_POLICY = DriftPolicy()


def policy_from_json(data: Mapping[str, Any]) -> DriftPolicy:
    """Read a policy; what ``data`` does not tell has its default.

    Raises
    ------
    FormatError
        For a kind of drift or a choice that this version does not know.
    """
    for kind, choice in data.items():
        if kind not in CHOICES:
            raise FormatError(f"drift policy {kind!r} is not known to this version; there are {', '.join(CHOICES)}")
        if choice not in CHOICES[kind]:
            raise FormatError(
                f"drift policy {kind!r} is {choice!r}, which is not known to this version; there are "
                f"{', '.join(CHOICES[kind])}"
            )
    return DriftPolicy(**data)


def remedy(kind: str) -> str:
    """Return the end of an error's advice: which choices would allow this kind of drift."""
    choices = " or ".join(repr(choice) for choice in CHOICES[kind] if choice != "reject")
    return f"the drift policy {kind} = {choices} would allow it"
