"""Partitioned collections of Zarr groups with transactions. A synchronous library; it knows no daemon."""

from zcollection_engine.collection import Collection, Partition
from zcollection_engine.history import CommitInfo, Difference
from zcollection_engine.ingest import schema_of
from zcollection_engine.merging import TimeSeries
from zcollection_engine.opening import create_collection, open_collection
from zcollection_engine.partitioning import DatePartitioning, SequencePartitioning
from zcollection_engine.stores.resolve import StorageOptions
from zcollection_engine.transaction import Outcome, WriterOptions

__all__ = [
    "Collection",
    "CommitInfo",
    "DatePartitioning",
    "Difference",
    "Outcome",
    "Partition",
    "SequencePartitioning",
    "StorageOptions",
    "TimeSeries",
    "WriterOptions",
    "create_collection",
    "open_collection",
    "schema_of",
]
