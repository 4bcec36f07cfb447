"""Merge strategies: which rows of which granules a partition keeps. Pure functions of sets, without I/O."""

from zcollection_engine.merging.custom import Custom
from zcollection_engine.merging.selection import Candidates, Selection, origins, select
from zcollection_engine.merging.shares import Change, Interval, Share, overlap, uncovered
from zcollection_engine.merging.strategies import Concat, Replace, TimeSeries, strategy_from_json
from zcollection_engine.merging.strategy import Rows, Strategy
from zcollection_engine.merging.upsert import Upsert

__all__ = [
    "Candidates",
    "Change",
    "Concat",
    "Custom",
    "Interval",
    "Replace",
    "Rows",
    "Selection",
    "Share",
    "Strategy",
    "TimeSeries",
    "Upsert",
    "origins",
    "overlap",
    "select",
    "strategy_from_json",
    "uncovered",
]
