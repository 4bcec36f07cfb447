"""The memory that a granule may take, and that the reader keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.limits import Budget
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.testing.sandbox import Limits, Sandbox

MAX_NBYTES = 48 << 20
#: Of address space, for the netCDF library and Python themselves.
_LIBRARY_NBYTES = 24 << 20


def budget(max_nbytes: int = 1000) -> Budget:
    return Budget(max_nbytes, name="g.nc")


def test_numbers_take_their_size() -> None:
    made = budget()
    made.reserve("/x", (10, 5), 4)
    made.reserve("/scalar", (), 8)
    assert made.left == 1000 - 200 - 8


def test_text_takes_more_than_its_characters() -> None:
    made = budget()
    made.reserve("/characters", (3, 10), kind="characters")
    made.reserve("/strings", (2,), kind="strings")
    assert made.left == 1000 - (3 * 64 + 30 * 4) - 2 * 64
    made.add_text("/strings", ["ab", "cdé"])
    assert made.left == 1000 - (3 * 64 + 30 * 4) - 2 * 64 - 5 * 4


def test_single_characters_are_a_text_each() -> None:
    made = budget()
    made.reserve("/letters", (5,), kind="characters")
    made.reserve("/letter", (), kind="characters")
    assert made.left == 1000 - 6 * (64 + 4)


def test_the_axis_takes_more_for_its_decoding() -> None:
    made = budget()
    made.reserve("/time", (10,), 8)
    made.reserve_axis("/time", 10)
    assert made.left == 1000 - 80 - 320


def test_the_largest_chunk_counts_and_no_other() -> None:
    made = budget()
    for length in (10, 30, 20):
        made.reserve_chunk("/x", (length, 2), 4)
    assert made.left == 1000 - 2 * 240


@pytest.mark.parametrize("shape", [(126,), (1 << 62, 1 << 62)])
def test_more_than_the_limit_is_refused_with_the_variable_and_both_numbers(shape: tuple[int, ...]) -> None:
    made = budget()
    with pytest.raises(InvalidGranuleError) as caught:
        made.reserve("/big", shape, 8)
    assert caught.value.code == "too_large"
    for word in ("g.nc", "/big", str(8 * shape[0]) if len(shape) == 1 else "", "1000"):
        assert word in str(caught.value)
    assert caught.value.context["variable"] == "/big"


def test_exactly_the_limit_is_taken() -> None:
    made = budget()
    made.reserve("/x", (125,), 8)
    assert made.left == 0


@given(shape=st.lists(st.integers(0, 6), max_size=4).map(tuple), left=st.integers(0, 4000), longest=st.integers(0, 50))
def test_blocks_cover_each_string_once_and_each_can_be_afforded(
    shape: tuple[int, ...], left: int, longest: int
) -> None:
    seen = np.zeros(shape, dtype=int)
    for block in budget(left).blocks(shape, longest):
        selected = seen[block]
        assert np.size(selected) <= max(1, left // (64 + 4 * longest))
        seen[block] = selected + 1
    assert (seen == 1).all()


def test_strings_that_surely_fit_are_read_at_once() -> None:
    assert list(budget(64 * 1000).blocks((10, 10), 100)) == [(...,)]


def numbers(dataset: netCDF4.Dataset) -> None:
    dataset.createDimension("n", MAX_NBYTES // 8 - 300_000)
    dataset.createVariable("x", "f8", ("n",), chunksizes=(100_000,))


def numbers_across(dataset: netCDF4.Dataset) -> None:
    dataset.createDimension("n", MAX_NBYTES // 40 - 60_000)
    dataset.createVariable("x", "f8", ("n", "time"), chunksizes=(20_000, 5))


def short_texts(dataset: netCDF4.Dataset) -> None:
    _characters(dataset, 2)


def long_texts(dataset: netCDF4.Dataset) -> None:
    _characters(dataset, 500)


def _characters(dataset: netCDF4.Dataset, width: int) -> None:
    rows = MAX_NBYTES // (64 + 4 * width) - 500
    dataset.createDimension("n", rows)
    dataset.createDimension("width", width)
    shape: dict[str, Any] = {"zlib": True, "chunksizes": (min(rows, 1000), width)}
    variable = dataset.createVariable("x", "S1", ("n", "width"), **shape)
    variable.set_auto_chartostring(False)
    variable[:] = np.full((rows, width), b"x")


def strings(dataset: netCDF4.Dataset) -> None:
    rows = MAX_NBYTES // (64 + 4 * 100) - 500
    dataset.createDimension("n", rows)
    dataset.createVariable("x", str, ("n",))[:] = np.array(["\U0001f600" * 100] * rows, dtype=object)


def rows_of_the_axis(dataset: netCDF4.Dataset) -> None:
    rows = MAX_NBYTES // 40 - 60_000
    dataset.createDimension("row", rows)
    time = dataset.createVariable("x", "f8", ("row",), zlib=True, chunksizes=(10_000,))
    time.units = "seconds since 2000-01-01"
    time[:] = np.arange(rows)


def written(folder: Path, build: Callable[[netCDF4.Dataset], None]) -> Path:
    path = folder / "g.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("time", 5)
        time = dataset.createVariable("time", "f8", ("time",))
        time[:] = np.arange(5)
        build(dataset)
    return path


def promised(path: Path) -> Limits:
    """The memory that the reader says it keeps to."""
    return Limits(2 * MAX_NBYTES + 2 * path.stat().st_size + _LIBRARY_NBYTES)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox([read_netcdf.__module__, __name__]) as made:
        yield made


def rows_read(path: Path, axis: str, max_nbytes: int) -> int:
    granule = read_netcdf(path.read_bytes(), GranuleSpec(axis, max_nbytes=max_nbytes), name="g.nc")
    return int(granule.variables["x"].values.size)


@pytest.mark.parametrize(
    "build",
    [numbers, numbers_across, short_texts, long_texts, strings, rows_of_the_axis],
    ids=lambda build: build.__name__,
)
def test_a_granule_just_within_its_limit_is_read_in_twice_that_memory(
    sandbox: Sandbox, tmp_path: Path, build: Callable[[netCDF4.Dataset], None]
) -> None:
    path = written(tmp_path, build)
    axis = "/x" if build is rows_of_the_axis else "/time"
    outcome = sandbox.run(rows_read, path, axis, MAX_NBYTES, limits=promised(path))
    assert outcome.kind == "returned", outcome
    assert outcome.value > 0
    refused = sandbox.run(rows_read, path, axis, int(0.9 * MAX_NBYTES))
    assert getattr(refused.error, "code", None) == "too_large", refused


def one_long_string(dataset: netCDF4.Dataset) -> None:
    dataset.createDimension("n", 2000)
    texts = ["x" * 100_000] + [f"{number}" for number in range(1, 2000)]
    dataset.createVariable("x", str, ("n",))[:] = np.array(texts, dtype=object)


def test_a_long_string_that_a_file_names_many_times_is_refused_before_it_takes_the_memory(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = written(tmp_path, one_long_string)
    data = path.read_bytes()
    # A reference is the length (4 bytes), the address of a heap (8) and an index in it (4).
    begin = data.index((100_000).to_bytes(4, "little"))
    reference = data[begin : begin + 16]
    path.write_bytes(data[:begin] + 2000 * reference + data[begin + 2000 * 16 :])
    outcome = sandbox.run(rows_read, path, "/time", MAX_NBYTES, limits=promised(path))
    assert getattr(outcome.error, "code", None) == "too_large", outcome
    assert "variable /x of strings" in str(outcome.error)
