"""A user's own merge function: how it is called, what it may return, and that the order of arrival counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests import merge_functions
from tests.engine_support import DAY_16
from tests.merge_engine import Landing, a_collection, keys_of, nanoseconds, one, schema
from tests.merge_ledger import A, Version
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.merging import Custom
from zcollection_engine.merging.custom import call_function, load_function

FIRST, SECOND = one("first", 1, 1, 3, 5), one("second", 2, 3, 4)


def named(name: str) -> Custom:
    return Custom(f"tests.merge_functions:{name}")


def values(*times: int) -> dict[str, Any]:
    """Rows as stored, by path."""
    return {
        "time": np.array([nanoseconds(t) for t in times], np.int64),
        "height": np.array(times, np.int32),
        "x": np.array(times, np.float64),
        "word": np.array([f"row {t}" for t in times], object),
        "granule": np.full(len(times), 7, np.uint64),
    }


def test_a_function_gets_both_datasets_as_they_are_stored_and_is_told_axis_and_dimension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[xr.Dataset, xr.Dataset, dict[str, str]]] = []

    def record(existing: xr.Dataset, inserted: xr.Dataset, **names: str) -> xr.Dataset:
        calls.append((existing, inserted, names))
        return existing

    monkeypatch.setattr(merge_functions, "keep_all", record)
    call_function("tests.merge_functions:keep_all", schema(), values(1, 2), values(3))
    ((existing, inserted, names),) = calls
    assert names == {"axis": "time", "dim": "time"}
    assert existing["time"].values.tolist() == [nanoseconds(1), nanoseconds(2)]
    assert existing["time"].dtype == "datetime64[ns]"
    assert existing["height"].dtype == np.int32
    assert existing["height"].attrs == {"scale_factor": 0.001, "units": "m"}
    assert inserted["word"].values.tolist() == ["row 3"]
    assert sorted(map(str, inserted.variables)) == ["granule", "height", "time", "word", "x"]


def test_the_first_rows_of_a_partition_are_ordered_without_a_call() -> None:
    found = call_function("tests.merge_functions:fail", schema(), values(), values(3, 1, 2))
    assert found["height"].tolist() == [1, 2, 3]


def test_what_a_function_returns_is_ordered_by_the_axis_and_keeps_its_types() -> None:
    found = call_function("tests.merge_functions:keep_all", schema(), values(5, 1), values(3))
    assert found["time"].tolist() == [nanoseconds(1), nanoseconds(3), nanoseconds(5)]
    assert found["height"].tolist() == [1, 3, 5]
    assert found["word"].tolist() == ["row 1", "row 3", "row 5"]
    assert {path: v.dtype for path, v in found.items()} == {v.path: v.numpy_dtype for v in schema().variables}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.merge_functions:fail", "fail.*failed: RuntimeError: no idea"),
        ("tests.merge_functions:drop_height", "drop_height.*returned no variable 'height'"),
        ("tests.merge_functions:widen_height", "'height' as float64; it is stored as <i4"),
        ("tests.merge_functions:rename_dimension", r"with the dimensions \('row',\)"),
        ("tests.merge_functions:return_arrays", "returned a ndarray, not a xarray.Dataset"),
        ("tests.merge_functions:nothing", "'tests.merge_functions:nothing' cannot be imported"),
        ("tests.nothing:nothing", "'tests.nothing:nothing' cannot be imported"),
        ("tests.merge_functions:NO_FUNCTION", "is no function but a int"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_by_name_and_reason(name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call_function(name, schema(), values(1), values(2))


@pytest.mark.parametrize("name", ["function", "module:", ":function", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="module:function"):
        Custom(name)


def test_a_function_is_found_by_its_name() -> None:
    assert load_function("tests.merge_functions:keep_all") is merge_functions.keep_all


@pytest.mark.parametrize("name", ["fail", "move_a_day"])
def test_a_function_that_fails_or_leaves_its_partition_changes_nothing(name: str) -> None:
    with a_collection(named(name)) as collection:
        landing = Landing(collection)
        landing.deliver(FIRST)
        before = landing.content()
        with pytest.raises(InvalidInputError, match=name):
            landing.deliver(SECOND)
        assert landing.content() == before
        assert {e.identity.key for e in collection.granules()} == {"first"}


def test_the_granules_of_a_transaction_are_merged_one_after_another_in_ascending_rank() -> None:
    with a_collection(named("keep_newcomers")) as collection:
        landing = Landing(collection)
        landing.deliver(SECOND, FIRST)
        assert landing.content() == {A: [(FIRST.id, 0), (SECOND.id, 0), (SECOND.id, 1), (FIRST.id, 2)]}
        assert keys_of(collection, DAY_16) == ["first", "second", "second", "first"]


def test_the_result_depends_on_the_order_of_arrival() -> None:
    found = []
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        with a_collection(named("keep_newcomers")) as collection:
            landing = Landing(collection)
            for version in order:
                landing.deliver(version)
            found.append(landing.content()[A])
    assert found == [
        [(FIRST.id, 0), (SECOND.id, 0), (SECOND.id, 1), (FIRST.id, 2)],
        [(FIRST.id, 0), (FIRST.id, 1), (FIRST.id, 2)],
    ]


def test_a_newer_version_replaces_the_rows_of_the_older_one_before_the_function_is_called() -> None:
    with a_collection(named("keep_all")) as collection:
        landing = Landing(collection)
        landing.deliver(FIRST, SECOND)
        newer = one("first", 3, 2)
        landing.deliver(newer)
        assert landing.content() == {A: [(newer.id, 0), (SECOND.id, 0), (SECOND.id, 1)]}


def test_a_function_may_empty_a_partition_which_later_granules_fill_again() -> None:
    with a_collection(named("keep_nothing")) as collection:
        landing = Landing(collection)
        landing.deliver(FIRST)
        landing.deliver(SECOND)
        assert landing.content() == {}
        third = Version("third", 3, ((6, 0.5, "c"),))
        landing.deliver(third)
        assert landing.content() == {A: [(third.id, 0)]}
