"""The sections of the settings that say how granules become rows of a collection: partitions, merging, precedence,
drift.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from daemon.settings_sections import Section, Text, Texts


class DatePartitioningSettings(Section):
    """A partition for each calendar period (``year=2023/month=12/day=16``)."""

    by: Literal["date"]
    """Selects this kind of partitioning."""

    variable: Text
    """Name in the collection of the time variable that decides; the axis or another one of the rows."""

    resolution: Literal["year", "month", "day", "hour", "minute", "second"]
    """Period of one partition. Choose it so that a partition has some ten to some thousand granules."""


class SequencePartitioningSettings(Section):
    """A partition for each combination of values (``cycle_number=114/pass_number=99``)."""

    by: Literal["sequence"]
    """Selects this kind of partitioning."""

    variables: Texts = Field(min_length=1)
    """Integer row variables, the outermost folder first."""

    size: int | None = Field(default=None, ge=2)
    """So many values of the last variable share a partition, named by the first of them. Not set: each has its
    own."""

    start: int = 0
    """Where the first group of ``size`` values begins."""


PartitioningSettings = Annotated[DatePartitioningSettings | SequencePartitioningSettings, Field(discriminator="by")]


class MergeSettings(Section):
    """What happens where granules meet."""

    strategy: Literal["time_series", "replace", "concat", "upsert", "callable"] = "time_series"
    """``time_series``: a granule owns its interval of the axis; inside it, rows of older granules are dropped.
    ``replace``: a partition has the rows of its newest granule only. ``concat``: all rows of all. ``upsert``: one
    row for each key, that of the newest granule. ``callable``: a function of yours."""

    tolerance_seconds: float | None = Field(default=None, gt=0)
    """Of ``time_series``, in seconds; a longer gap between a granule's rows cuts its interval, and other granules'
    rows in the gap stay. Not set: the interval is never cut."""

    key: Texts = ()
    """Of ``upsert``: row variables that make the key. Empty: the axis."""

    within_seconds: float | None = Field(default=None, gt=0)
    """Of ``upsert``, in seconds: rows whose times lie no farther apart have the same key. The result then depends on
    the order in which granules come."""

    function: str = Field(default="", pattern=r"^$|^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Of ``callable``: ``module:function``, importable on the workers."""

    @model_validator(mode="after")
    def _options_belong_to_the_strategy(self) -> MergeSettings:
        owners = {
            "tolerance_seconds": "time_series",
            "key": "upsert",
            "within_seconds": "upsert",
            "function": "callable",
        }
        wrong = [name for name, owner in owners.items() if getattr(self, name) and owner != self.strategy]
        if wrong:
            raise ValueError(
                "\n".join(f"{name} is for the strategy {owners[name]!r}, not {self.strategy!r}" for name in wrong)
            )
        if self.strategy == "callable" and not self.function:
            raise ValueError("the strategy 'callable' needs function = \"module:function\"")
        return self


class PrecedenceSettings(Section):
    """Which of two granules wins; the newer object where this leaves it open."""

    by: Literal["time", "key", "attribute"] = "time"
    """``time``: the newer object wins. ``key``: what ``pattern`` finds in the object's key decides. ``attribute``: a
    global attribute of the granule decides."""

    pattern: str = ""
    """Regular expression whose groups (...) hold what decides, the first one first: numbers, or texts of ``order``.
    For ``attribute`` it may be left out: all of its text counts."""

    order: Texts = ()
    """Texts from the lowest to the highest."""

    attribute: str = ""
    """Name of the global attribute."""

    @model_validator(mode="after")
    def _rule_is_whole(self) -> PrecedenceSettings:
        if self.by == "key" and not self.pattern:
            raise ValueError("precedence by key needs a pattern")
        if self.by == "attribute" and not self.attribute:
            raise ValueError("precedence by attribute needs the attribute's name")
        if self.by == "time" and (self.pattern or self.order or self.attribute):
            raise ValueError('pattern, order and attribute are for by = "key" or by = "attribute"')
        if self.pattern:
            _check_pattern(self.pattern)
        return self


class DriftSettings(Section):
    """What happens to a granule that departs from the collection's schema; "reject" quarantines it."""

    missing: Literal["fill", "reject"] = "reject"
    """A variable is missing: its rows get the fill value."""

    new: Literal["ignore", "add", "reject"] = "ignore"
    """A variable is new: it is left out, or added to the collection, where older rows get its fill value. With "add",
    ``missing`` should be "fill", or a granule without the variable is in or not depending on which came first."""

    dtype: Literal["cast", "reject"] = "cast"
    """Another number type: values are cast where none is lost."""

    packing: Literal["re-encode", "reject"] = "re-encode"
    """Other packing: values are encoded again, within half a unit of the granule's own."""

    size: Literal["pad", "reject"] = "reject"
    """A dimension besides the rows is shorter: it is padded with fill values."""

    units: Literal["convert", "reject"] = "convert"
    """Other units: values are converted where plain arithmetic is exact."""

    immutable: Literal["keep", "reject"] = "reject"
    """A variable that is stored once has other values: those stored are kept."""


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if not groups:
        raise ValueError(f"pattern {pattern!r} has no group (...): what it holds decides")
