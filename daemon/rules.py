"""The engine's form of the settings that say how granules become rows."""

from __future__ import annotations

from daemon.settings_data import CollectionSettings
from daemon.settings_rules import DatePartitioningSettings
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.merging import Concat, Custom, Replace, Strategy, TimeSeries, Upsert
from zcollection_engine.partitioning import DatePartitioning, Partitioning, SequencePartitioning
from zcollection_engine.precedence import ByAttribute, ByKey, ByTime, Precedence


def partitioning_of(settings: CollectionSettings) -> Partitioning:
    """How rows are spread over partitions."""
    rule = settings.partitioning
    if isinstance(rule, DatePartitioningSettings):
        return DatePartitioning(rule.variable, rule.resolution)
    return SequencePartitioning(tuple(rule.variables), rule.size, rule.start)


def strategy_of(settings: CollectionSettings) -> Strategy:
    """Which rows stay where granules meet."""
    merge = settings.merge
    match merge.strategy:
        case "time_series":
            return TimeSeries(_nanoseconds(merge.tolerance_seconds))
        case "replace":
            return Replace()
        case "concat":
            return Concat()
        case "upsert":
            return Upsert(tuple(merge.key), _nanoseconds(merge.within_seconds))
        case "callable":
            return Custom(merge.function)


def precedence_of(settings: CollectionSettings) -> Precedence:
    """Which of two granules wins."""
    rule = settings.precedence
    match rule.by:
        case "time":
            return ByTime()
        case "key":
            return ByKey(rule.pattern, tuple(rule.order))
        case "attribute":
            given = {"pattern": rule.pattern} if rule.pattern else {}
            return ByAttribute(rule.attribute, order=tuple(rule.order), **given)


def drift_of(settings: CollectionSettings) -> DriftPolicy:
    """What happens to a granule that departs from the schema."""
    return DriftPolicy(**settings.drift.model_dump())


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)
