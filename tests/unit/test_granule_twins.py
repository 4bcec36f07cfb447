"""The twins of real products are what their tests rely on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.granules_twins import (
    GAPS,
    SHARED_BOUNDARY,
    Twin,
    gsfc_twin,
    quirk_twins,
    sentinel3_wave_twin,
    sentinel6_times,
    sentinel6_twin,
)
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf


def s6_times(pass_number: int) -> np.ndarray:
    twin = sentinel6_twin(pass_number)
    granule = read_netcdf(twin.data, GranuleSpec("/data_01/time"), name=twin.name)
    return granule.variables["time"].values.view("datetime64[ns]")


def values_of(twin: Twin, axis: str = "/time") -> dict[str, list[object]]:
    """All values of a twin; its bytes also hold the second in which HDF5 wrote them."""
    granule = read_netcdf(twin.data, GranuleSpec(axis), name=twin.name)
    return {path: variable.values.tolist() for path, variable in granule.variables.items()}


def test_the_same_arguments_give_the_same_values_and_another_seed_other_values() -> None:
    def sentinel6(seed: int = 0) -> dict[str, list[object]]:
        return values_of(sentinel6_twin(99, rows=30, seed=seed), "/data_01/time")

    assert sentinel6() == sentinel6()
    assert values_of(sentinel3_wave_twin(rows=30)) == values_of(sentinel3_wave_twin(rows=30))
    assert repr(values_of(gsfc_twin(rows=30))) == repr(values_of(gsfc_twin(rows=30)))
    assert {n: len(d) for n, d in quirk_twins().items()} == {n: len(d) for n, d in quirk_twins().items()}
    assert sentinel6() != sentinel6(seed=1)


@pytest.mark.parametrize("rows", [2, 17, 500])
def test_passes_follow_each_other_and_one_pair_shares_its_boundary(rows: int) -> None:
    for number in range(99, 111):
        now, following = sentinel6_times(number, rows=rows), sentinel6_times(number + 1, rows=rows)
        assert len(now) == rows
        assert (np.diff(now) > 0).all()
        assert (now[-1] == following[0]) == (number == SHARED_BOUNDARY[0])
        assert now[-1] <= following[0]


def test_the_first_pass_straddles_midnight_and_two_have_gaps() -> None:
    days = np.unique(s6_times(99).astype("datetime64[D]"))
    assert days.tolist() == np.array(["2023-12-16", "2023-12-17"], "datetime64[D]").tolist()
    assert s6_times(108)[-1] == s6_times(109)[0]
    for number, gap in GAPS.items():
        steps = np.diff(sentinel6_times(number, rows=400))
        assert steps.max() - np.median(steps) == pytest.approx(gap, abs=1e-3)


def test_files_are_named_like_the_real_ones() -> None:
    assert sentinel6_twin(99).name == "S6A_P4_2__LR_RED__NT_114_099_20231216T231346_20231217T000958_F08.nc"
    assert sentinel6_twin(100).name.startswith("S6A_P4_2__LR_RED__ST_114_100_2023121")
    assert sentinel3_wave_twin().name.startswith("global_vavh_l3_rt_s3a_20201101T000000_20201101T030000_")
    assert gsfc_twin("2022-01-02").name == "GSFC-alt_ssh20220102.nc"
