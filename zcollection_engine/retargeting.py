"""What a collection becomes in another Zarr format: names, times, codecs, paths of partitions. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zcollection_engine.codecs import with_codecs
from zcollection_engine.config import CollectionConfig
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.layout.v2documents import NOT_A_TIME, TIME_CODES, time_code
from zcollection_engine.merging import Strategy, Upsert
from zcollection_engine.merging.shares import Share
from zcollection_engine.partitioning import DatePartitioning, Partitioning, SequencePartitioning
from zcollection_engine.schema import TIME_UNITS, Schema, Variable

Values = npt.NDArray[Any]

_LARGEST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Retarget:
    """What the collection becomes.

    Attributes
    ----------
    config
        Of the new collection.
    names
        New path of each variable, by its old one.
    factors
        By old path: what a time is multiplied with to be in nanoseconds.
    old
        Configuration of the old one.
    """

    config: CollectionConfig
    names: Mapping[str, str]
    factors: Mapping[str, int]
    old: CollectionConfig

    def path(self, path: str) -> str:
        """New path of a partition."""
        partitioning = self.config.partitioning
        if not isinstance(partitioning, SequencePartitioning):
            return path
        values = (value for _, value in self.old.partitioning.keys(path))
        leaves = (name.rpartition("/")[2] for name in partitioning.names)
        return "/".join(f"{leaf}={value}" for leaf, value in zip(leaves, values, strict=True))

    def values(self, path: str, values: Values) -> Values:
        """Values of a variable (named by its old path) as the new collection has them.

        Raises `InvalidInputError` for a time that nanoseconds cannot hold.
        """
        variable = self.config.schema[self.names[path]]
        found = np.asarray(values, variable.numpy_dtype)
        factor = self.factors.get(path)
        if factor is None:
            return found
        is_time = found != NOT_A_TIME
        beyond = found[is_time & ((found > _LARGEST // factor) | (found < -(_LARGEST // factor)))]
        if beyond.size:
            raise InvalidInputError(
                f"variable {path!r} holds {beyond.flat[0]} {self.old.schema[path].attributes['units']}, which"
                " nanoseconds since 1970 cannot hold"
            )
        return np.where(is_time, np.where(is_time, found, 0) * factor, NOT_A_TIME)

    def axis(self, bounds: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
        """Bounds of the axis in the new unit."""
        factor = self.factors.get(self.old.schema.axis)
        return bounds if bounds is None or factor is None else (bounds[0] * factor, bounds[1] * factor)

    def shares(self, shares: Mapping[str, Share]) -> dict[str, Share]:
        """What a granule has in the partitions, by their new paths."""
        return {self.path(path): share for path, share in shares.items()}


def retarget(old: CollectionConfig, zarr_format: int, *, keep_codecs: bool = False, rescale: bool = False) -> Retarget:
    """Decide what a collection becomes.

    Parameters
    ----------
    old
        Its configuration.
    zarr_format
        Of the new one. In Zarr v2 names are flat: "a/b" becomes "a_b".
    keep_codecs
        Whether variables keep their codecs; else they get the default ones of the format.
    rescale
        Whether plain times that count other units are turned into nanoseconds, as those of a tree of released
        zcollection must be; there must be no granules then, whose intervals count the old units.

    Raises
    ------
    InvalidInputError
        Naming the variables, if two of them get one name; for codecs that the format does not have.
    """
    schema = old.schema
    names = {path: path.replace("/", "_") if zarr_format == 2 else path for path in schema.by_path}
    counts = Counter(names.values())
    same = sorted(path for path, name in names.items() if counts[name] > 1)
    if same:
        raise InvalidInputError(f"in Zarr v2 names are flat: {', '.join(same)} would have one name; drop one of them")
    times = schema.variables if rescale else ()
    factors = {v.path: factor for v in times if (factor := _factor(v)) is not None}
    variables = tuple(_variable(v, names[v.path], v.path in factors, keep_codecs=keep_codecs) for v in schema.variables)
    made = replace(schema, axis=names[schema.axis], variables=variables, zarr_format=zarr_format)
    strategy = _strategy(old.strategy, names, made)
    partitioning = _partitioning(old.partitioning, names)
    config = CollectionConfig(with_codecs(made), partitioning, strategy, old.precedence, old.drift)
    return Retarget(config, names, factors, old)


def _factor(variable: Variable) -> int | None:
    """Nanoseconds in the unit of a plain time; None for nanoseconds themselves, and for what is no such time."""
    code = time_code(variable)
    if code is None or code == TIME_CODES[TIME_UNITS]:
        return None
    return int(np.timedelta64(1, code) / np.timedelta64(1, "ns"))  # type: ignore[call-overload]


def _variable(variable: Variable, name: str, is_rescaled: bool, *, keep_codecs: bool) -> Variable:
    attributes = {**variable.attributes, "units": TIME_UNITS} if is_rescaled else variable.attributes
    return replace(variable, path=name, attributes=attributes, codecs=variable.codecs if keep_codecs else None)


def _strategy(strategy: Strategy, names: Mapping[str, str], schema: Schema) -> Strategy:
    if isinstance(strategy, Upsert):
        return replace(strategy, key=tuple(names[path] for path in strategy.key)).bound(schema)
    return strategy.bound(schema)


def _partitioning(partitioning: Partitioning, names: Mapping[str, str]) -> Partitioning:
    match partitioning:
        case DatePartitioning():
            return replace(partitioning, variable=names[partitioning.variable])
        case SequencePartitioning():
            return replace(partitioning, names=_renamed(partitioning.names, names))
        case _:
            raise InvalidInputError(f"a partitioning {partitioning!r} cannot be converted")


def _renamed(paths: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names[path] for path in paths)
