"""Three products and files that are no good, all in one delivery: each good granule goes in, each bad one says why."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from daemon.journal import Journal, State
from tests import oracle
from tests.daemon_support import (
    GSFC,
    PROJECT,
    SENTINEL3_WAVE,
    SENTINEL6,
    names,
    run_until_idle,
    settled_documents,
    watch,
    write_settings,
)
from tests.granules_twins import gsfc_twin, quirk_twins, sentinel3_wave_twin, sentinel6_twin
from tests.landing import Folder, Landed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

WAVE_STARTS = ("2020-11-01T00:00:00", "2020-11-01T03:00:00", "2022-02-01T00:00:00", "2022-02-01T03:00:00")

#: Files that are no good, by the name under which they come between the good ones, and what becomes of each.
BAD = {
    "global_vavh_l3_rt_s3a_0_zero_bytes.nc": ("quarantined", "empty_file"),
    "global_vavh_l3_rt_s3a_1_plain_text.nc": ("quarantined", "not_netcdf"),
    "global_vavh_l3_rt_s3a_2_undecodable_time_units.nc": ("quarantined", "axis_undecodable"),
    "global_vavh_l3_rt_s3a_3_empty_time_0.nc": ("skipped", "empty"),
    "global_vavh_l3_rt_s3a_4_another_product.nc": ("quarantined", "schema_mismatch"),
    "S6A_truncated_hdf5.nc": ("quarantined", "truncated"),
}


@dataclass(frozen=True)
class Ingested:
    """What came, and where it went."""

    folder: Path
    landed: dict[str, list[Landed]]

    def url(self, name: str) -> str:
        return str(self.folder / name)

    def documents(self) -> dict[str, dict[str, object]]:
        return settled_documents(self.folder / "settings-state" / "state")


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("products")
    incoming = Folder(folder / "incoming")
    good = {
        "s6a": [sentinel6_twin(number) for number in (99, 100, 101)],
        "wave": [sentinel3_wave_twin(start, version=start[:4]) for start in WAVE_STARTS],
        "gsfc": [gsfc_twin("2022-01-01"), gsfc_twin("2022-01-02")],
    }
    quirks = {**quirk_twins(), "another_product.nc": gsfc_twin().data}
    for name in BAD:
        (data,) = (content for quirk, content in quirks.items() if name.endswith(quirk))
        incoming.put(name, data)
    landed = {name: [incoming.put(twin.name, twin.data) for twin in twins] for name, twins in good.items()}
    incoming.put("README.txt", b"for no collection")
    settings = write_settings(
        folder / "settings.toml",
        sources=[watch("incoming")],
        collections=[
            SENTINEL6.collection("s6a", "s6a"),
            SENTINEL3_WAVE.collection("wave", "wave"),
            GSFC.collection("gsfc", "gsfc"),
        ],
    )
    run_until_idle(settings)
    return Ingested(folder, landed)


def test_every_good_granule_of_each_product_is_in(ingested: Ingested) -> None:
    check = oracle.check_collection
    days = check(ingested.url("s6a"), ingested.landed["s6a"], oracle.SENTINEL6, "day")
    assert sum(days.values()) == 600
    months = check(ingested.url("wave"), ingested.landed["wave"], oracle.SENTINEL3_WAVE, "month")
    assert months == {"year=2020/month=11": 600, "year=2022/month=02": 600}
    assert check(ingested.url("gsfc"), ingested.landed["gsfc"], oracle.GSFC, "month") == {"year=2022/month=01": 800}


def test_every_bad_file_is_put_aside_with_a_reason_that_names_it(ingested: Ingested) -> None:
    documents = ingested.documents()
    assert set(documents) == set(BAD)
    for name, (state, reason) in BAD.items():
        document = documents[name]
        assert document["reason"] == reason, document
        assert name in str(document["message"])
        assert str(document["url"]).endswith(f"/incoming/{name}")
        assert document["attempts"] == 1
        assert "Error" in str(document["traceback"])
        kind = "skipped" if state == "skipped" else "quarantine"
        path = f"settings-state/state/{kind}/{document['collection']}/{document['id']}.json"
        assert (ingested.folder / path).exists()


def test_the_journal_tells_what_happened_to_each_file(ingested: Ingested) -> None:
    journal = Journal(ingested.folder / "settings-state", read_only=True)
    try:
        entries = {entry.key.rpartition("/")[2]: entry for entry in journal.all()}
    finally:
        journal.close()
    good = names(granule.key for granules in ingested.landed.values() for granule in granules)
    assert {name for name, entry in entries.items() if entry.state is State.COMMITTED} == good
    found = {name: (str(entry.state), entry.reason) for name, entry in entries.items() if name not in good}
    assert found == BAD


def test_status_counts_them_and_shows_the_reasons(ingested: Ingested) -> None:
    command = [sys.executable, "-m", "daemon", "status", "--config", str(ingested.folder / "settings.toml"), "--json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    report = json.loads(done.stdout)
    states = {collection["name"]: collection["granules"]["states"] for collection in report["collections"]}
    assert {name: found["committed"] for name, found in states.items()} == {"s6a": 3, "wave": 4, "gsfc": 2}
    reasons = {found["reason"] for collection in report["collections"] for found in collection["granules"]["reasons"]}
    assert reasons == {reason for _, reason in BAD.values()}


def test_a_table_without_time_is_kept_once_and_as_text(ingested: Ingested) -> None:
    wanted = oracle.read_raw(ingested.landed["gsfc"][0].data, oracle.GSFC).fixed["basin_names_table"]
    with xr.open_zarr(f"{ingested.url('gsfc')}/_immutable", consolidated=True) as fixed:
        assert fixed["basin_names_table"].values.tolist() == wanted.tolist()
    with xr.open_zarr(f"{ingested.url('gsfc')}/year=2022/month=01", consolidated=True) as partition:
        assert "basin_names_table" not in partition
        assert partition["source_flag"].dims == ("time", "src_flag_dim")


def test_missing_values_decode_to_nan_and_packed_ones_to_their_units(ingested: Ingested) -> None:
    rows = oracle.expected(ingested.landed["gsfc"], oracle.GSFC, "month")["year=2022/month=01"].rows
    with xr.open_zarr(f"{ingested.url('gsfc')}/year=2022/month=01", consolidated=True) as partition:
        missing = rows["ssh"] == np.finfo(np.float64).max
        assert missing.any()
        np.testing.assert_array_equal(np.isnan(partition["ssh"].values), missing)
        np.testing.assert_array_equal(np.isnan(partition["latitude"].values), np.isnan(rows["latitude"]))
        np.testing.assert_array_equal(partition["time"].values, rows["time"].astype("datetime64[ns]"))
    rows = oracle.expected(ingested.landed["wave"], oracle.SENTINEL3_WAVE, "month")["year=2020/month=11"].rows
    with xr.open_zarr(f"{ingested.url('wave')}/year=2020/month=11", consolidated=True) as partition:
        wanted = np.where(rows["VAVH"] == -32767, np.nan, rows["VAVH"] * 1e-3)
        np.testing.assert_allclose(partition["VAVH"].values, wanted, rtol=0, atol=1e-6)
