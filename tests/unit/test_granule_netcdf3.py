"""The size that a NetCDF-3 header implies, against files written by the netCDF library."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import netCDF4
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.granules.netcdf3 import implied_size, with_record_count

MODELS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")
CLASSIC_TYPES = ("i1", "S1", "i2", "i4", "f4", "f8")
WIDE_TYPES = (*CLASSIC_TYPES, "u1", "u2", "u4", "i8", "u8")

Shape = tuple[bool, tuple[int, ...], str]


def write(path: Path, model: str, variables: list[Shape], *, records: int, attributes: int = 0) -> bytes:
    """Write a file: each variable along the records or not, with inner sizes and a dtype."""
    with netCDF4.Dataset(path, "w", format=cast("Any", model)) as dataset:
        dataset.createDimension("record", None)
        for number in range(attributes):
            dataset.setncattr(f"attribute{'x' * number}", "v" * number)
        for number, (is_record, inner, dtype) in enumerate(variables):
            names = [f"d{number}_{place}" for place in range(len(inner))]
            for name, size in zip(names, inner, strict=True):
                dataset.createDimension(name, size)
            dimensions = (["record"] if is_record else []) + names
            variable = dataset.createVariable(f"variable{number}", dtype, dimensions)
            variable.units = "m" * (number + 1)
            shape = ([records] if is_record else []) + list(inner)
            if math.prod(shape):
                variable[...] = np.full(shape, b"a" if dtype == "S1" else 7, dtype=dtype)
    return path.read_bytes()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, list[Shape], int, int]:
    model = draw(st.sampled_from(MODELS))
    dtypes = st.sampled_from(WIDE_TYPES if model.endswith("DATA") else CLASSIC_TYPES)
    inner = st.lists(st.integers(1, 5), max_size=3).map(tuple)
    variables = draw(st.lists(st.tuples(st.booleans(), inner, dtypes), min_size=1, max_size=5))
    return model, variables, draw(st.integers(0, 4)), draw(st.integers(0, 4))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_header_implies_the_size_of_the_file(tmp_path: Path, layout: tuple[str, list[Shape], int, int]) -> None:
    model, variables, records, attributes = layout
    data = write(tmp_path / "x.nc", model, variables, records=records, attributes=attributes)
    assert 0 <= len(data) - implied_size(data) <= 3
    assert with_record_count(data) == data


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variables", [[(True, (), "f8"), (True, (3,), "i2")], [(False, (6,), "i2")]])
def test_every_truncation_is_refused(tmp_path: Path, model: str, variables: list[Shape]) -> None:
    data = write(tmp_path / "x.nc", model, variables, records=4)
    whole = implied_size(data)
    for size in range(4, whole):
        cut = data[:size]
        with pytest.raises(InvalidGranuleError) as caught:
            read_netcdf(cut, GranuleSpec("/variable0"), name="cut.nc")
        assert caught.value.code == "truncated"
        assert "cut.nc" in str(caught.value)


@pytest.mark.parametrize("dtype", ["i1", "i2"])
def test_a_lone_record_variable_is_not_padded(tmp_path: Path, dtype: str) -> None:
    alone = write(tmp_path / "x.nc", "NETCDF3_CLASSIC", [(True, (3,), dtype)], records=5)
    assert 0 <= len(alone) - implied_size(alone) <= 3
    together = write(tmp_path / "y.nc", "NETCDF3_CLASSIC", [(True, (3,), dtype)] * 2, records=5)
    assert 0 <= len(together) - implied_size(together) <= 3


def open_ended(data: bytes) -> bytes:
    width = 8 if data[3] == 5 else 4
    return data[:4] + b"\xff" * width + data[4 + width :]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variables", [[(True, (), "f8"), (True, (3,), "i2"), (False, (2,), "i4")], [(True, (), "f8")]])
def test_a_file_whose_writer_left_the_record_count_open_is_read_whole(
    tmp_path: Path, model: str, variables: list[Shape]
) -> None:
    data = write(tmp_path / "x.nc", model, variables, records=5)
    streamed = open_ended(data)
    assert with_record_count(streamed) == data
    assert read_netcdf(streamed, GranuleSpec("/variable0"), name="x").rows == 5
    assert read_netcdf(streamed[:-8], GranuleSpec("/variable0"), name="x").rows == 4


def damaged(change: Callable[[bytearray], None], tmp_path: Path) -> bytes:
    data = bytearray(write(tmp_path / "x.nc", "NETCDF3_CLASSIC", [(False, (3,), "i2")], records=0))
    change(data)
    return bytes(data)


def put(at: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at : at + 4] = value.to_bytes(4, "big")

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(8, 0x0B), "unreadable"),  # a list of variables where dimensions belong
        (put(12, 0x7FFFFFFF), "truncated"),  # two billion dimensions
        (put(16, 0xFFFFFFF0), "truncated"),  # a name of four gigabytes
    ],
)
def test_lies_in_the_header_are_refused(tmp_path: Path, change: Callable[[bytearray], None], reason: str) -> None:
    with pytest.raises(InvalidGranuleError) as caught:
        implied_size(damaged(change, tmp_path), name="lie.nc")
    assert caught.value.code == reason
    assert "lie.nc" in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(3, 150), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_gives_a_size_or_a_reason(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "whole.nc"
    if not path.exists():
        write(path, "NETCDF3_CLASSIC", [(True, (2,), "i2"), (False, (4, 2), "f8")], records=3, attributes=2)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at] = value
    assert outcome(bytes(data)) in {"a size", "truncated", "unreadable", "not_netcdf"}


def outcome(data: bytes) -> str:
    try:
        size = implied_size(data)
    except InvalidGranuleError as error:
        return error.code
    return "a size" if size > 0 else f"{size}"


def test_huge_dimensions_saturate_instead_of_multiplying(tmp_path: Path) -> None:
    inner = (2,) * 12
    data = bytearray(write(tmp_path / "x.nc", "NETCDF3_64BIT_DATA", [(False, inner, "f8")], records=0))
    large = (1 << 62).to_bytes(8, "big")
    data = bytearray(bytes(data).replace((2).to_bytes(8, "big"), large))
    with pytest.raises(InvalidGranuleError) as caught:
        read_netcdf(bytes(data), GranuleSpec("/variable0"), name="huge.nc")
    assert caught.value.code in {"truncated", "unreadable"}


def test_other_formats_have_no_netcdf3_header() -> None:
    for data in (b"", b"CD", b"CDF\x03....", b"\x89HDF\r\n\x1a\n"):
        with pytest.raises(InvalidGranuleError) as caught:
            implied_size(data)
        assert caught.value.code == "not_netcdf"
