"""Where the objects of a Zarr v2 collection lie, and what there is of a partition from its first moment on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from tests.engine_support import DAY_16, DAY_17
from tests.verification_support import copy_of, deaths
from tests.zarr2_support import (
    DAY,
    HIDDEN,
    ZARR2,
    chunk_keys,
    created,
    filled,
    keys,
    opened,
    private,
    public,
    rows,
    schema,
    shown,
)
from zcollection_engine.commits.opening import load_state
from zcollection_engine.layout.documents import Version
from zcollection_engine.layout.formats import ChunkPlace, Zarr3
from zcollection_engine.layout.inventory import PartitionInventory, Role
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.testing.stores import Fault, FaultStore
from zcollection_engine.verification.verifying import verify

NAMES = ("time", "height", "granule", "label", "profile")


def document(store: ObjectStore, key: str) -> Any:
    return json.loads(store.get(key).data)


# Keys.


def test_the_first_generation_lies_where_readers_look_and_the_others_in_three_hidden_spaces_in_turn() -> None:
    spaces = [ZARR2.space(generation) for generation in range(8)]
    assert spaces == [0, 1, 2, 3, 1, 2, 3, 1]
    assert [ZARR2.folder(g) for g in range(4)] == ["", f"{HIDDEN}/1", f"{HIDDEN}/2", f"{HIDDEN}/3"]
    assert {ZARR2.chunk_key("profile", generation, (2, 1)) for generation in range(8)} == {"profile/2.1"}
    assert ZARR2.chunk_key("scalar", 0, ()) == "scalar/0"


@pytest.mark.parametrize("generation", range(8))
def test_a_generation_is_written_over_by_the_first_rewrite_that_takes_its_place(generation: int) -> None:
    """Its chunks may change as soon as the partition is at this generation: a copy, or the next rewrite's chunks."""
    later = range(generation + 1, 20)
    reused = next(g for g in later if ZARR2.space(g) == ZARR2.space(generation) or generation == 0)
    written_behind = reused if generation == 0 else reused - 1
    assert ZARR2.overwritten_by(generation) == written_behind


@pytest.mark.parametrize("path", ["time", "deep/height", "1"])
@pytest.mark.parametrize("index", [(0,), (17, 3), (1, 2, 3)])
@pytest.mark.parametrize("generation", range(4))
def test_every_key_of_a_chunk_is_told_again(path: str, index: tuple[int, ...], generation: int) -> None:
    folder, key = ZARR2.folder(generation), ZARR2.chunk_key(path, generation, index)
    place = ZARR2.place(f"{folder}/{key}" if folder else key, ["other", path])
    assert place == ChunkPlace(path, ZARR2.space(generation), index)


@pytest.mark.parametrize(
    "key",
    [
        "time",
        "time/",
        "time/a",
        "time/0.",
        "time/.0",
        "time/0/1",
        "time/-1",
        "time/.zarray",
        "time/c/0",
        "other/0",
        f"{HIDDEN}/0/time/0",
        f"{HIDDEN}/4/time/0",
        f"{HIDDEN}/x/time/0",
        f"{HIDDEN}/time/0",
        f"{HIDDEN}/1/.zmetadata",
        f"{HIDDEN}/1/{HIDDEN}/1/time/0",
        f"x/{HIDDEN}/1/time/0",
    ],
)
def test_other_keys_name_no_chunk(key: str) -> None:
    assert ZARR2.place(key, ["time"]) is None


@pytest.mark.parametrize(
    ("key", "generation", "role"),
    [
        (".zmetadata", 1, Role.DOCUMENT),
        (".zgroup", 1, Role.DOCUMENT),
        ("time/.zattrs", 1, Role.DOCUMENT),
        ("time/1", 0, Role.LIVE),
        ("time/1", 1, Role.LIVE),
        (f"{HIDDEN}/1/time/1", 1, Role.LIVE),
        (f"{HIDDEN}/1/time/1", 4, Role.LIVE),
        (f"{HIDDEN}/1/time/2", 4, Role.BEYOND),
        (f"{HIDDEN}/2/time/1", 1, Role.OTHER_SPACE),
        (f"{HIDDEN}/1/time/1", 0, Role.OTHER_SPACE),
        ("profile/1.1", 0, Role.LIVE),
        ("profile/1.2", 0, Role.BEYOND),
        ("profile/1", 0, Role.BEYOND),
        # Readers may have been told of it by the document of the first generation.
        ("time/2", 1, Role.OTHER_SPACE),
        ("time/2", 0, Role.BEYOND),
        ("gone/0", 0, Role.RETIRED),
        ("gone/.zarray", 0, Role.RETIRED),
        (f"{HIDDEN}/3/gone/7", 1, Role.RETIRED),
        ("height.bak", 0, Role.FOREIGN),
        (f"{HIDDEN}/5/time/0", 0, Role.FOREIGN),
        (f"{HIDDEN}/1/.zmetadata", 1, Role.FOREIGN),
    ],
)
def test_an_object_is_told_from_its_key(key: str, generation: int, role: Role) -> None:
    inventory = PartitionInventory(schema(), Version(9, generation, 7), retired=["gone"])
    assert inventory.role(key) is role


def test_zarr_v3_has_no_hidden_folder() -> None:
    assert {Zarr3().folder(generation) for generation in range(4)} == {""}
    assert Zarr3().place(f"{HIDDEN}/1/time/0", ["time"]) is None


# A collection.


def test_a_collection_has_these_objects_and_no_others(store: ObjectStore) -> None:
    filled(store)
    own = [key for key in keys(store) if not key.startswith(".zcommits/")]
    documents = {".zgroup", ".zattrs", ".zmetadata"}
    arrays = {f"{name}/{leaf}" for name in NAMES for leaf in (".zarray", ".zattrs")}

    def chunks(count: int) -> set[str]:
        flat = {f"{name}/{i}" for name in NAMES if name != "profile" for i in range(count)}
        return flat | {f"profile/{i}.{j}" for i in range(count) for j in range(2)}

    first = {*documents, *arrays, *chunks(3), *(f"{HIDDEN}/1/{key}" for key in chunks(3))}
    immutable = {*documents, "band/.zarray", "band/.zattrs", "band/0", "band/1"}
    assert set(own) == {
        ".zgroup",
        ".zattrs",
        ".zcollection",
        *(f".immutable/{key}" for key in immutable),
        *(f"{DAY_16}/{key}" for key in first),
        *(f"{DAY_17}/{key}" for key in (*documents, *arrays, *chunks(1))),
    }


def test_there_is_nothing_in_the_folders_above_partitions(store: ObjectStore) -> None:
    """Released zcollection takes whatever has the name of a partition there for one."""
    filled(store)
    assert {key.count("/") for key in keys(store, "year=2023/")} >= {3}
    assert not [key for key in keys(store, "year=2023/") if key.count("/") < 3]


def test_the_root_tells_what_is_in_and_never_has_consolidated_metadata(store: ObjectStore) -> None:
    collection = filled(store)
    assert document(store, ".zgroup") == {"zarr_format": 2}
    attributes = document(store, ".zattrs")
    assert attributes["title"] == "a small collection"
    assert attributes["zcollection_commit"] == collection.commit
    assert (attributes["zcollection_partitions"], attributes["zcollection_rows"]) == (2, 15)
    assert ".zmetadata" not in keys(store)


def test_the_configuration_is_the_one_that_released_zcollection_reads(store: ObjectStore) -> None:
    collection = filled(store)
    told = document(store, ".zcollection")
    assert told["axis"] == "time"
    assert told["zcollectiond"]["commit"] == collection.state.configured
    assert "_zcollection.json" not in keys(store)


def test_a_partition_tells_commit_generation_and_shape_in_all_documents(store: ObjectStore) -> None:
    collection = filled(store)
    for path in (DAY_16, DAY_17):
        state = collection.state.partitions[path]
        assert shown(store, path) == (state.generation, state.rows)
        assert document(store, f"{path}/.zattrs")["zcollection_commit"] == state.commit
        assert document(store, f"{path}/.zattrs")["zcollection_generation"] == state.generation
        for name in NAMES:
            array = document(store, f"{path}/{name}/.zarray")
            assert (array["shape"][0], array["zcollection"]["commit"]) == (state.rows, state.commit)
            assert document(store, f"{path}/{name}/.zattrs")["zcollection_commit"] == state.commit


def test_the_group_document_is_written_once_and_never_again(store: ObjectStore) -> None:
    written: list[str] = []
    watched = FaultStore(store, [Fault("*", "*.zgroup", times=10**9, after=lambda m, k: written.append(f"{m} {k}"))])
    collection = created(watched)
    collection.insert(rows(range(3)), granule="a")
    before = {key: store.head(key).etag for key in keys(store) if key.endswith(".zgroup")}
    collection.insert(rows([1], offset=9), granule="b")
    collection.set_attributes({"title": "another"})
    collection.drop_partitions([DAY_16])
    assert {key: store.head(key).etag for key in keys(store) if key.endswith(".zgroup")} == before
    assert sorted(w for w in written if w.startswith("create")) == sorted(f"create {key}" for key in before)
    assert not [w for w in written if w.startswith(("replace", "delete"))]


def test_an_append_stays_in_the_public_place_and_a_rewrite_goes_to_the_next_hidden_space(store: ObjectStore) -> None:
    collection = created(store)
    collection.insert(rows(range(5)), granule="a")
    collection.insert(rows([7, 8]), granule="b")
    assert not [key for key in keys(store) if HIDDEN in key]
    for turn, space in enumerate((1, 2, 3, 1)):
        before = {key: store.head(key).etag for key in keys(store, f"{DAY_16}/{HIDDEN}/")}
        collection.insert(rows([2], offset=turn), granule="c")
        changed = {k for k in keys(store, f"{DAY_16}/{HIDDEN}/") if before.get(k) != store.head(k).etag}
        assert changed == set(private(store, DAY_16, space))
        # Readers are shown the very bytes.
        copies = {key.removeprefix(f"{DAY_16}/"): store.get(key).data for key in public(store, DAY_16)}
        originals = private(store, DAY_16, space)
        assert copies == {k.removeprefix(f"{DAY_16}/{HIDDEN}/{space}/"): store.get(k).data for k in originals}


# What released zcollection meets while a partition comes to be.


def _partitions(objects: Iterable[str]) -> set[str]:
    return {found[0] for key in objects if (found := re.match("year=[0-9]+/month=[0-9]+/day=[0-9]+", key))}


def test_a_partition_has_its_document_before_anything_else_and_at_every_moment(store: ObjectStore) -> None:
    seen: list[str] = []

    def look(method: str, key: str) -> None:
        present = {key for key in keys(store) if not key.startswith(".zcommits/")}
        for path in _partitions(present):
            assert f"{path}/.zmetadata" in present, (method, key)
            if not any(other.startswith(f"{path}/") for other in present - {f"{path}/.zmetadata"}):
                assert shown(store, path) == (0, 0)
                seen.append(path)

    everything = [Fault(method, times=10**9, after=look) for method in ("create", "replace", "delete")]
    collection = created(FaultStore(store, everything))
    collection.insert(rows([*range(9), DAY, 8 * DAY]), granule="first")
    collection.insert(rows([3, 9 * DAY], offset=100), granule="second")
    collection.insert(rows([3], offset=200), granule="second")
    collection.drop_partitions([DAY_17])
    collection.insert(rows([DAY + 9]), granule="third")
    assert set(seen) == _partitions(keys(store))
    assert len(set(seen)) == 4


def test_a_crash_before_the_first_commit_leaves_a_partition_without_rows_that_is_no_stray(original_v2: Any) -> None:
    died = 0
    for left, dead in deaths(original_v2, lambda s: opened(s).insert(rows([2 * DAY]), granule="new")):
        report = verify(opened(copy_of(left)), store=left)
        assert report.ok, report.faults
        assert report.counts.foreign == 0
        died += dead and "year=2023/month=12/day=18/.zmetadata" in keys(left)
    assert died > 5


def test_a_partition_that_never_came_to_be_is_shown_without_rows(original_v2: Any) -> None:
    path = "year=2023/month=12/day=18"
    for left, _ in deaths(original_v2, lambda s: opened(s).insert(rows([2 * DAY]), granule="new")):
        if path not in load_state(left).partitions and chunk_keys(left, f"{path}/"):
            assert shown(left, path) == (0, 0)
            return
    pytest.fail("no death left chunks of a partition without a commit")
