"""A configured collection: opened, created, founded by a granule; settings that contradict it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import structlog

from daemon.errors import SettingsError
from daemon.rules import partitioning_of, strategy_of
from daemon.settings_data import CollectionSettings
from daemon.sources.base import ObjectRef
from daemon.target import Target
from daemon.tasks import Founding, Proposal, ReadRequest
from tests.engine_support import DAY_16, small_schema
from zcollection_engine import StorageOptions, open_collection
from zcollection_engine.codecs import parse_codecs, with_codecs
from zcollection_engine.collection import Collection
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Grant, Release
from zcollection_engine.errors import BusyError, InvalidGranuleError, NotFoundError, SchemaMismatchError
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.schema import PROVENANCE, Dimension, Schema, Variable
from zcollection_engine.schema_json import schema_to_json
from zcollection_engine.stores.memory import MemoryStore

REF = ObjectRef("s3://b/a.nc", "b", "a.nc", "1", 10)
BY_DAY = {"by": "date", "variable": "time", "resolution": "day"}
BANDED = small_schema(extra=[Variable("band", "<f4", ("band",), (3,))])


class Compute:
    """Proposes a schema; ``together`` lets proposals out only when all are made."""

    def __init__(self, schema: Schema, *, together: int = 1) -> None:
        self.schema = schema
        self.proposed: list[tuple[ReadRequest, Founding]] = []
        self.failures: list[Exception] = []
        self._barrier = asyncio.Barrier(together)

    async def propose(self, request: ReadRequest, founding: Founding) -> Proposal:
        self.proposed.append((request, founding))
        await self._barrier.wait()
        if self.failures:
            raise self.failures.pop()
        values = GranuleVariable(("band",), np.array([1, 2, 3], "<f4"))
        return Proposal(self.schema, Granule("a.nc", "time", "time", {"band": values}))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/s6a"


@pytest.fixture
def compute() -> Any:
    return Compute(small_schema())


def target_at(url: str, *, schema_file: Path | None = None, **changes: Any) -> Target:
    section: Mapping[str, Any] = {
        "name": "s6a",
        "url": url,
        "match": ["*.nc"],
        "axis": "time",
        "partitioning": BY_DAY,
        "schema_file": schema_file,
    }
    settings = CollectionSettings.model_validate({**section, **changes})
    return Target(settings, StorageOptions(), owner=uuid.uuid4().hex)


def schema_file(folder: Path, schema: Schema) -> Path:
    path = folder / "schema.json"
    path.write_text(json.dumps(schema_to_json(schema)), "utf-8")
    return path


def creation_of(target: Target) -> str:
    assert target.collection is not None
    return target.collection.ref.config


async def test_a_collection_that_does_not_exist_waits_for_its_first_granule(url: str, compute: Any) -> None:
    target = target_at(url, chunk_rows=5)
    await target.open()
    assert target.collection is None
    await target.publish_arrays()
    collection = await target.require(compute, REF)
    assert await target.require(compute, REF) is collection
    assert compute.proposed == [(target.request(REF), Founding(5))]
    assert open_collection(url).schema == compute.schema


async def test_later_granules_find_it_open(url: str, compute: Any) -> None:
    target = target_at(url)
    await target.open()
    first, second = await asyncio.gather(target.require(compute, REF), target.require(compute, REF))
    assert first is second
    assert len(compute.proposed) == 1


async def test_a_granule_that_cannot_be_read_founds_nothing_and_the_next_one_may_try(url: str, compute: Any) -> None:
    target = target_at(url)
    compute.failures.append(InvalidGranuleError("a.nc: cut short"))
    with pytest.raises(InvalidGranuleError, match="cut short"):
        await target.require(compute, REF)
    with pytest.raises(NotFoundError):
        open_collection(url)
    assert await target.require(compute, REF) is target.collection


async def test_an_existing_collection_is_opened(url: str, compute: Any) -> None:
    first, restarted = target_at(url), target_at(url)
    await first.require(compute, REF)
    await restarted.open()
    assert creation_of(restarted) == creation_of(first)
    await restarted.require(compute, REF)
    assert len(compute.proposed) == 1


async def test_a_schema_file_that_says_everything_creates_the_collection_at_once(url: str, tmp_path: Path) -> None:
    schema = small_schema()
    target = target_at(url, schema_file=schema_file(tmp_path, schema))
    await target.open()
    assert target.collection is not None
    assert open_collection(url).schema == with_codecs(schema)


async def test_a_schema_file_with_fixed_values_waits_for_the_granule_that_has_them(url: str, tmp_path: Path) -> None:
    compute: Any = Compute(small_schema())
    target = target_at(url, schema_file=schema_file(tmp_path, BANDED))
    await target.open()
    assert target.collection is None
    collection = await target.require(compute, REF)
    assert collection.schema == with_codecs(BANDED)
    assert set(collection.immutable) == {"band"}


async def test_what_the_settings_say_of_codecs_and_provenance_holds_for_a_schema_file_too(
    url: str, tmp_path: Path
) -> None:
    settings = {"codecs": "fast", "provenance": False, "zarr_format": 2}
    target = target_at(url, schema_file=schema_file(tmp_path, small_schema()), **settings)
    await target.open()
    schema = open_collection(url).schema
    assert schema.zarr_format == 2
    assert not schema.keeps_provenance
    assert schema["height"].codecs == parse_codecs("fast", schema["height"])
    await target_at(url, provenance=False).open()


def test_a_schema_file_without_provenance_is_refused_where_the_settings_want_it(url: str, tmp_path: Path) -> None:
    bare = replace(small_schema(), variables=tuple(v for v in small_schema().variables if v.path != PROVENANCE))
    path = schema_file(tmp_path, bare)
    document = {**json.loads(path.read_text()), "provenance": False}
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"collections\.s6a\.provenance: true, but .*schema\.json has"):
        target_at(url, schema_file=path)
    assert not target_at(url, schema_file=path, provenance=False).settings.provenance


async def test_the_settings_decide_how_a_collection_is_founded(url: str, compute: Any) -> None:
    target = target_at(url, chunk_rows=7, codecs="small", provenance=False, zarr_format=2)
    await target.require(compute, REF)
    assert compute.proposed == [(target.request(REF), Founding(7, "small", provenance=False, zarr_format=2))]


# Drift.


def drift_at(url: str) -> dict[str, str]:
    return open_collection(url).config.drift.to_json()


async def test_another_drift_policy_takes_effect_with_the_next_start(url: str, compute: Any) -> None:
    await target_at(url).require(compute, REF)
    adding = target_at(url, drift={"new": "add", "missing": "fill"})
    await adding.open()
    assert (drift_at(url)["new"], drift_at(url)["missing"]) == ("add", "fill")
    commits = len(list(open_collection(url).history()))
    await target_at(url, drift={"new": "add", "missing": "fill"}).open()
    assert len(list(open_collection(url).history())) == commits == 1


async def test_two_daemons_may_change_the_drift_policy_at_once(
    url: str, compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await target_at(url).require(compute, REF)
    change = Collection.set_drift

    def beaten(self: Collection, policy: DriftPolicy, **options: Any) -> int:
        monkeypatch.setattr(Collection, "set_drift", change)
        open_collection(url, mode="w").set_drift(policy)
        return change(self, policy, **options)

    monkeypatch.setattr(Collection, "set_drift", beaten)
    await target_at(url, drift={"new": "reject"}).open()
    assert drift_at(url)["new"] == "reject"
    assert [info.operation for info in open_collection(url).history()] == ["drift"]


async def test_a_drift_policy_that_cannot_be_changed_now_stays_and_the_daemon_starts(
    url: str, compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await target_at(url).require(compute, REF)

    def busy(*_: object, **__: object) -> int:
        raise BusyError("year=2023 is held by 'other'", retry_after=1)

    monkeypatch.setattr(Collection, "set_drift", busy)
    target = target_at(url, drift={"new": "reject"})
    with structlog.testing.capture_logs() as lines:
        await target.open()
    assert target.collection is not None
    assert drift_at(url)["new"] == "ignore"
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["the drift policy stays as it was"]


# Adding variables.

WAVE = Variable("wave", "<i2", ("time",), (8,), -1)
SPECTRUM = Variable("spectrum", "<f4", ("time", "bin"), (8, 5), float("nan"))
ADDITION = Addition((WAVE, SPECTRUM), (Dimension("bin", 5),))


async def added(target: Target) -> None:
    """Add them, as often tried as another target holds the collection."""
    while True:
        try:
            return await target.add(ADDITION, REF)
        except BusyError:
            await asyncio.sleep(0.01)


async def test_variables_are_added_once_however_many_granules_bring_them(url: str, compute: Any) -> None:
    targets = [target_at(url), target_at(url)]
    for target in targets:
        await target.require(compute, REF)
    await asyncio.gather(*(added(target) for target in targets * 3))
    for target in targets:
        assert target.collection is not None
        assert target.collection.schema["wave"] == WAVE
        assert target.collection.schema.sizes["bin"] == 5
    assert [info.operation for info in open_collection(url).history()] == ["add"]


async def test_variables_are_not_waited_for_while_another_writer_holds_a_partition(url: str, compute: Any) -> None:
    target = target_at(url)
    collection = await target.require(compute, REF)
    grant = Grant("t", datetime.now(UTC), "other", "s", 60.0, (DAY_16,))
    number = collection.state.number + 1
    CommitLog(collection.store).append(number, grant)
    with pytest.raises(BusyError, match="'other'"):
        await target.add(ADDITION, REF)
    CommitLog(collection.store).append(number + 1, Release("t", datetime.now(UTC), number))
    await target.add(ADDITION, REF)
    assert "wave" in collection.schema.by_path


async def test_variables_that_cannot_be_added_are_the_granule_s_fault(url: str, compute: Any) -> None:
    target = target_at(url)
    await target.require(compute, REF)
    with pytest.raises(SchemaMismatchError, match=r"^a\.nc: .*'height/x'.*group"):
        await target.add(Addition((replace(WAVE, path="height/x"),)), REF)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"partitioning": {**BY_DAY, "resolution": "month"}},
            "collections.s6a.partitioning: {wanted[partitioning]}, but {url} was created with {found[partitioning]};",
        ),
        (
            {"merge": {"tolerance_seconds": 1.5}},
            "collections.s6a.merge: {wanted[merge]}, but {url} was created with {found[merge]};",
        ),
        (
            {"axis": "other", "partitioning": {"by": "date", "variable": "other", "resolution": "day"}},
            "collections.s6a.axis: other, but {url} was created with time;",
        ),
        ({"zarr_format": 2}, "collections.s6a.zarr_format: 2, but {url} was created with 3;"),
    ],
    ids=["partitioning", "merge", "axis", "zarr_format"],
)
async def test_settings_that_contradict_the_collection_are_refused(
    url: str, compute: Any, changes: Mapping[str, Any], line: str
) -> None:
    await target_at(url).require(compute, REF)
    contradicting = target_at(url, **changes)
    with pytest.raises(SettingsError) as caught:
        await contradicting.open()
    found = open_collection(url).config
    wanted = {
        "partitioning": partitioning_of(contradicting.settings).to_json(),
        "merge": strategy_of(contradicting.settings).to_json(),
    }
    expected = line.format(
        url=url, wanted=wanted, found={"partitioning": found.partitioning.to_json(), "merge": found.strategy.to_json()}
    )
    (problem,) = (p for p in caught.value.problems if p.startswith(line.partition(":")[0]))
    assert problem == f"{expected} change the settings back, or name another url"
    assert contradicting.collection is None


async def test_every_contradiction_has_a_line(url: str, compute: Any) -> None:
    await target_at(url).require(compute, REF)
    by_cycle = {"by": "sequence", "variables": ["cycle"]}
    with pytest.raises(SettingsError) as caught:
        await target_at(url, partitioning=by_cycle, merge={"tolerance_seconds": 2}).open()
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert keys == ["collections.s6a.partitioning", "collections.s6a.merge"]


@pytest.mark.parametrize("local", [False, True], ids=["memory", "folder"])
async def test_two_daemons_that_found_a_collection_at_the_same_time_share_one(
    url: str, tmp_path: Path, *, local: bool
) -> None:
    place = str(tmp_path / "s6a") if local else url
    compute: Any = Compute(BANDED, together=2)
    targets = [target_at(place), target_at(place)]
    await asyncio.gather(*(target.require(compute, REF) for target in targets))
    assert len(compute.proposed) == 2
    assert creation_of(targets[0]) == creation_of(targets[1]) == open_collection(place).ref.config


async def test_the_loser_of_a_foundation_sees_that_its_settings_contradict(url: str) -> None:
    compute: Any = Compute(small_schema())
    loser = target_at(url, partitioning={**BY_DAY, "resolution": "month"})
    await loser.open()
    await target_at(url).require(compute, REF)
    with pytest.raises(SettingsError, match="was created with"):
        await loser.require(compute, REF)


async def test_the_store_is_asked_which_version_an_object_has(url: str) -> None:
    etag = MemoryStore(url).create("in/a b.nc", b"content")
    target = target_at(url)
    assert await target.is_current(f"{url}/in/a b.nc", etag)
    assert not await target.is_current(f"{url}/in/a b.nc", f"{etag}x")
    with pytest.raises(NotFoundError):
        await target.is_current(f"{url}/in/gone.nc", etag)


def test_a_request_says_what_to_read_from_where(url: str) -> None:
    target = target_at(url, granule={"axis": "/data/time", "attributes": {"cycle": "uint16"}})
    request = target.request(REF)
    assert request.ref == REF
    assert (request.spec.axis, dict(request.spec.attributes)) == ("/data/time", {"cycle": "uint16"})
    assert cast("Any", request.storage) == StorageOptions()


@pytest.mark.parametrize("word", [True, False])
def test_the_operators_word_that_nobody_else_writes_reaches_the_writer(url: str, word: bool) -> None:
    assert target_at(url, single_writer=word)._writer.single_writer is word
    assert target_at(url)._writer.single_writer is False
