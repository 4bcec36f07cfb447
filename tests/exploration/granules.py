"""Granules for the exploration, and what a set of them must give: plain Python, none of the engine's merging.

Source of the rule (``time_series``): in each partition a granule owns the closed interval from its first to its last
time; a row stays unless it lies in the interval of a granule of higher rank; rows are ordered by time, then by rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tests.engine_support import DAY, DAY_16, DAY_17, START, small_schema
from zcollection_engine.config import CollectionConfig
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.identity import GranuleIdentity
from zcollection_engine.ingest import prepare
from zcollection_engine.merging import TimeSeries
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.transaction import Offer

CHUNK_ROWS = 2
PATHS = (DAY_16, DAY_17)
DAY_SECONDS = DAY // 10**9
FILL = 2**31 - 1

#: Time, stored height, id of the granule.
Row = tuple[int, int, int]
Contents = Mapping[str, tuple[Row, ...]]


def configuration(zarr_format: int = 3) -> CollectionConfig:
    schema = replace(small_schema(chunk_rows=CHUNK_ROWS), zarr_format=zarr_format)
    return CollectionConfig(schema, DatePartitioning("time", "day"), TimeSeries())


@dataclass(frozen=True)
class Specimen:
    """A granule by its essentials; rows lie at whole ``seconds`` after `START`.

    Attributes
    ----------
    number
        Distinguishes the stored heights of all granules; 0 stores fill values.
    version
        Of the object under ``key``.
    """

    key: str
    version: int
    precedence: int
    number: int
    seconds: tuple[int, ...]

    @property
    def heights(self) -> tuple[int, ...]:
        return tuple(self.number * 1000 + i if self.number else FILL for i, _ in enumerate(self.seconds))

    @property
    def rank(self) -> tuple[int, str, int]:
        return self.precedence, self.key, self.version

    @property
    def id(self) -> int:
        return _identity(self).id


#: A granule that is in, and the partitions in which it still has its share.
Member = tuple[Specimen, frozenset[str]]


def _identity(specimen: Specimen) -> GranuleIdentity:
    return GranuleIdentity("bucket", specimen.key, f"version-{specimen.version}", 100)


@lru_cache(maxsize=20_000)
def offer_of(specimen: Specimen) -> Offer:
    """The granule as the engine takes it."""
    columns = {
        "time": np.array([START + s * 10**9 for s in specimen.seconds], "<i8"),
        "height": np.array(specimen.heights, "<i4"),
    }
    schema = configuration().schema
    variables = {
        name: GranuleVariable(("time",), values, schema[name].attributes, schema[name].fill_value)
        for name, values in columns.items()
    }
    granule = Granule(specimen.key, "time", "time", variables)
    entry, conformed = prepare(
        granule,
        configuration(),
        identity=_identity(specimen),
        url=f"s3://bucket/{specimen.key}",
        precedence=(specimen.precedence,),
        immutable={},
    )
    return Offer(entry, conformed)


def newest(specimens: Iterable[Specimen]) -> frozenset[Specimen]:
    """The versions that stay: of each key the one of the highest rank."""
    found: dict[str, Specimen] = {}
    for specimen in specimens:
        if specimen.key not in found or found[specimen.key].rank < specimen.rank:
            found[specimen.key] = specimen
    return frozenset(found.values())


@lru_cache(maxsize=20_000)
def contents(members: frozenset[Member]) -> Contents:
    """What each partition must hold for a set of granules, partitions without rows left out."""
    ranked = sorted(members, key=lambda member: member[0].rank)
    found = {}
    for day, path in enumerate(PATHS):
        rows: list[tuple[int, int, Row]] = []
        shares = [_share(specimen, day) if path in paths else [] for specimen, paths in ranked]
        for rank, share in enumerate(shares):
            higher = [(other[0][0], other[-1][0]) for other in shares[rank + 1 :] if other]
            rows += [(row[0], rank, row) for row in share if not any(lo <= row[0] <= hi for lo, hi in higher)]
        if rows:
            found[path] = tuple(row for _, _, row in sorted(rows))
    return found


def whole(specimens: Iterable[Specimen]) -> frozenset[Member]:
    """Granules none of whose partitions was dropped."""
    return frozenset((specimen, frozenset(PATHS)) for specimen in specimens)


def _share(specimen: Specimen, day: int) -> list[Row]:
    return [
        (START + second * 10**9, height, specimen.id)
        for second, height in zip(specimen.seconds, specimen.heights, strict=True)
        if second // DAY_SECONDS == day
    ]
