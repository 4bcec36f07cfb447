"""What is told of a collection, to machines and to people."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
import xarray as xr
from rich.console import Console

from daemon.inspection import Inspection, describe, inspect, render
from daemon.rendering import json_text
from tests.engine_support import DAY_16, DAY_17, FakeClock, heights, small_schema
from zcollection_engine import Collection, DatePartitioning, SequencePartitioning, StorageOptions, create_collection
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.errors import FormatError, NotFoundError
from zcollection_engine.schema import PROVENANCE, Dimension, Schema, Variable

MINUTES = 60 * 10**9


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """120 rows, one a minute, around the midnight of 2023-12-16."""
    clock = FakeClock(datetime(2024, 1, 1, tzinfo=UTC))
    made = create_collection(str(tmp_path / "s6a"), small_schema(), DatePartitioning("time", "day"), clock=clock)
    made.insert(heights(range(23 * 60, 25 * 60), unit=MINUTES), granule="first")
    return made


@pytest.fixture
def inspection(collection: Collection) -> Inspection:
    return inspect(collection.url, StorageOptions())


def printed(inspection: Inspection, width: int = 200) -> str:
    stream = io.StringIO()
    render(inspection, Console(file=stream, width=width, markup=False, highlight=False, emoji=False))
    return stream.getvalue()


def test_machines_get_everything_in_stable_names(inspection: Inspection, tmp_path: Path) -> None:
    found = json.loads(json_text(inspection.to_json()))
    assert found.pop("created").startswith("2024-01-01T00:00:00.")
    assert found.pop("committed").startswith("2024-01-01T00:00:00.")
    variables = {variable.pop("path"): variable for variable in found.pop("variables")}
    common = {"commit": 2, "generation": 0, "granules": 1, "rows": 60}
    assert found == {
        "format_version": 1,
        "url": f"file://{tmp_path}/s6a",
        "commit": 2,
        "rows": 120,
        "granules": 1,
        "axis": {"path": "time", "dimension": "time", "is_time": True},
        "period": {"first": "2023-12-16T23:00:00.000000000Z", "last": "2023-12-17T00:59:00.000000000Z"},
        "partitioning": {"name": "date", "variable": "time", "resolution": "D"},
        "merge": {"strategy": "time_series", "tolerance": None},
        "partitions": [
            {
                "path": DAY_16,
                "keys": {"year": 2023, "month": 12, "day": 16},
                "first": "2023-12-16T23:00:00.000000000Z",
                "last": "2023-12-16T23:59:00.000000000Z",
                **common,
            },
            {
                "path": DAY_17,
                "keys": {"year": 2023, "month": 12, "day": 17},
                "first": "2023-12-17T00:00:00.000000000Z",
                "last": "2023-12-17T00:59:00.000000000Z",
                **common,
            },
        ],
    }
    assert set(variables) == {"height", "time", PROVENANCE}
    assert variables["height"] == {
        "dtype": "int32",
        "dimensions": ["time"],
        "chunks": [8],
        "fill_value": 2147483647,
        "units": "m",
        "scale_factor": 0.001,
        "add_offset": None,
    }


def test_people_see_partitions_and_variables(inspection: Inspection) -> None:
    lines = [line.split() for line in printed(inspection).splitlines()]
    assert [DAY_16, "60", "2023-12-16", "23:00:00Z", "2023-12-16", "23:59:00Z", "0", "2", "1"] in lines
    assert [DAY_17, "60", "2023-12-17", "00:00:00Z", "2023-12-17", "00:59:00Z", "0", "2", "1"] in lines
    assert ["height", "int32", "time", "8", "m", "x", "0.001"] in lines
    assert ["rows", "120", "in", "2", "partitions"] in lines
    assert ["period", "2023-12-16", "23:00:00Z", "to", "2023-12-17", "00:59:00Z"] in lines
    assert ["partitioned", "by", "date:", "one", "for", "each", "day", "of", "time"] in lines


@pytest.mark.parametrize("width", [30, 50, 80])
def test_a_narrow_terminal_wraps_and_loses_nothing(inspection: Inspection, width: int) -> None:
    narrow = printed(inspection, width)
    assert max(len(line.rstrip()) for line in narrow.splitlines()[1:]) <= width
    assert sorted(_marks(narrow)) == sorted(_marks(printed(inspection)))


def _marks(text: str) -> str:
    """All characters but spaces and rules."""
    return "".join(c for c in text if not c.isspace() and c != "─")


def test_a_collection_without_rows_has_no_period(tmp_path: Path) -> None:
    empty = create_collection(str(tmp_path / "empty"), small_schema(), DatePartitioning("time", "month"))
    inspection = describe(empty)
    found = inspection.to_json()
    assert (found["rows"], found["granules"], found["partitions"]) == (0, 0, [])
    assert (found["period"], found["commit"], found["committed"]) == (None, None, None)
    assert "No partitions yet." in printed(inspection)
    assert "none yet" in printed(inspection)


def test_an_axis_that_is_no_time_stays_a_number(tmp_path: Path) -> None:
    schema = Schema(
        "distance",
        "row",
        (Dimension("row", None),),
        (
            Variable("distance", "<f8", ("row",), (8,), math.nan, {"units": "km"}),
            Variable("cycle", "<u2", ("row",), (8,), attributes={"scale_factor": 2, "add_offset": 10}),
            provenance_variable("row", 8),
        ),
    )
    made = create_collection(str(tmp_path / "c"), schema, SequencePartitioning(("cycle",)))
    distance = xr.Variable("row", [1.5, 2.5], {"units": "km", "_FillValue": math.nan})
    cycle = xr.Variable("row", [7, 9], {"scale_factor": 2, "add_offset": 10}).astype("u2")
    made.insert(xr.Dataset({"distance": distance, "cycle": cycle}))
    inspection = describe(made)
    found = json.loads(json_text(inspection.to_json()))
    assert found["axis"] == {"path": "distance", "dimension": "row", "is_time": False}
    assert found["period"] == {"first": 1.5, "last": 2.5}
    assert [p["path"] for p in found["partitions"]] == ["cycle=7", "cycle=9"]
    assert {v["path"]: v["fill_value"] for v in found["variables"]} == {
        "cycle": None,
        "distance": "NaN",
        PROVENANCE: None,
    }
    text = printed(inspection)
    assert "by sequence: cycle" in text
    assert "x 2 + 10" in text
    assert "1.5 to 2.5" in text


def test_a_place_without_a_collection_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere: there is no collection here"):
        inspect(str(tmp_path / "nowhere"), StorageOptions())


def test_a_collection_of_a_newer_version_is_refused(collection: Collection, tmp_path: Path) -> None:
    record = tmp_path / "s6a" / ".zcommits" / f"{0:020d}.json"
    body = json.loads(record.read_text())
    record.write_text(json.dumps({**body, "format_version": 99}))
    with pytest.raises(FormatError, match="use a newer one"):
        inspect(collection.url, StorageOptions())


def test_looking_changes_nothing(collection: Collection, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    before = files()
    render(inspect(collection.url, StorageOptions()), Console(file=io.StringIO()))
    assert files() == before
