"""Partitions of several numbers each, and partitions by a time that is not the axis."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from tests.engine_support import DAY, START, FakeClock, S3LikeStore, heights, rows_of, small_schema, time_variable
from zcollection_engine import DatePartitioning, SequencePartitioning, WriterOptions, create_collection
from zcollection_engine.errors import InvalidGranuleError, InvalidInputError
from zcollection_engine.partitioning import Partitioning, partitioning_from_json
from zcollection_engine.schema import Variable

sizes = st.integers(2, 40)
starts = st.integers(-50, 50)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-300, 300)), min_size=1, max_size=30), sizes, starts)
def test_a_group_holds_so_many_numbers_and_is_named_by_the_first(
    pairs: list[tuple[int, int]], size: int, start: int
) -> None:
    rule = SequencePartitioning(("cycle", "ku/pass"), size, start)
    columns = {
        name: np.array(values, np.int64) for name, values in zip(rule.names, zip(*pairs, strict=True), strict=True)
    }
    found = rule.split(columns)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(pairs)))
    for path, rows in found.items():
        (_, cycle), (name, first) = rule.keys(path)
        assert name == "pass"
        assert (first - start) % size == 0
        assert all(pairs[row][0] == cycle and first <= pairs[row][1] < first + size for row in rows)
        assert rows.tolist() == sorted(rows.tolist())
    assert list(found) == sorted(found, key=rule.keys)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_numbers_of_any_type_are_grouped_alike(dtype: type) -> None:
    rule = SequencePartitioning(("pass",), 10, 1)
    paths = rule.split({"pass": np.array([1, 10, 11, 120], dtype)})
    assert {path: rows.tolist() for path, rows in paths.items()} == {"pass=1": [0, 1], "pass=11": [2], "pass=111": [3]}


def test_numbers_below_the_start_are_grouped_downwards() -> None:
    rule = SequencePartitioning(("cycle",), 10)
    assert list(rule.split({"cycle": np.array([-1, -10, -11, 0])})) == ["cycle=-20", "cycle=-10", "cycle=0"]


@pytest.mark.parametrize(
    ("value", "dtype", "start"),
    [(2**63 - 1, np.int64, -5), (-(2**63), np.int64, 0), (-(2**63), np.int64, 5), (2**63 - 1, np.uint64, -5)],
)
def test_numbers_at_the_ends_of_int64_are_grouped_right_or_refused(value: int, dtype: type, start: int) -> None:
    rule = SequencePartitioning(("cycle",), 7, start)
    first = (value - start) // 7 * 7 + start
    if first < -(2**63):
        with pytest.raises(InvalidGranuleError, match="'cycle'"):
            rule.split({"cycle": np.array([value], dtype)})
    else:
        assert list(rule.split({"cycle": np.array([value], dtype)})) == [f"cycle={first}"]


def test_numbers_beyond_64_signed_bits_are_refused() -> None:
    with pytest.raises(InvalidGranuleError, match=f"'cycle' holds {2**64 - 1}"):
        SequencePartitioning(("cycle",), 5).split({"cycle": np.array([1, 2**64 - 1], np.uint64)})


def test_no_rows_have_no_groups() -> None:
    assert SequencePartitioning(("cycle",), 5).split({"cycle": np.empty(0, np.int64)}) == {}


@pytest.mark.parametrize("path", ["cycle=1/pass=2", "cycle=1/pass=0", "cycle=1/pass=-10", "cycle=1", "cycle=1/pass=01"])
def test_a_name_that_is_no_group_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError):
        SequencePartitioning(("cycle", "pass"), 10, 1).keys(path)


@pytest.mark.parametrize(("path", "last"), [("cycle=1/pass=1", 1), ("cycle=-3/pass=-9", -9), ("cycle=0/pass=991", 991)])
def test_a_name_of_a_group_is_parsed(path: str, last: int) -> None:
    assert SequencePartitioning(("cycle", "pass"), 10, 1).keys(path)[-1] == ("pass", last)


@pytest.mark.parametrize("size", [1, 0, -5])
def test_a_size_that_makes_no_groups_is_refused(size: int) -> None:
    with pytest.raises(InvalidInputError, match=f"size is {size}"):
        SequencePartitioning(("cycle",), size)


def test_a_grouping_survives_json() -> None:
    rule = SequencePartitioning(("cycle", "ku/pass"), 50, 1)
    assert partitioning_from_json(rule.to_json()) == rule
    assert rule.to_json()["name"] == "grouped-sequence"


# In a collection.


def stored(rule: Partitioning, extra: Variable, values: list[Any]) -> dict[str, list[tuple[int, int]]]:
    """Insert two granules of ten rows each, interleaved and unsorted, and return the rows by partition."""
    clock = FakeClock()
    store = S3LikeStore(f"memory://{uuid.uuid4().hex}", clock)
    schema = small_schema(chunk_rows=4, extra=[extra])
    collection = create_collection(store, schema, rule, writer=WriterOptions("me"), clock=clock)
    column = np.array(values, extra.numpy_dtype)
    if extra.attributes:
        column = column.astype("datetime64[ns]")
    for number, seconds in enumerate((range(18, -1, -2), range(19, 0, -2))):
        dataset = heights(seconds).assign({extra.path: ("time", column[list(seconds)])})
        collection.insert(dataset, granule=f"g{number}", precedence=number)
    found: dict[str, list[tuple[int, int]]] = {}
    for partition in collection.partitions():
        rows = collection.load([partition.path], decode=False)
        assert isinstance(rows, xr.Dataset)
        assert rows[extra.path].values.tolist() == [int(column[s].astype(np.int64)) for s, _ in rows_of(rows)]
        found[partition.path] = rows_of(rows)
    store.clear()
    return found


def test_a_collection_may_be_partitioned_by_groups() -> None:
    passes = [number % 7 - 2 for number in range(20)]
    found = stored(SequencePartitioning(("pass",), 3, 1), Variable("pass", "<i2", ("time",), (4,)), passes)
    # The second granule owns what lies between its first and its last time in each partition.
    assert list(found) == ["pass=-2", "pass=1", "pass=4"]
    for path, rows in found.items():
        first = int(path.removeprefix("pass="))
        mine = [s for s in range(20) if first <= passes[s] < first + 3]
        late = [s for s in mine if s % 2]
        assert rows == [(s, s) for s in mine if s % 2 or not min(late) <= s <= max(late)]


def test_a_collection_may_be_partitioned_by_a_time_that_is_not_its_axis() -> None:
    measured = [START - DAY * (number % 3) - number for number in range(20)]
    found = stored(DatePartitioning("measured", "day"), time_variable("measured", chunk_rows=4), measured)
    assert list(found) == [
        "year=2023/month=12/day=13",
        "year=2023/month=12/day=14",
        "year=2023/month=12/day=15",
        "year=2023/month=12/day=16",
    ]
    assert found["year=2023/month=12/day=16"] == [(0, 0)]
    days = {path: {s for s, _ in rows} for path, rows in found.items()}
    for path, seconds in days.items():
        day = np.datetime64(path.replace("year=", "").replace("/month=", "-").replace("/day=", "-"), "D")
        assert {np.datetime64(measured[s], "ns").astype("datetime64[D]") for s in seconds} == {day}
