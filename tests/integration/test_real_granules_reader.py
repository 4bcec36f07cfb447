"""The reader on real products: raw values, times, schemas, and the reason for each file that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.conform import conform, immutable_digest
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.schema_json import schema_from_json, schema_to_json

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "granules"

pytestmark = [
    pytest.mark.granules,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the folder of real granules is missing: {FOLDER}"),
]

SPECS = {
    "sentinel6": GranuleSpec(
        "/data_01/time",
        include=("/data_01/*", "/data_01/ku/*", "/data_01/c/*"),
        attributes={"cycle_number": "uint16", "pass_number": "uint16"},
    ),
    "sentinel3-wave": GranuleSpec("/time"),
    "gsfc-ssh": GranuleSpec("/time"),
}


def files(product: str) -> list[Path]:
    return sorted((FOLDER / product).glob("*.nc"))


def granules(product: str) -> Iterator[tuple[Path, Granule]]:
    for path in files(product):
        yield path, read_netcdf(path.read_bytes(), SPECS[product], name=path.name)


@pytest.mark.parametrize(("product", "count"), [("sentinel6", 12), ("sentinel3-wave", 12), ("gsfc-ssh", 2)])
def test_raw_values_equal_those_of_the_library_and_times_those_of_xarray(product: str, count: int) -> None:
    group = SPECS[product].axis.rpartition("/")[0]
    seen = 0
    for path, granule in granules(product):
        seen += 1
        with netCDF4.Dataset(path) as dataset, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.set_auto_maskandscale(False)
            for name, variable in granule.variables.items():
                if name in SPECS[product].attributes:
                    assert (variable.values == dataset.getncattr(name)).all()
                elif name == "time":
                    with xr.open_dataset(path, group=group or None) as decoded:
                        times = decoded["time"].values.astype("datetime64[ns]").view(np.int64)
                    np.testing.assert_array_equal(variable.values, times)
                elif variable.values.dtype == object:
                    texts = netCDF4.chartostring(dataset[name][...])
                    assert variable.values.tolist() == [text.rstrip() for text in texts.tolist()]
                else:
                    raw = dataset[f"{group}/{name}"]
                    assert variable.values.dtype == raw.dtype
                    assert variable.values.tobytes() == np.ascontiguousarray(raw[...]).tobytes()
    assert seen == count


def test_the_number_of_variables_and_rows_of_sentinel6_is_known() -> None:
    found = {path.name[18:28]: granule for path, granule in granules("sentinel6")}
    assert {len(granule.variables) for granule in found.values()} == {91 + 81 + 27 + 2}
    assert all(3168 <= granule.rows <= 3373 for granule in found.values())
    last, first = found["ST_114_108"].variables["time"].values[-1], found["ST_114_109"].variables["time"].values[0]
    assert abs(int(last) - int(first)) < 1_000_000_000


@pytest.mark.parametrize("product", list(SPECS))
def test_every_granule_of_a_product_fits_the_schema_of_the_first(product: str) -> None:
    read = [granule for _, granule in granules(product)]
    schema = infer_schema(read[0])
    assert schema_from_json(schema_to_json(schema)) == schema
    digests = []
    for granule in read:
        fitted = conform(granule, schema)
        digests.append(immutable_digest(fitted, schema))
        for name, variable in fitted.variables.items():
            np.testing.assert_array_equal(variable.values, granule.variables[name].values)
            assert variable.values.dtype == schema[name].numpy_dtype
    assert all(digest == digests[0] for digest in digests)


def test_two_dimensions_text_and_both_fill_values_of_gsfc_are_read() -> None:
    _, granule = next(granules("gsfc-ssh"))
    assert granule.variables["source_flag"].values.shape == (granule.rows, 6)
    table = granule.variables["basin_names_table"]
    assert (table.dimensions, table.values.shape) == (("basin_name_dim",), (293,))
    assert granule.variables["ssh"].fill_value == 1.7976931348623157e308
    assert repr(granule.variables["latitude"].fill_value) == "nan"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty_time_0.nc", "empty"),
        ("undecodable_time_units.nc", "axis_undecodable"),
        ("truncated_hdf5.nc", "truncated"),
        ("zero_bytes.nc", "empty_file"),
        ("plain_text.nc", "not_netcdf"),
    ],
)
def test_each_quirk_is_refused_with_a_reason(name: str, reason: str) -> None:
    data = (FOLDER / "quirks" / name).read_bytes()
    with pytest.raises(InvalidGranuleError) as caught:
        read_netcdf(data, GranuleSpec("/time"), name=name)
    assert caught.value.code == reason
    assert name in str(caught.value)
    if reason == "axis_undecodable":
        assert "UTC seconds since 00:00:00 1-Jan-2000" in str(caught.value)


def test_a_sentinel6_file_opened_at_the_root_says_where_its_times_are() -> None:
    path = files("sentinel6")[0]
    with pytest.raises(InvalidGranuleError, match="/data_01/time") as caught:
        read_netcdf(path.read_bytes(), GranuleSpec("/time"), name=path.name)
    assert caught.value.code == "axis_missing"
