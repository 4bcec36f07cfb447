"""The synthetic granules of the demonstration: what is in them, and in which order they come."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import cache
from itertools import pairwise

import netCDF4
import numpy as np
import numpy.typing as npt
import pytest

from daemon.demo.earth import Track, Waves, is_land, outlines
from daemon.demo.granules import GRANULES, PATTERN, START, DemoGranule, Kind, make_deliveries, make_granules
from daemon.routing import Router, Rule
from daemon.sources.base import ObjectRef
from zcollection_engine.errors import InvalidGranuleError, SchemaMismatchError
from zcollection_engine.granules.conform import conform
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf

SPEC = GranuleSpec(axis="/time", attributes={"cycle_number": "uint16", "pass_number": "uint16"})
DAY = 86_400 * 10**9


@cache
def granules() -> tuple[DemoGranule, ...]:
    return tuple(make_granules())


@cache
def deliveries() -> tuple[DemoGranule, ...]:
    return tuple(make_deliveries())


def read(granule: DemoGranule) -> Granule:
    return read_netcdf(granule.data, SPEC, name=granule.key)


def times(granule: DemoGranule) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = read(granule).variables["time"].values
    return values


def whole() -> list[DemoGranule]:
    return [granule for granule in granules() if granule.kind is not Kind.TRUNCATED]


def only(kind: Kind) -> DemoGranule:
    (found,) = (granule for granule in deliveries() if granule.kind is kind)
    return found


def physical(granule: DemoGranule) -> dict[str, npt.NDArray[np.float64]]:
    with netCDF4.Dataset("granule.nc", memory=granule.data) as file:
        return {name: np.ma.filled(variable[:].astype(float), np.nan) for name, variable in file.variables.items()}


def test_forty_granules_make_forty_two_deliveries() -> None:
    assert len(granules()) == len({granule.key for granule in granules()}) == GRANULES == 40
    assert len(deliveries()) == 42
    assert {granule.key for granule in deliveries()} == {granule.key for granule in granules()}
    special = Counter(granule.kind for granule in deliveries() if granule.kind is not Kind.GOOD)
    assert special == {
        Kind.MIDNIGHT: 2,
        Kind.REPEATED: 1,
        Kind.CHANGED: 1,
        Kind.TRUNCATED: 1,
        Kind.WRONG_SCHEMA: 1,
    }


def test_deliveries_are_out_of_order_and_begin_with_good_granules() -> None:
    keys = [granule.key for granule in deliveries()]
    assert keys != sorted(keys)
    assert all(granule.kind is not Kind.WRONG_SCHEMA for granule in deliveries()[: GRANULES // 2])
    assert [granule.kind for granule in deliveries()[-2:]] == [Kind.REPEATED, Kind.CHANGED]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_seed_lets_a_good_granule_found_the_collection(seed: int) -> None:
    kinds = [granule.kind for granule in make_deliveries(seed)]
    assert kinds.index(Kind.WRONG_SCHEMA) > min(kinds.index(Kind.GOOD), kinds.index(Kind.MIDNIGHT))
    assert Counter(kinds)[Kind.MIDNIGHT] == 2


def test_a_granule_has_twenty_variables_and_about_3300_rows() -> None:
    for granule in whole():
        with netCDF4.Dataset("granule.nc", memory=granule.data) as file:
            assert file.data_model == "NETCDF4"
            assert len(file.variables) == 20
            assert len(file.dimensions["time"]) == granule.rows
            assert 3250 <= granule.rows <= 3310


def test_variables_are_packed_integers_with_a_fill_value() -> None:
    variables = read(granules()[0]).variables
    packed = {name for name, variable in variables.items() if "scale_factor" in variable.attributes}
    assert len(packed) == 17
    assert {variables[name].values.dtype.str for name in packed} == {"<i2", "<i4"}
    assert all(variables[name].fill_value is not None for name in packed)
    assert variables["altitude"].attributes["add_offset"] == 1.3e6
    assert variables["surface_type"].values.dtype == np.int8


def test_passes_cover_four_days_in_ascending_disjoint_intervals() -> None:
    intervals = [(times(granule)[0], times(granule)[-1]) for granule in whole()]
    assert all(earlier[1] < later[0] for earlier, later in pairwise(intervals))
    assert all(timedelta(minutes=55) < timedelta(microseconds=int(b - a) // 1000) for a, b in intervals)
    assert {int(first) // DAY for first, _ in intervals} == {int(START.timestamp()) // 86_400 + n for n in range(4)}


def test_just_two_granules_straddle_midnight() -> None:
    straddling = [g.key for g in whole() if times(g)[0] // DAY != times(g)[-1] // DAY]
    assert straddling == [g.key for g in granules() if g.kind is Kind.MIDNIGHT]
    assert len(straddling) == 2


def test_heights_and_corrections_add_up_to_the_packing() -> None:
    v = physical(granules()[0])
    corrections = ("dry_troposphere", "wet_troposphere", "ionosphere", "sea_state_bias")
    tides = ("ocean_tide", "solid_earth_tide", "pole_tide", "dynamic_atmosphere")
    ssha = v["altitude"] - v["range_ku"] - v["mean_sea_surface"] - sum(v[name] for name in (*corrections, *tides))
    at_sea = ~np.isnan(v["ssha"])
    assert at_sea.sum() > 1000
    assert np.abs(ssha - v["ssha"])[at_sea].max() < 0.0012


def test_values_are_believable() -> None:
    at = {name: np.concatenate([physical(g)[name] for g in whole()[:8]]) for name in ("ssha", "swh", "wind_speed")}
    assert np.nanmax(np.abs(at["ssha"])) < 1.5
    assert 0.04 < np.nanstd(at["ssha"]) < 0.25
    assert np.nanmin(at["swh"]) > 0
    assert 1.0 < np.nanmedian(at["swh"]) < 4.0
    assert 3.0 < np.nanmedian(at["wind_speed"]) < 12.0


def test_there_is_no_sea_on_land() -> None:
    for granule in whole()[:4]:
        values = physical(granule)
        assert np.isnan(values["ssha"][values["surface_type"] == 1]).all()
        assert 0.2 < np.mean(values["surface_type"] == 0) < 1.0


def test_the_same_seed_gives_the_same_content() -> None:
    again = make_granules()
    for first, second in zip(granules(), again, strict=True):
        assert (first.key, first.kind, first.rows) == (second.key, second.kind, second.rows)
        if first.kind is not Kind.TRUNCATED:
            expected, found = read(first), read(second)
            assert expected.attributes == found.attributes
            for name, variable in expected.variables.items():
                np.testing.assert_array_equal(variable.values, found.variables[name].values)


def test_another_seed_gives_other_content() -> None:
    other = make_granules(7)[0]
    assert not np.array_equal(physical(other)["swh"][:3000], physical(granules()[0])["swh"][:3000], equal_nan=True)


def test_all_good_granules_fit_one_schema() -> None:
    good = [granule for granule in deliveries() if granule.kind not in {Kind.TRUNCATED, Kind.WRONG_SCHEMA}]
    schema = infer_schema(read(good[0]))
    for granule in good:
        assert conform(read(granule), schema).rows == granule.rows


def test_the_truncated_granule_is_refused_as_such() -> None:
    with pytest.raises(InvalidGranuleError) as caught:
        read(only(Kind.TRUNCATED))
    assert caught.value.code == "truncated"


def test_the_wrong_schema_is_refused_for_its_units() -> None:
    schema = infer_schema(read(granules()[0]))
    with pytest.raises(SchemaMismatchError, match=r"'ssha' has units 'cm'"):
        conform(read(only(Kind.WRONG_SCHEMA)), schema)


def test_the_repeated_delivery_is_byte_for_byte_the_first() -> None:
    again = only(Kind.REPEATED)
    assert [granule.data == again.data for granule in deliveries() if granule.key == again.key] == [True, True]


def test_the_changed_delivery_differs_in_ssha_and_altitude_by_three_centimetres() -> None:
    changed = only(Kind.CHANGED)
    (first,) = (granule for granule in granules() if granule.key == changed.key)
    before, after = physical(first), physical(changed)
    differing = {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}
    assert differing == {"ssha", "altitude"}
    np.testing.assert_allclose((before["ssha"] - after["ssha"])[~np.isnan(before["ssha"])], 0.03, atol=0.0011)


def test_keys_match_the_pattern_of_the_demonstration() -> None:
    router = Router([Rule("altimetry", (PATTERN,))], own=())
    for granule in granules():
        assert router.route(ObjectRef(f"s3://demo/{granule.key}", "demo", granule.key)).collection == "altimetry"


@pytest.mark.parametrize(
    ("longitude", "latitude", "expected"),
    [(20.0, 20.0, True), (-60.0, -10.0, True), (135.0, -25.0, True), (-150.0, 0.0, False), (80.0, -30.0, False)],
    ids=["Sahara", "Amazonia", "Australia", "Pacific", "Indian Ocean"],
)
def test_land_is_where_it_is(longitude: float, latitude: float, expected: bool) -> None:
    assert is_land(np.array([longitude]), np.array([latitude])).tolist() == [expected]


def test_outlines_are_rings_on_the_map() -> None:
    for ring in outlines().values():
        assert ring.shape[0] >= 4
        assert np.abs(ring).max(axis=0).tolist() <= [180.0, 90.0]


def test_the_track_turns_at_the_inclination_and_crosses_the_equator_once_a_pass() -> None:
    track = Track(np.arange(0.0, 10 * 3372.0, 1.0))
    assert np.abs(track.latitude).max() == pytest.approx(66.04, abs=1e-3)
    assert np.count_nonzero(np.diff(np.sign(track.latitude))) == 10
    assert np.abs(track.longitude).max() <= 180.0


def test_waves_have_unit_deviation_and_no_seam() -> None:
    rng = np.random.default_rng(5)
    points = rng.normal(size=(20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    values = Waves(3, 300.0, 900.0)(points)
    assert np.std(values) == pytest.approx(1.0, abs=0.1)
    shifted = Waves(3, 300.0, 900.0)(points + 1e-9)
    assert np.abs(shifted - values).max() < 1e-5
