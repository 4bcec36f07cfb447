"""Collections become collections of another Zarr format, value by value, and back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import FakeClock, small_schema, times
from tests.foreign_trees import BY_MONTH, BY_PASS, FEBRUARY, LON, Values, by_month, by_pass, hours, rows, write_tree
from tests.verification_support import deaths, filled, overwrite, rich
from zcollection_engine import Collection, SequencePartitioning, create_collection, open_collection
from zcollection_engine.codecs import parse_codecs
from zcollection_engine.converting import ConvertOptions, convert
from zcollection_engine.errors import ConflictError, InvalidInputError, NotFoundError, SnapshotExpiredError
from zcollection_engine.importing import import_collection
from zcollection_engine.schema import TIME_UNITS, Variable
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.verifying import verify

V2, V3 = ConvertOptions(2), ConvertOptions(3)
SMALL = WriterOptions(owner="convert", block_nbytes=1)


def somewhere() -> MemoryStore:
    return MemoryStore(f"memory://{uuid.uuid4().hex}")


def converted(source: ObjectStore, options: ConvertOptions = V3, target: ObjectStore | None = None) -> Collection:
    collection, _ = convert(source, target or somewhere(), options, writer=SMALL, clock=FakeClock())
    assert verify(collection).findings == ()
    return collection


def stored(collection: Collection) -> dict[str, Values]:
    found = collection.load(decode=False)
    if isinstance(found, xr.Dataset):
        return {str(name): found[name].values for name in found.variables}
    return {
        f"{node.path}/{name}".strip("/"): node[str(name)].values
        for node in found.subtree
        for name in node.to_dataset(inherit=False).variables
    }


def differ(a: Mapping[str, Values], b: Mapping[str, Values]) -> list[str]:
    return sorted(a.keys() ^ b.keys()) + [n for n in a.keys() & b.keys() if not np.array_equal(a[n], b[n])]


def expected(*parts: Mapping[str, Values]) -> dict[str, Values]:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**joined, "time": joined["time"].astype("datetime64[ns]").astype(np.int64)}


def nested() -> MemoryStore:
    """A nested group, text, values without rows; one partition was rewritten."""
    store = somewhere()
    filled(store)
    return store


def test_a_nested_collection_becomes_flat_and_keeps_values_granules_and_lineage() -> None:
    source = nested()
    old = open_collection(source)
    new = converted(source, V2)
    flat = {name.replace("/", "_"): values for name, values in stored(old).items()}
    assert differ(stored(new), flat) == []
    assert (new.schema.zarr_format, old.schema.zarr_format) == (2, 3)
    assert {e.id: e for e in new.granules()} == {e.id: e for e in old.granules()}
    for partition in old.partitions():
        assert new.lineage(partition.path) == old.lineage(partition.path)
    assert [(p.path, p.rows, p.granules) for p in new.partitions()] == [
        (p.path, p.rows, p.granules) for p in old.partitions()
    ]


def test_there_and_back_again_nothing_but_names_is_different() -> None:
    source = nested()
    there = converted(source, V2)
    back = converted(there.store, V3)
    assert back.schema.zarr_format == 3
    assert differ(stored(back), stored(there)) == []
    again = converted(back.store, V2)
    assert again.config == there.config
    assert differ(stored(again), stored(there)) == []


def test_a_converted_collection_goes_on_like_the_one_it_was_made_of() -> None:
    source = nested()
    collection, _ = convert(source, somewhere(), V3, writer=SMALL, clock=FakeClock())
    original = open_collection(source, mode="w", writer=SMALL, clock=FakeClock())
    for each in (collection, original):
        each.insert(rich([5, 6, 7], offset=900), granule="third", precedence=10**18)
        each.insert(rich([3, 4], offset=300), granule="second", precedence=10**18)
    assert (
        differ(
            {k: v for k, v in stored(collection).items() if k != "granule"},
            {k: v for k, v in stored(original).items() if k != "granule"},
        )
        == []
    )
    assert verify(collection).findings == ()


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
@pytest.mark.parametrize("options", [V2, V3], ids=["v2", "v3"])
def test_a_tree_of_zcollection_becomes_a_collection_with_times_in_nanoseconds(
    options: ConvertOptions, unit: str
) -> None:
    partitions = by_month(unit)
    for members in partitions.values():
        members["seen"] = members["time"].copy()
        members["seen"][1] = np.datetime64("NaT", "ns")
    source = write_tree(partitions, BY_MONTH, fixed={"lon": LON}, chunks={FEBRUARY: (4, 2)})
    source.delete(f"{FEBRUARY}/packed/1")
    new = converted(source, options)
    wanted = expected(*partitions.values()) | {"lon": LON}
    wanted["packed"][9:13] = -1
    wanted["seen"] = wanted["seen"].astype("datetime64[ns]").astype(np.int64)
    assert differ(stored(new), wanted) == []
    assert new.schema["seen"].attributes["units"] == TIME_UNITS
    with pytest.raises(NotFoundError):
        open_collection(source)


def test_a_time_that_nanoseconds_cannot_hold_is_refused_by_name() -> None:
    partitions = by_month("s")
    for members in partitions.values():
        members["seen"] = members["time"].copy()
        members["seen"][1] = np.datetime64("3000-01-01", "s")
    with pytest.raises(InvalidInputError, match="'seen' holds 32503680000 seconds"):
        convert(write_tree(partitions, BY_MONTH), somewhere(), V3, writer=SMALL, clock=FakeClock())


def test_an_imported_collection_is_converted_with_what_was_merged_since() -> None:
    source = write_tree(by_pass(), BY_PASS)
    imported, _ = import_collection(source, clock=FakeClock())
    more = {"cycle": np.array([10, 10], "<i2"), "pass": np.array([1, 2], "<i2")}
    members = rows(hours("2000-01-05", 2), 900, **more)
    dataset = xr.Dataset({n: (("time", "pixel")[: v.ndim], v) for n, v in members.items()})
    dataset["packed"].attrs["scale_factor"] = 0.5
    imported.insert(dataset, granule="new")
    new = converted(source, V3)
    assert differ(stored(new), stored(imported)) == []
    assert [e.identity.key for e in new.granules()] == ["new"]
    assert [p.path for p in new.partitions()] == [p.path for p in imported.partitions()]


def test_partitions_by_nested_variables_get_the_flat_names() -> None:
    store = somewhere()
    extra = [Variable("data/cycle", "<i4", ("time",), (8,)), Variable("data/pass", "<i4", ("time",), (8,))]
    collection = create_collection(
        store,
        small_schema(extra=extra),
        SequencePartitioning(("data/cycle", "data/pass")),
        writer=SMALL,
        clock=FakeClock(),
    )
    height = xr.Variable("time", np.arange(4, dtype=np.int32), {"scale_factor": 0.001, "units": "m"})
    top = xr.Dataset({"height": height}, coords={"time": times(range(4))})
    numbers = {"cycle": ("time", np.array([1, 1, 1, 2], np.int32)), "pass": ("time", np.array([9, 9, 10, 1], np.int32))}
    collection.insert(xr.DataTree.from_dict({"/": top, "/data": xr.Dataset(numbers)}), granule="one")
    new = converted(store, V2)
    assert [p.path for p in new.partitions()] == [
        "data_cycle=1/data_pass=9",
        "data_cycle=1/data_pass=10",
        "data_cycle=2/data_pass=1",
    ]
    assert [p.granules for p in new.partitions()] == [1, 1, 1]


def test_names_that_would_be_one_are_refused() -> None:
    store = somewhere()
    extra = [Variable("ku/range", "<i4", ("time",), (8,)), Variable("ku_range", "<i4", ("time",), (8,))]
    create_collection(store, small_schema(extra=extra), SequencePartitioning(("ku_range",)), clock=FakeClock())
    with pytest.raises(InvalidInputError, match="ku/range, ku_range would have one name"):
        convert(store, somewhere(), V2, clock=FakeClock())


def test_codecs_are_kept_on_demand() -> None:
    store = somewhere()
    schema = small_schema()
    gzip = parse_codecs(["gzip"], schema["height"])
    variables = tuple(replace(v, codecs=gzip) if v.path == "height" else v for v in schema.variables)
    coded = replace(schema, variables=variables)
    create_collection(store, coded, SequencePartitioning(("height",)), clock=FakeClock())
    assert converted(store, ConvertOptions(2, keep_codecs=True)).schema["height"].codecs == gzip
    assert converted(store, ConvertOptions(2)).schema["height"].codecs != gzip


def test_another_collection_at_the_target_is_left_alone() -> None:
    source, target = nested(), somewhere()
    create_collection(target, small_schema(), SequencePartitioning(("height",)), clock=FakeClock())
    with pytest.raises(ConflictError, match="another collection"):
        convert(source, target, V2, clock=FakeClock())
    with pytest.raises(InvalidInputError, match="must differ"):
        convert(source, source, V2, clock=FakeClock())


def test_values_that_differ_afterwards_are_told() -> None:
    source, target = nested(), somewhere()
    converted(source, V3, target)
    path = open_collection(target).partitions()[0].path
    chunk = next(i.key for i in target.list(f"{path}/height/") if "/c/" in i.key)
    later = next(i.key for i in target.list(f"{path}/height/") if "/c/" in i.key and i.key != chunk)
    overwrite(target, chunk, target.get(later).data)
    with pytest.raises(ConflictError, match="rows 0 to 4 of height"):
        convert(source, target, V3, writer=SMALL, clock=FakeClock())
    _, report = convert(source, target, ConvertOptions(3, verify=False), writer=SMALL, clock=FakeClock())
    assert (report.written, report.verified) == (0, False)


@pytest.mark.parametrize("options", [V2, V3], ids=["v2", "v3"])
def test_a_conversion_that_died_anywhere_goes_on_and_the_source_is_never_touched(options: ConvertOptions) -> None:
    source = nested()
    before = {i.key: i.etag for i in source.list()}
    wanted = stored(converted(source, options))
    resumed = set()

    def work(target: ObjectStore) -> None:
        convert(source, target, options, writer=SMALL, clock=FakeClock())

    for target, _ in deaths(somewhere(), work):
        collection, report = convert(source, target, options, writer=SMALL, clock=FakeClock())
        resumed.add(report.written)
        assert differ(stored(collection), wanted) == []
        assert verify(collection).findings == ()
        assert sum(1 for _ in collection.granules()) == 2
    assert resumed == {0, 1, 2}
    assert {i.key: i.etag for i in source.list()} == before


def test_progress_names_each_partition() -> None:
    told: list[tuple[str, int, int]] = []
    convert(nested(), somewhere(), V3, clock=FakeClock(), progress=lambda *step: told.append(step))
    assert [(number, total) for _, number, total in told] == [(1, 2), (2, 2)]


def test_a_source_that_is_rewritten_meanwhile_is_noticed() -> None:
    source = nested()
    collection = open_collection(source, mode="w", writer=SMALL, clock=FakeClock())

    def rewrite(path: str, number: int, total: int) -> None:
        for salt in range(8 if number == 1 else 0):
            collection.insert(rich([3, 4], offset=salt), granule=f"again {salt}")

    with pytest.raises(SnapshotExpiredError):
        convert(source, somewhere(), V3, writer=SMALL, clock=FakeClock(), progress=rewrite)
