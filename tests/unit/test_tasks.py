"""What runs on a worker, called directly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.sources.base import ObjectRef, locate
from daemon.tasks import Proposal, ReadGranule, ReadRequest, entry_of, merge_partition, propose, read_granule
from tests.granules_twins import sentinel6_twin
from zcollection_engine import DatePartitioning, create_collection
from zcollection_engine.collection import Collection
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Grant
from zcollection_engine.errors import InvalidGranuleError, NotFoundError
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.stores.resolve import StorageOptions

SPEC = GranuleSpec("/data_01/time", include=("/data_01/*",))
DAY_17 = "year=2023/month=12/day=17"


def request(path: Path) -> ReadRequest:
    url = f"file://{path}"
    bucket, key = locate(url)
    return ReadRequest(ObjectRef(url, bucket, key), SPEC, StorageOptions())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "granule.nc"
    path.write_bytes(sentinel6_twin(100, rows=20).data)
    return path


@pytest.fixture
def collection(tmp_path: Path, source: Path) -> Collection:
    proposal = propose(request(source), None)
    assert isinstance(proposal, Proposal)
    return create_collection(f"file://{tmp_path}/s6a", proposal.schema, DatePartitioning("time", "day"))


def merge_of(read: ReadGranule, collection: Collection) -> PartitionJob:
    share = read.entry.shares[DAY_17]
    return PartitionJob(
        collection=collection.ref,
        token=1,
        seconds=60.0,
        attempt="0" * 32,
        partition=DAY_17,
        change=Change.APPEND,
        base=Version(-1, 0, 0),
        generation=0,
        owners=((read.entry.id, share.intervals),),
        inserted=(read.entry.id,),
    )


def test_a_granule_is_read_with_its_identity_and_its_share_in_every_partition(
    source: Path, collection: Collection
) -> None:
    read = read_granule(request(source), collection.ref)
    assert isinstance(read, ReadGranule)
    entry = entry_of(read)
    assert entry == read.entry
    assert read.entry.identity.size == source.stat().st_size
    assert {path: share.rows for path, share in read.entry.shares.items()} == {DAY_17: 20}


def test_errors_are_outcomes(tmp_path: Path, source: Path, collection: Collection) -> None:
    missing = read_granule(request(tmp_path / "gone.nc"), collection.ref)
    assert isinstance(missing, NotFoundError)
    assert entry_of(missing) is missing
    source.write_bytes(b"no granule")
    assert isinstance(read_granule(request(source), collection.ref), InvalidGranuleError)
    assert isinstance(propose(request(source), None), InvalidGranuleError)


def test_a_partition_is_merged_from_what_was_read(source: Path, collection: Collection) -> None:
    read = read_granule(request(source), collection.ref)
    assert isinstance(read, ReadGranule)
    CommitLog(collection.store).append(1, Grant("t", datetime(2024, 1, 1, tzinfo=UTC), "me", "s", 60.0, (DAY_17,)))
    result = merge_partition(merge_of(read, collection), [read])
    assert isinstance(result, JobResult)
    assert result.rows == 20


def test_a_read_repeated_on_another_version_is_not_merged_under_the_first_one_s_name(
    source: Path, collection: Collection
) -> None:
    # Dask repeats a read whose result it lost with a worker; the object may have changed, or be gone, by then.
    read = read_granule(request(source), collection.ref)
    assert isinstance(read, ReadGranule)
    job = merge_of(read, collection)
    source.write_bytes(sentinel6_twin(100, rows=21).data)
    again = read_granule(request(source), collection.ref)
    assert isinstance(again, ReadGranule)
    outcome = merge_partition(job, [again])
    assert isinstance(outcome, NotFoundError)
    assert "granule.nc" in outcome.message

    gone = NotFoundError("there is no object granule.nc")
    assert merge_partition(replace(job, attempt="1" * 32), [gone]) is gone
