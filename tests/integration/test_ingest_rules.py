"""Rules of a collection at work in the daemon: variables that granules bring, times that decide on partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.daemon_support import run_until_idle, running, settled_documents, visible_granules, watch, write_settings
from tests.landing import Folder
from zcollection_engine import open_collection
from zcollection_engine.verification.verifying import verify

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

#: 2020-01-31, in days since 2000-01-01.
LAST = 7335


def section(folder: Path, **changes: Any) -> dict[str, Any]:
    rules = {
        "name": "track",
        "url": str(folder / "track"),
        "match": ["*.nc"],
        "axis": "index",
        "partitioning": {"by": "date", "variable": "acquired", "resolution": "month"},
        "reader_grace_seconds": 0,
        "grant_ttl_seconds": 5,
    }
    return rules | changes


def granule(folder: Path, index: list[int], days: list[float], **more: xr.Variable) -> bytes:
    """Points along a track, each acquired so many days after 2020-01-31."""
    variables = {
        "acquired": xr.Variable("point", LAST + np.array(days, np.float64), {"units": "days since 2000-01-01"}),
        "height": xr.Variable("point", np.array(index, np.int32) * 10, {"units": "m"}),
        **more,
    }
    path = folder / "granule.nc"
    path.unlink(missing_ok=True)
    xr.Dataset(variables, coords={"index": ("point", np.array(index, np.int64))}).to_netcdf(path)
    return path.read_bytes()


def waves(values: list[int], **attributes: Any) -> xr.Variable:
    return xr.Variable("point", np.array(values, np.int16), attributes)


def columns(url: Path, *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """Stored rows by partition, as plain xarray reads them."""
    found = {}
    for path in sorted(url.glob("year=*/month=*")):
        with xr.open_zarr(path, consolidated=True, decode_cf=False) as partition:
            values = [partition[name].values.tolist() for name in names]
        found[str(path.relative_to(url))] = list(zip(*values, strict=True))
    return found


def test_rows_go_where_another_time_than_the_axis_puts_them(tmp_path: Path) -> None:
    settings = write_settings(tmp_path / "settings.toml", sources=[watch("incoming")], collections=[section(tmp_path)])
    incoming = Folder(tmp_path / "incoming")
    incoming.put("a.nc", granule(tmp_path, [3, 2, 1, 0], [1, 0, 1, 0]))
    run_until_idle(settings)
    incoming.put("b.nc", granule(tmp_path, [5, 4, 3], [0, 2, 3]))
    incoming.put("c.nc", granule(tmp_path, [9], [0], acquired=xr.Variable("point", [1.0], {"units": "m"})))
    run_until_idle(settings)
    rows = columns(tmp_path / "track", "index", "height")
    assert rows == {
        "year=2020/month=01": [(0, 0), (2, 20), (5, 50)],
        "year=2020/month=02": [(1, 10), (3, 30), (4, 40)],
    }
    with xr.open_zarr(tmp_path / "track/year=2020/month=02", consolidated=True) as february:
        days = (february["acquired"].values - np.datetime64("2020-01-31", "ns")) / np.timedelta64(1, "D")
    assert days.tolist() == [1, 3, 2]
    (document,) = settled_documents(tmp_path / "settings-state" / "state").values()
    assert (document["reason"], document["key"].rpartition("/")[2]) == ("time_undecodable", "c.nc")
    assert verify(open_collection(str(tmp_path / "track"))).findings == ()


def test_variables_that_granules_bring_are_added_while_the_daemon_runs(tmp_path: Path) -> None:
    adding = section(tmp_path, drift={"new": "add", "missing": "fill"})
    settings = write_settings(tmp_path / "settings.toml", sources=[watch("incoming")], collections=[adding])
    incoming = Folder(tmp_path / "incoming")
    fill = {"_FillValue": np.int16(-1), "scale_factor": 0.5}
    days = [0.0, 0.0]
    with running(settings) as daemon:
        incoming.put("a.nc", granule(tmp_path, [0, 1], days))
        daemon.until(lambda: visible_granules(tmp_path / "track") == 1)
        for number in range(1, 6):
            bring = {"wave": waves([number, 2 * number], **fill)} if number % 2 else {}
            incoming.put(f"{number}.nc", granule(tmp_path, [2 * number, 2 * number + 1], days, **bring))
        incoming.put("bad.nc", granule(tmp_path, [90, 91], days, count=waves([1, 2])))
        daemon.until(lambda: visible_granules(tmp_path / "track") == 6)
        daemon.until(lambda: bool(settled_documents(tmp_path / "settings-state" / "state")))
        daemon.stop()
    known = [-1, -1, 1, 2, -1, -1, 3, 6, -1, -1, 5, 10]
    assert columns(tmp_path / "track", "index", "wave") == {"year=2020/month=01": list(enumerate(known))}
    collection = open_collection(str(tmp_path / "track"))
    assert [info.operation for info in collection.history()].count("add") == 1
    assert collection.schema["wave"].attributes["scale_factor"] == 0.5
    assert verify(collection).findings == ()
    (document,) = settled_documents(tmp_path / "settings-state" / "state").values()
    assert (document["reason"], document["attempts"]) == ("schema_mismatch", 1)
    assert "'count'" in document["message"]
    assert "_FillValue" in document["message"]


def test_a_policy_that_is_changed_later_takes_effect_with_the_next_start(tmp_path: Path) -> None:
    incoming = Folder(tmp_path / "incoming")
    bring = {"wave": waves([1], _FillValue=np.int16(-1))}

    def run(name: str, index: int, **drift: str) -> None:
        incoming.put(name, granule(tmp_path, [index], [0.0], **bring))
        changed = section(tmp_path, granule={"exclude": [] if drift else ["/wave"]}, drift=drift)
        run_until_idle(write_settings(tmp_path / "settings.toml", sources=[watch("incoming")], collections=[changed]))

    run("a.nc", 0)
    run("b.nc", 1, new="reject")
    run("c.nc", 2, new="add", missing="fill")
    assert columns(tmp_path / "track", "index", "wave") == {"year=2020/month=01": [(0, -1), (2, 1)]}
    assert set(settled_documents(tmp_path / "settings-state" / "state")) == {"b.nc"}
