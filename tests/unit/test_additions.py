"""Granules that bring variables which their collection lacks, where the policy is to add them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.engine_support import (
    DAY_16,
    DAY_17,
    FakeClock,
    S3LikeStore,
    heights,
    plain_columns,
    plain_rows,
    small_schema,
)
from zcollection_engine import Collection, create_collection, open_collection
from zcollection_engine.codecs import parse_codecs
from zcollection_engine.errors import ReadOnlyError, SchemaMismatchError
from zcollection_engine.granules.additions import find_addition
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.partitioning import DatePartitioning
from zcollection_engine.schema import PROVENANCE, Dimension, Variable
from zcollection_engine.transaction import WriterOptions
from zcollection_engine.verification.verifying import verify

DAY = 86_400
ADDING = DriftPolicy(new="add", missing="fill")
DAILY = DatePartitioning("time", "day")
SCHEMA = small_schema(chunk_rows=4, extra=[Variable("bands", "<f4", ("time", "band"), (4, 3))])


@pytest.fixture
def store() -> Iterator[S3LikeStore]:
    made = S3LikeStore(f"memory://{uuid.uuid4().hex}", FakeClock())
    yield made
    made.clear()


def collection_in(store: S3LikeStore, policy: DriftPolicy = ADDING) -> Collection:
    return create_collection(store, small_schema(chunk_rows=4), DAILY, drift=policy, writer=WriterOptions("me"))


def with_variable(seconds: list[int], values: Any, *, name: str = "wave", **attributes: Any) -> xr.Dataset:
    dataset = heights(seconds)
    array = np.asarray(values)
    dataset[name] = xr.Variable(("time", "bin")[: array.ndim], array, attributes)
    return dataset


def waves(seconds: list[int], values: list[int]) -> xr.Dataset:
    return with_variable(seconds, np.array(values, np.int16), scale_factor=0.01, units="m", _FillValue=np.int16(-1))


# What is to be added.


def granule(**variables: GranuleVariable) -> Granule:
    rows = GranuleVariable(("time",), np.arange(2), {"units": "nanoseconds since 1970-01-01"})
    return Granule("g.nc", "time", "time", {"time": rows, **variables})


def numbers(
    dtype: str, *, fill: Any = None, dimensions: tuple[str, ...] = ("time",), **attributes: Any
) -> GranuleVariable:
    sizes = {"time": 2, "band": 3, "bin": 5}
    return GranuleVariable(dimensions, np.zeros([sizes[d] for d in dimensions], dtype), attributes, fill)


def test_an_addition_is_stored_as_if_it_had_been_there_from_the_beginning() -> None:
    packed = numbers("<i2", fill=-1, scale_factor=0.01, units="m")
    addition = find_addition(granule(wave=packed), SCHEMA)
    (wave,) = addition.variables
    expected = Variable("wave", "<i2", ("time",), (4,), -1, {"scale_factor": 0.01, "units": "m"})
    assert wave == replace(expected, codecs=parse_codecs("default", expected))
    assert addition.dimensions == ()
    assert addition.to(SCHEMA)["wave"] == wave


def test_new_inner_dimensions_come_with_their_sizes_and_known_ones_stay() -> None:
    spectrum = numbers("<f4", dimensions=("time", "bin"))
    other = numbers("<f4", dimensions=("time", "band"))
    addition = find_addition(granule(spectrum=spectrum, other=other), SCHEMA)
    assert addition.dimensions == (Dimension("bin", 5),)
    assert {v.path: v.chunks for v in addition.variables} == {"spectrum": (4, 5), "other": (4, 3)}


@pytest.mark.parametrize(("dtype", "fill"), [("<f4", math.nan), ("<f8", math.nan), ("object", None)])
def test_floats_and_text_have_a_value_for_the_rows_that_are_there(dtype: str, fill: Any) -> None:
    (found,) = find_addition(granule(x=numbers(dtype)), SCHEMA).variables
    assert repr(found.fill_value) == repr(fill)


@pytest.mark.parametrize("dtype", ["<i2", "|u1", "<i8", "|b1"])
def test_whole_numbers_need_a_declared_fill_value(dtype: str) -> None:
    with pytest.raises(SchemaMismatchError, match=r"^g\.nc: variable 'x'.* without a fill value.*_FillValue") as caught:
        find_addition(granule(x=numbers(dtype)), SCHEMA)
    assert (caught.value.context["granule"], caught.value.context["variable"]) == ("g.nc", "x")


@pytest.mark.parametrize("dtype", ["<m8[ns]", "<c16"])
def test_a_type_that_cannot_be_stored_is_refused(dtype: str) -> None:
    with pytest.raises(SchemaMismatchError, match="numbers or text"):
        find_addition(granule(x=numbers(dtype)), SCHEMA)


def test_nothing_is_added_but_row_variables_that_are_new_and_were_not_dropped() -> None:
    found = granule(
        bands=numbers("<f4", dimensions=("time", "band")),
        table=numbers("<f4", dimensions=("band",)),
        old=numbers("<f4"),
        **{PROVENANCE: numbers("<u8")},
    )
    assert not find_addition(found, SCHEMA, dropped=["old"])


def test_another_product_adds_nothing() -> None:
    other = Granule("g.nc", "clock", "row", {"clock": GranuleVariable(("row",), np.arange(2))})
    assert not find_addition(other, SCHEMA)


# Inserts.


def test_an_insert_adds_what_is_new_and_old_rows_read_as_its_fill_value(store: S3LikeStore) -> None:
    collection = collection_in(store)
    collection.insert(heights([0, 1, DAY]), granule="a")
    outcome = collection.insert(waves([1, 2], [10, 20]), granule="b")
    assert outcome.commit == collection.commit
    assert plain_columns(store, "wave") == {DAY_16: [-1, 10, 20], DAY_17: [-1]}
    assert plain_rows(store)[DAY_16] == [(0, 0), (1, 1), (2, 2)]
    assert [info.operation for info in collection.history()] == ["merge", "add", "merge"]
    collection.insert(heights([3]), granule="c")
    assert plain_columns(store, "wave")[DAY_16] == [-1, 10, 20, -1]
    assert verify(collection, store=store).findings == ()


def test_an_insert_into_an_empty_collection_adds_too(store: S3LikeStore) -> None:
    collection = collection_in(store)
    collection.insert(with_variable([0, 1], np.ones((2, 5), np.float32), name="spectrum"), granule="a")
    assert collection.schema.sizes["bin"] == 5
    assert collection.schema["spectrum"].chunks == (4, 5)
    assert np.asarray(collection.load(variables=["spectrum"], decode=False)["spectrum"]).tolist() == [[1.0] * 5] * 2


@pytest.mark.parametrize("policy", [DriftPolicy(), DriftPolicy(new="reject")])
def test_without_the_policy_nothing_is_added(store: S3LikeStore, policy: DriftPolicy) -> None:
    collection = collection_in(store, policy)
    if policy.new == "reject":
        with pytest.raises(SchemaMismatchError, match="'wave'"):
            collection.insert(waves([0], [1]))
        assert collection.partitions() == []
    else:
        collection.insert(waves([0], [1]))
    assert "wave" not in collection.schema.by_path


def test_a_dataset_that_does_not_fit_adds_nothing(store: S3LikeStore) -> None:
    collection = collection_in(store)
    before = collection.state.number
    strange = waves([0], [1])
    strange["height"] = strange["height"].astype(np.float64) + 0.5
    with pytest.raises(SchemaMismatchError, match="'height'"):
        collection.insert(strange)
    with pytest.raises(SchemaMismatchError, match="'count'"):
        collection.insert(with_variable([0], np.array([1], np.int16), name="count"))
    assert collection.state.number == before


def test_what_another_writer_added_meanwhile_is_taken_as_it_is(store: S3LikeStore) -> None:
    collection = collection_in(store)
    other = open_collection(store, mode="w", writer=WriterOptions("other"))
    theirs = Variable("wave", "<i4", ("time",), (4,), -7, {"scale_factor": 0.01, "units": "m"})
    other.add_variables([theirs])
    assert "wave" not in collection.schema.by_path
    collection.insert(waves([0, 1], [10, -1]), granule="b")
    assert collection.schema["wave"] == theirs
    assert plain_columns(store, "wave") == {DAY_16: [10, -7]}


def test_an_addition_that_is_beaten_in_the_last_moment_is_no_error(
    store: S3LikeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = collection_in(store)
    other = open_collection(store, mode="w", writer=WriterOptions("other"))
    theirs = Variable("wave", "<i4", ("time",), (4,), -7)
    ours = Variable("more", "<f4", ("time",), (4,))
    add = Collection.add_variables

    def beaten(self: Collection, *args: Any, **options: Any) -> int:
        monkeypatch.setattr(Collection, "add_variables", add)
        other.add_variables([theirs])
        return add(self, *args, **options)

    monkeypatch.setattr(Collection, "add_variables", beaten)
    collection.require_variables([replace(theirs, dtype="<i2"), ours])
    assert (collection.schema["wave"], collection.schema["more"]) == (theirs, ours)


def test_a_variable_that_was_dropped_stays_out_until_it_is_added_on_purpose(store: S3LikeStore) -> None:
    collection = collection_in(store)
    collection.insert(waves([0], [1]), granule="a")
    wave = collection.schema["wave"]
    collection.drop_variables(["wave"])
    collection.insert(waves([1], [2]), granule="b")
    assert "wave" not in collection.schema.by_path
    assert plain_rows(store)[DAY_16] == [(0, 0), (1, 1)]
    collection.add_variables([wave])
    collection.insert(waves([2], [3]), granule="c")
    assert plain_columns(store, "wave") == {DAY_16: [-1, -1, 3]}


def test_a_collection_opened_for_reading_refuses_before_it_adds(store: S3LikeStore) -> None:
    collection_in(store)
    with pytest.raises(ReadOnlyError):
        open_collection(store).insert(waves([0], [1]))


def test_the_same_granules_give_the_same_rows_whichever_brings_the_variable(store: S3LikeStore) -> None:
    datasets = {"a": heights([0, 1, 2]), "b": waves([1, 2], [10, 20]), "c": heights([2, 3])}
    found = []
    for order in ("abc", "acb", "bac", "bca", "cab", "cba"):
        twin = S3LikeStore(f"memory://{uuid.uuid4().hex}", FakeClock())
        collection = collection_in(twin)
        for name in order:
            collection.insert(datasets[name], granule=name, precedence=ord(name))
        found.append((plain_columns(twin, "wave"), plain_rows(twin)))
        twin.clear()
    assert found[0][0] == {DAY_16: [-1, 10, -1, -1]}
    assert all(other == found[0] for other in found)
