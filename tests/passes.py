"""Small granules of satellite passes, and what a collection of them must hold.

The oracle is written row by row in plain Python and knows nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from tests.engine_support import START, Rows, heights, small_schema
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import Schema, Variable

#: Seconds of a day.
DAY = 86_400

PARTITIONING = DatePartitioning("time", "day")

BANDS = (1.0, 2.5, 4.0)
PER_VERSION = 1_000_000


@dataclass(frozen=True)
class Pass:
    """A granule: one row every ``step`` seconds from ``first`` on.

    The height of a row is its time, in seconds after `tests.engine_support.START`, and a million for each version.

    Attributes
    ----------
    name
        Its key. The same name with a higher version replaces it.
    version
        Its precedence.
    """

    name: str
    first: int
    rows: int
    version: int = 0
    step: int = 1

    @property
    def seconds(self) -> range:
        return range(self.first, self.first + self.rows * self.step, self.step)

    def dataset(self) -> xr.Dataset:
        """Return what is inserted; it fits `schema`."""
        rows = heights(self.seconds, offset=self.version * PER_VERSION)
        return rows.assign(band=("band", np.array(BANDS), {"units": "Hz"}))


def schema(chunk_rows: int) -> Schema:
    """Times, heights and origins of rows, and a variable that does not depend on rows."""
    band = Variable("band", "<f8", ("band",), (len(BANDS),), attributes={"units": "Hz"})
    return small_schema(chunk_rows=chunk_rows, extra=[band])


def immutable() -> Granule:
    """Return the values of the variable that does not depend on rows."""
    return Granule("first", "time", "time", {"band": GranuleVariable(("band",), np.array(BANDS), {"units": "Hz"})})


def partition_of(second: int) -> str:
    """Return the path of the partition that holds a row."""
    year, month, day = str(np.datetime64(START, "ns") + np.timedelta64(second, "s"))[:10].split("-")
    return f"year={year}/month={month}/day={day}"


def expected_rows(passes: Iterable[Pass]) -> dict[str, Rows]:
    """Return (seconds, height) of each row by partition: inside its period of a day the higher version wins."""
    latest = {each.name: each for each in sorted(passes, key=lambda p: p.version)}
    found: dict[str, Rows] = {}
    for each in sorted(latest.values(), key=lambda p: (p.version, p.name)):
        days: dict[str, list[int]] = {}
        for second in each.seconds:
            days.setdefault(partition_of(second), []).append(second)
        for path, seconds in days.items():
            found[path] = overlaid(found.get(path, []), each.version, seconds)
    return found


def overlaid(rows: Rows, version: int, seconds: Sequence[int]) -> Rows:
    """Return the rows of a partition after another pass, of a higher rank than all before, came into it."""
    kept = [row for row in rows if not seconds[0] <= row[0] <= seconds[-1]]
    return sorted([*kept, *((second, second + version * PER_VERSION) for second in seconds)])
