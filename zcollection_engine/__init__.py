"""Partitioned collections of Zarr groups with transactions. A synchronous library; it knows no daemon."""

from zcollection_engine.collection import Collection
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.history import CommitInfo, Difference
from zcollection_engine.ingest import schema_of
from zcollection_engine.merging import Concat, Custom, Replace, TimeSeries, Upsert
from zcollection_engine.opening import create_collection, open_collection
from zcollection_engine.partitioning import DatePartitioning, SequencePartitioning
from zcollection_engine.precedence import ByAttribute, ByKey, ByTime
from zcollection_engine.sources import SourceExecutor
from zcollection_engine.stores.resolve import StorageOptions
from zcollection_engine.transaction import Outcome, WriterOptions
from zcollection_engine.view import Partition

__all__ = [
    "ByAttribute",
    "ByKey",
    "ByTime",
    "Collection",
    "CommitInfo",
    "Concat",
    "Custom",
    "DatePartitioning",
    "Difference",
    "DriftPolicy",
    "GranuleSpec",
    "Outcome",
    "Partition",
    "Replace",
    "SequencePartitioning",
    "SourceExecutor",
    "StorageOptions",
    "TimeSeries",
    "Upsert",
    "WriterOptions",
    "create_collection",
    "open_collection",
    "schema_of",
]
