"""What runs on a worker, called directly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.routing import Router, Rule
from daemon.settings_data import CollectionSettings, GranuleSettings
from daemon.sources.base import ObjectRef
from daemon.tasks import (
    Founding,
    Proposal,
    ReadGranule,
    ReadRequest,
    entry_of,
    merge_partition,
    propose,
    read_granule,
    reread_granule,
)
from tests.granules_twins import sentinel6_twin
from tests.zarr_twins import FORMATS, MARKERS, Format, pack, write_twin
from zcollection_engine import DatePartitioning, create_collection
from zcollection_engine.codecs import parse_codecs
from zcollection_engine.collection import Collection
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Grant
from zcollection_engine.errors import InvalidGranuleError, NotFoundError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.jobs import JobResult, PartitionJob
from zcollection_engine.layout.documents import Version
from zcollection_engine.merging import Change
from zcollection_engine.stores.resolve import StorageOptions, locate

SPEC = GranuleSpec("/data_01/time", include=("/data_01/*",))
DAY_17 = "year=2023/month=12/day=17"
DAILY = DatePartitioning("time", "day")


def request(path: Path, spec: GranuleSpec = SPEC) -> ReadRequest:
    url = f"file://{path}"
    bucket, key = locate(url)
    return ReadRequest(ObjectRef(url, bucket, key), spec, StorageOptions())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "granule.nc"
    path.write_bytes(sentinel6_twin(100, rows=20).data)
    return path


@pytest.fixture
def collection(tmp_path: Path, source: Path) -> Collection:
    proposal = propose(request(source), Founding())
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


def merge_of_nothing(collection: Collection) -> PartitionJob:
    return PartitionJob(collection.ref, 1, 60.0, "0" * 32, DAY_17, Change.APPEND, Version(-1, 0, 0), 0, (), (1,))


def test_a_granule_is_read_with_its_identity_and_its_share_in_every_partition(
    source: Path, collection: Collection
) -> None:
    read = read_granule(request(source), collection.ref)
    assert isinstance(read, ReadGranule)
    entry = entry_of(read)
    assert entry == read.entry
    assert read.entry.identity.size == source.stat().st_size
    assert {path: share.rows for path, share in read.entry.shares.items()} == {DAY_17: 20}


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_zarr_directory_is_read_under_the_identity_of_its_marker_and_an_archive_under_its_own(
    tmp_path: Path, source: Path, collection: Collection, zarr_format: Format
) -> None:
    expected = read_granule(request(source), collection.ref)
    assert isinstance(expected, ReadGranule)
    folder = write_twin(sentinel6_twin(100, rows=20), tmp_path / "granule.zarr", zarr_format)
    archive = tmp_path / "granule.zip"
    archive.write_bytes(pack(folder))
    for path in (folder / MARKERS[zarr_format], archive):
        read = read_granule(request(path, replace(SPEC, format="zarr")), collection.ref)
        assert isinstance(read, ReadGranule)
        identity = read.entry.identity
        assert (identity.key, identity.size) == (str(path).lstrip("/"), path.stat().st_size)
        assert read.entry.shares == expected.entry.shares
        assert read.granule.variables.keys() == expected.granule.variables.keys()
        for name, variable in expected.granule.variables.items():
            assert read.granule.variables[name].values.tolist() == variable.values.tolist()


def test_errors_are_outcomes(tmp_path: Path, source: Path, collection: Collection) -> None:
    missing = read_granule(request(tmp_path / "gone.nc"), collection.ref)
    assert isinstance(missing, NotFoundError)
    assert entry_of(missing) is missing
    source.write_bytes(b"no granule")
    assert isinstance(read_granule(request(source), collection.ref), InvalidGranuleError)
    assert isinstance(propose(request(source), Founding()), InvalidGranuleError)


ADDING = DriftPolicy(new="add", missing="fill")


def test_a_granule_that_brings_variables_tells_them_and_fits_when_they_are_there(tmp_path: Path, source: Path) -> None:
    narrow = replace(SPEC, include=("/data_01/latitude", "/data_01/longitude"))
    proposal = propose(request(source, narrow), Founding())
    assert isinstance(proposal, Proposal)
    collection = create_collection(f"file://{tmp_path}/s6a", proposal.schema, DAILY, drift=ADDING)
    wider = replace(SPEC, include=(*narrow.include, "/data_01/ku/ssha"))
    addition = read_granule(request(source, wider), collection.ref)
    assert isinstance(addition, Addition)
    assert entry_of(addition) is addition
    assert [variable.path for variable in addition.variables] == ["ku/ssha"]
    assert isinstance(merge_partition(merge_of_nothing(collection), [addition]), NotFoundError)
    before = collection.ref
    collection.require_variables(addition.variables, addition.dimensions)
    read = read_granule(request(source, wider), collection.ref)
    assert isinstance(read, ReadGranule)
    assert "ku/ssha" in read.granule.variables
    assert isinstance(read_granule(request(source, wider), before), Addition)


def test_a_granule_that_is_in_is_read_again_only_while_it_is_the_same(source: Path, collection: Collection) -> None:
    read = read_granule(request(source), collection.ref)
    assert isinstance(read, ReadGranule)
    again = reread_granule(read.entry, SPEC, StorageOptions(), collection.ref)
    assert isinstance(again, ReadGranule)
    assert again.entry == read.entry
    assert again.granule.variables.keys() == read.granule.variables.keys()
    source.write_bytes(sentinel6_twin(100, rows=21).data)
    assert isinstance(reread_granule(read.entry, SPEC, StorageOptions(), collection.ref), NotFoundError)
    source.write_bytes(b"no granule")
    assert isinstance(reread_granule(read.entry, SPEC, StorageOptions(), collection.ref), NotFoundError)
    source.unlink()
    assert isinstance(reread_granule(read.entry, SPEC, StorageOptions(), collection.ref), NotFoundError)


def test_a_proposal_follows_the_settings(source: Path) -> None:
    proposal = propose(request(source), Founding(chunk_rows=5, codecs="fast", provenance=False, zarr_format=2))
    assert isinstance(proposal, Proposal)
    assert not proposal.schema.keeps_provenance
    time = proposal.schema["time"]
    assert (time.chunks, proposal.schema.zarr_format) == ((5,), 2)
    assert time.codecs == parse_codecs("fast", time)


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


def test_the_settings_of_a_zarr_collection_reach_its_reader() -> None:
    section = {
        "name": "s6a",
        "url": "collection",
        "match": ("**/*.zarr/_SUCCESS",),
        "axis": "time",
        "partitioning": {"by": "date", "variable": "time", "resolution": "day"},
    }
    plain = CollectionSettings.model_validate(section).granule_spec
    assert (plain.format, plain.marker, plain.missing_chunks) == ("netcdf", "", "reject")
    chosen = {"format": "zarr", "marker": "_SUCCESS", "missing_chunks": "fill"}
    spec = CollectionSettings.model_validate({**section, "granule": chosen}).granule_spec
    assert (spec.format, spec.marker, spec.missing_chunks) == ("zarr", "_SUCCESS", "fill")


@pytest.mark.parametrize("wrong", [{"marker": "_SUCCESS"}, {"missing_chunks": "fill"}, {"marker": "a/b"}])
def test_settings_for_zarr_need_its_format_and_a_marker_is_one_name(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="marker"):
        GranuleSettings.model_validate(wrong)


def test_the_globs_for_zarr_directories_take_the_marker_of_a_root_and_no_other_object() -> None:
    router = Router([Rule("v2", ("**/*.zarr/.zmetadata",)), Rule("v3", ("**/*.zarr/zarr.json",))], [])

    def goes_to(key: str) -> str | None:
        return router.route(ObjectRef(f"s3://bucket/{key}", "bucket", key)).collection

    assert (goes_to("in/2024/a.zarr/.zmetadata"), goes_to("in/2024/a.zarr/zarr.json")) == ("v2", "v3")
    assert goes_to("a.zarr/.zmetadata") == "v2"
    others = (".zgroup", "time/0", "time/.zarray", "ku/zarr.json", "ku/x/c/0", "ku/.zmetadata")
    assert {goes_to(f"in/a.zarr/{other}") for other in others} == {None}
    # "*" does not cross folders: without "**/" only a directory at the bucket's root would match.
    shallow = Router([Rule("v2", ("*.zarr/.zmetadata",))], [])
    assert shallow.route(ObjectRef("s3://b/in/a.zarr/.zmetadata", "b", "in/a.zarr/.zmetadata")).collection is None
