"""A configured collection: opened, created, founded by a granule; settings that contradict it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from daemon.errors import SettingsError
from daemon.rules import partitioning_of, strategy_of
from daemon.settings_data import CollectionSettings
from daemon.sources.base import ObjectRef
from daemon.target import Target
from daemon.tasks import Proposal, ReadRequest
from tests.engine_support import small_schema
from zcollection_engine import StorageOptions, open_collection
from zcollection_engine.codecs import with_codecs
from zcollection_engine.errors import InvalidGranuleError, NotFoundError
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.schema import Schema, Variable
from zcollection_engine.schema_json import schema_to_json
from zcollection_engine.stores.memory import MemoryStore

REF = ObjectRef("s3://b/a.nc", "b", "a.nc", "1", 10)
BY_DAY = {"by": "date", "variable": "time", "resolution": "day"}
BANDED = small_schema(extra=[Variable("band", "<f4", ("band",), (3,))])


class Compute:
    """Proposes a schema; ``together`` lets proposals out only when all are made."""

    def __init__(self, schema: Schema, *, together: int = 1) -> None:
        self.schema = schema
        self.proposed: list[tuple[ReadRequest, int | None]] = []
        self.failures: list[Exception] = []
        self._barrier = asyncio.Barrier(together)

    async def propose(self, request: ReadRequest, chunk_rows: int | None) -> Proposal:
        self.proposed.append((request, chunk_rows))
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
    assert compute.proposed == [(target.request(REF), 5)]
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
    ],
    ids=["partitioning", "merge", "axis"],
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
