"""Which partition a row belongs to.

Paths are Hive names: ``year=2023/month=12/day=16`` (year four digits, the others two), ``cycle=114/pass=99``
(unpadded integers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zcollection_engine.errors import FormatError, InvalidGranuleError, InvalidInputError

Rows = npt.NDArray[np.intp]

#: What numpy takes for "not a time".
_NAT = np.iinfo(np.int64).min

RESOLUTIONS = {"year": "Y", "month": "M", "day": "D", "hour": "h", "minute": "m", "second": "s"}


class Partitioning(Protocol):
    """A rule that gives each row its partition."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Paths of the row variables the rule reads."""

    def split(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Rows]:
        """Map each partition path to the numbers of its rows, in the order of the input."""

    def keys(self, path: str) -> tuple[tuple[str, int], ...]:
        """Parse a partition path strictly; raises `InvalidInputError`."""

    def to_json(self) -> dict[str, Any]:
        """The rule as written to ``_zcollection.json``."""


@dataclass(frozen=True, slots=True)
class DatePartitioning:
    """By the calendar date (proleptic Gregorian, as the data have it) of one time variable.

    Parameters
    ----------
    variable
        Path of a variable of int64 nanoseconds since 1970-01-01.
    resolution
        "year", "month", "day", "hour", "minute" or "second".
    """

    variable: str
    resolution: str

    def __post_init__(self) -> None:
        if self.resolution not in RESOLUTIONS:
            raise InvalidInputError(f"resolution {self.resolution!r} is unknown; use one of {', '.join(RESOLUTIONS)}")

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    @property
    def parts(self) -> tuple[str, ...]:
        names = tuple(RESOLUTIONS)
        return names[: names.index(self.resolution) + 1]

    def split(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Rows]:
        nanoseconds = columns[self.variable].astype(np.int64)
        if (nanoseconds == _NAT).any():
            raise InvalidGranuleError(
                f"variable {self.variable!r} holds NaT, which belongs to no partition; drop those rows"
            )
        # Whole seconds first: numpy's own conversion to coarser units wraps around in the first day it can hold.
        seconds = (nanoseconds // 1_000_000_000).astype("datetime64[s]")
        periods = seconds.astype(f"datetime64[{RESOLUTIONS[self.resolution]}]")
        return {self._path(period): rows for period, rows in _groups(periods)}

    def keys(self, path: str) -> tuple[tuple[str, int], ...]:
        keys = _parse(path, self.parts)
        self._period(path, keys)
        if self._join(keys) != path:
            raise InvalidInputError(f"{path!r} is not spelt as a partition; {self._join(keys)!r} is")
        return keys

    def period(self, path: str) -> tuple[np.datetime64, np.datetime64]:
        """First instant of the partition and first instant after it, datetime64[ns].

        Raises `InvalidInputError` for a path that is none, or whose bounds nanoseconds cannot hold.
        """
        first = self._period(path, self.keys(path))
        step = np.timedelta64(1, RESOLUTIONS[self.resolution])  # type: ignore[call-overload]
        bounds = [edge.astype("datetime64[s]").astype(np.int64) for edge in (first, first + step)]
        if min(bounds) <= _NAT // 10**9 or max(bounds) > np.iinfo(np.int64).max // 10**9:
            raise InvalidInputError(f"{path!r} reaches beyond the years 1677 to 2262, which nanoseconds can hold")
        low, high = ((b * 10**9).astype("datetime64[ns]") for b in bounds)
        return low, high

    def to_json(self) -> dict[str, Any]:
        return {"name": "date", "variable": self.variable, "resolution": RESOLUTIONS[self.resolution]}

    def _path(self, period: np.datetime64) -> str:
        text = str(period.astype("datetime64[s]"))
        numbers = [int(n) for n in re.fullmatch(r"(-?\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)", text).groups()]  # type: ignore[union-attr]
        return self._join(tuple(zip(self.parts, numbers, strict=False)))

    def _period(self, path: str, keys: tuple[tuple[str, int], ...]) -> np.datetime64:
        template = ("{:04d}", "-{:02d}", "-{:02d}", "T{:02d}", ":{:02d}", ":{:02d}")
        text = "".join(form.format(value) for form, (_, value) in zip(template, keys, strict=False))
        if self.resolution == "hour":
            text += ":00"
        try:
            return np.datetime64(text, RESOLUTIONS[self.resolution])  # type: ignore[call-overload,no-any-return]
        except ValueError as error:
            raise InvalidInputError(f"{path!r} is no date: {error}") from error

    @staticmethod
    def _join(keys: tuple[tuple[str, int], ...]) -> str:
        return "/".join(f"{name}={value:0{4 if name == 'year' else 2}d}" for name, value in keys)


@dataclass(frozen=True, slots=True)
class SequencePartitioning:
    """By the values of one or more integer variables, such as cycle and pass.

    Parameters
    ----------
    names
        Paths of the variables, the outermost folder first.
    size
        So many values of the last variable make one partition, named by the first of them; None: each its own.
    start
        First value of a group, for a ``size``.
    """

    names: tuple[str, ...]
    size: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        if not self.names:
            raise InvalidInputError("a partitioning by sequence needs at least one variable")
        if self.size is not None and self.size < 2:
            raise InvalidInputError(f"size is {self.size}; a group of a partitioning by sequence has at least 2 values")

    @property
    def variables(self) -> tuple[str, ...]:
        return self.names

    def split(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Rows]:
        for name in self.names:
            _check_sequence(name, columns[name])
        stacked = np.stack([columns[name].astype(np.int64) for name in self.names], axis=1)
        if self.size is not None:
            stacked[:, -1] -= self._places(stacked[:, -1])
        values, inverse = np.unique(stacked, axis=0, return_inverse=True)
        return {
            self._join(tuple(zip(self._leaves, values[code], strict=True))): rows
            for code, rows in _groups(inverse.reshape(-1))
        }

    def _places(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How far each number lies behind the first one of its group; no step leaves int64."""
        size = self.size or 1
        places = (numbers % size - self.start % size) % size
        beyond = numbers < np.iinfo(np.int64).min + places
        if beyond.any():
            raise InvalidGranuleError(
                f"variable {self.names[-1]!r} holds {numbers[beyond][0]}; the group it belongs to begins below"
                f" {np.iinfo(np.int64).min}, the smallest number of a partition"
            )
        return places

    @property
    def _leaves(self) -> tuple[str, ...]:
        return tuple(name.rpartition("/")[2] for name in self.names)

    def keys(self, path: str) -> tuple[tuple[str, int], ...]:
        keys = _parse(path, self._leaves)
        if self._join(keys) != path:
            raise InvalidInputError(f"{path!r} is not spelt as a partition; {self._join(keys)!r} is")
        if self.size is not None and (keys[-1][1] - self.start) % self.size:
            raise InvalidInputError(
                f"{path!r} is no partition: its last number is not {self.start} plus a multiple of {self.size}"
            )
        return keys

    def to_json(self) -> dict[str, Any]:
        if self.size is None:
            return {"name": "sequence", "variables": list(self.names)}
        return {"name": "grouped-sequence", "variables": list(self.names), "size": self.size, "start": self.start}

    @staticmethod
    def _join(keys: tuple[tuple[str, int], ...]) -> str:
        return "/".join(f"{name}={value}" for name, value in keys)


def partitioning_from_json(data: Mapping[str, Any]) -> Partitioning:
    """Read the rule from ``_zcollection.json``; raises `FormatError` for a rule this version does not know."""
    try:
        match data.get("name"):
            case "date":
                long = {short: name for name, short in RESOLUTIONS.items()}
                return DatePartitioning(data["variable"], long[data["resolution"]])
            case "sequence":
                return SequencePartitioning(tuple(data["variables"]))
            case "grouped-sequence":
                return SequencePartitioning(tuple(data["variables"]), data["size"], data["start"])
            case name:
                raise FormatError(f"partitioning {name!r} is not known to this version; use a newer zcollectiond")
    except KeyError as error:
        raise FormatError(f"partitioning {dict(data)}: {error} is missing or unknown") from error


def _check_sequence(name: str, column: npt.NDArray[Any]) -> None:
    if column.dtype.kind not in "iu":
        raise InvalidInputError(
            f"variable {name!r} has dtype {column.dtype}; a partitioning by sequence needs integers"
        )
    if column.dtype.kind == "u" and column.size and int(column.max()) > np.iinfo(np.int64).max:
        raise InvalidGranuleError(
            f"variable {name!r} holds {column.max()}; a partition's number is at most {np.iinfo(np.int64).max}"
        )


def _groups(codes: npt.NDArray[Any]) -> list[tuple[Any, Rows]]:
    """Row numbers of each distinct value, values ascending, row numbers ascending."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if codes.size else np.empty(0, int)
    return [(ordered[start], rows) for start, rows in zip(starts, np.split(order, starts[1:]), strict=False)]


def _parse(path: str, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    parts = path.split("/")
    matches = [re.fullmatch(r"([^=]+)=(-?\d+)", part) for part in parts]
    found = tuple((m[1], int(m[2])) for m in matches if m)
    if tuple(name for name, _ in found) != names or len(parts) != len(names):
        raise InvalidInputError(f"{path!r} is not a partition path; expected {'/'.join(f'{n}=N' for n in names)}")
    return found
