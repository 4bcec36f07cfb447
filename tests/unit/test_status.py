"""What is told of the daemon, to machines and to people."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from daemon.errors import StateUnusableError
from daemon.journal import FILE, Entry, Journal, State
from daemon.rendering import json_text, printable, seconds
from daemon.settings import Settings, load_settings
from daemon.status import Latency, Status, collect, render
from tests.engine_support import heights, small_schema
from zcollection_engine import DatePartitioning, StorageOptions, create_collection
from zcollection_engine.errors import StorageError
from zcollection_engine.stores.memory import MemoryStore

NOON = datetime(2026, 7, 30, 12, tzinfo=UTC)
LONG_KEY = "in/S6A_P4_2__LR______20231216T230118_20231216T235731_20231217T010000_5616_114_109_054_EUM__OPE_ST_F08.nc"

COLLECTION = """
[[collections]]
name = "{name}"
url = "{name}"
match = ["{name}_*.nc"]
axis = "time"
partitioning = {{ by = "date", variable = "time", resolution = "day" }}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two collections: "s6a" exists and has 2 rows, "s3" does not exist."""
    path = tmp_path / "settings.toml"
    path.write_text(COLLECTION.format(name="s6a") + COLLECTION.format(name="s3"))
    collection = create_collection(str(tmp_path / "s6a"), small_schema(), DatePartitioning("time", "day"))
    collection.insert(heights(range(2)), granule="first")
    return load_settings(path, environ={})


def after_noon(value: float) -> datetime:
    return NOON + timedelta(seconds=value)


def lines() -> Iterator[Entry]:
    """20 granules in, with latencies of 1 to 20 s; four others in other states; one of a collection long gone."""
    for n in range(1, 21):
        landed = Entry(str(n), "s6a", "b", f"in/{n}.nc", State.COMMITTED, attempts=1, landed=NOON, received=NOON)
        yield replace(landed, settled=after_noon(n))
    yield Entry("30", "s6a", "b", "in/30.nc", State.SKIPPED, reason="empty", message="no rows", settled=after_noon(1))
    yield Entry(
        "31",
        "s6a",
        "b",
        LONG_KEY,
        State.QUARANTINED,
        reason="schema_mismatch",
        message="dtype int16\n\x1b[31m[/red]",
        attempts=1,
        landed=NOON,
        received=NOON,
        settled=after_noon(60),
    )
    yield Entry(
        "32",
        "s6a",
        "b",
        "in/32.nc",
        State.RETRYING,
        reason="storage",
        message="https://user:geheim@host timed out",
        attempts=3,
        landed=after_noon(-3600),
        received=after_noon(30),
    )
    yield Entry("33", "s6a", "b", "in/33.nc", State.RECEIVED, landed=after_noon(50), received=after_noon(51))
    yield Entry("40", "gone", "b", "in/40.nc", State.COMMITTED)


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    """A journal with `lines`, open as by a running daemon."""
    settings.daemon.state_dir.mkdir()
    opened = Journal(settings.daemon.state_dir)
    for line in lines():
        opened.record(line)
    yield opened
    opened.close()


def report(settings: Settings, **options: Any) -> Status:
    return collect(settings, StorageOptions(), now=after_noon(120), **options)


def as_json(status: Status) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json_text(status.to_json()))
    return found


def printed(status: Status, width: int = 200) -> str:
    stream = io.StringIO()
    render(status, Console(file=stream, width=width, markup=False, highlight=False, emoji=False))
    return stream.getvalue()


def test_machines_get_everything_in_stable_names(settings: Settings, journal: Journal, tmp_path: Path) -> None:
    found = as_json(report(settings))
    committed = found["collections"][0]["holdings"].pop("committed")
    assert committed.endswith("Z")
    assert datetime.fromisoformat(committed) <= datetime.now(UTC)
    assert found["time"] == "2026-07-30T12:02:00.000000Z"
    assert found["journal"] == {"path": str(tmp_path / ".zcollectiond" / FILE), "found": True}
    s6a, s3, gone = found["collections"]
    assert s6a == {
        "name": "s6a",
        "url": f"file://{tmp_path}/s6a",
        "granules": {
            "total": 24,
            "states": {"received": 1, "retrying": 1, "committed": 20, "skipped": 1, "quarantined": 1},
            "reasons": [
                {"state": "quarantined", "reason": "schema_mismatch", "granules": 1},
                {"state": "retrying", "reason": "storage", "granules": 1},
                {"state": "skipped", "reason": "empty", "granules": 1},
            ],
        },
        "lag": {
            "latency_seconds": {"granules": 20, "p50": 10.0, "p95": 19.0, "max": 20.0},
            "oldest_waiting": {
                "bucket": "b",
                "key": "in/32.nc",
                "state": "retrying",
                "since": "2026-07-30T11:00:00.000000Z",
                "age_seconds": 3720.0,
            },
        },
        "holdings": {"state": "open", "message": "", "rows": 2, "partitions": 1, "granules": 1, "commit": 2},
    }
    assert s3["holdings"]["state"] == "absent"
    assert s3["granules"]["states"] == dict.fromkeys(s6a["granules"]["states"], 0)
    assert s3["lag"] == {"latency_seconds": None, "oldest_waiting": None}
    assert (gone["url"], gone["holdings"], gone["granules"]["total"]) == (None, None, 1)
    assert found["errors"] == [
        {
            "collection": "s6a",
            "bucket": "b",
            "key": LONG_KEY,
            "id": "31",
            "state": "quarantined",
            "reason": "schema_mismatch",
            "message": "dtype int16\n\x1b[31m[/red]",
            "time": "2026-07-30T12:01:00.000000Z",
            "attempts": 1,
            "document": f"file://{tmp_path}/.zcollectiond/state/quarantine/s6a/31.json",
        },
        {
            "collection": "s6a",
            "bucket": "b",
            "key": "in/32.nc",
            "id": "32",
            "state": "retrying",
            "reason": "storage",
            "message": "https://***@host timed out",
            "time": "2026-07-30T12:00:30.000000Z",
            "attempts": 3,
            "document": None,
        },
    ]


def test_people_see_states_holdings_lag_and_errors(settings: Settings, journal: Journal) -> None:
    text = printed(report(settings))
    rows = [line.split() for line in text.splitlines()]
    assert ["s6a", "20", "1", "1", "1", "1"] in rows
    assert ["s6a", "quarantined", "schema_mismatch", "1"] in rows
    assert any(row[:5] == ["s6a", "2", "1", "1", "2"] for row in rows)
    assert ["s6a", "10.0", "s", "19.0", "s", "20.0", "s", "62", "min"] in rows
    assert "s3: not created yet" in text
    assert "gone: in the journal, not in the settings" in text
    assert "2026-07-30 12:01:00Z s6a quarantined schema_mismatch, 1 attempt\n" in text
    assert "retrying storage, 3 attempts\n" in text
    assert f"b/{LONG_KEY}" in text
    assert "geheim" not in text


def test_what_others_wrote_cannot_control_the_terminal(settings: Settings, journal: Journal) -> None:
    text = printed(report(settings))
    assert "dtype int16 \\x1b[31m[/red]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_wraps_and_loses_nothing(settings: Settings, journal: Journal, width: int) -> None:
    found = report(settings)
    assert sorted(_marks(printed(found, width))) == sorted(_marks(printed(found)))
    assert LONG_KEY in _marks(printed(found, width))


def _marks(text: str) -> str:
    """All characters but spaces and rules."""
    return "".join(c for c in text if not c.isspace() and c != "─")


def test_as_many_errors_as_asked_for(settings: Settings, journal: Journal) -> None:
    assert [e.id for e in report(settings, errors=1).errors] == ["31"]
    without = report(settings, errors=0)
    assert without.errors == ()
    assert "Last errors" not in printed(without)


def test_a_stopped_daemon_has_the_same_status(settings: Settings, journal: Journal) -> None:
    running = report(settings)
    journal.close()
    assert report(settings) == running
    assert sorted(p.name for p in settings.daemon.state_dir.iterdir()) == [FILE]


def test_before_the_first_run_the_collections_are_shown(settings: Settings) -> None:
    found = report(settings)
    assert not found.has_journal
    assert as_json(found)["journal"]["found"] is False
    assert [c["holdings"]["state"] for c in as_json(found)["collections"]] == ["open", "absent"]
    assert as_json(found)["errors"] == []
    assert "no daemon has run with these settings yet" in printed(found)
    assert not settings.daemon.state_dir.exists()


def test_a_damaged_journal_is_an_error(settings: Settings) -> None:
    settings.daemon.state_dir.mkdir()
    (settings.daemon.state_dir / FILE).write_bytes(b"x" * 5000)
    with pytest.raises(StateUnusableError, match="cannot be read as a journal"):
        report(settings)


def test_settings_without_collections_have_a_status(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").touch()
    found = report(load_settings(tmp_path / "settings.toml", environ={}))
    assert found.collections == ()
    assert "Granules" in printed(found)


def test_a_store_that_fails_leaves_the_rest(
    settings: Settings, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: MemoryStore, prefix: str = "", *, after: str = "") -> Iterator[Any]:
        raise StorageError("cannot reach s3://user:geheim@bucket")

    monkeypatch.setattr(MemoryStore, "list", fail)
    broken = settings.collections[1].model_copy(update={"url": "memory://broken"})
    found = report(settings.model_copy(update={"collections": (settings.collections[0], broken)}))
    holdings = [c.holdings.state if c.holdings else None for c in found.collections]
    assert holdings == ["open", "failed", None]
    assert as_json(found)["collections"][1]["holdings"]["message"] == "cannot reach s3://***@bucket"
    assert "s3: cannot be read: cannot reach s3://***@bucket" in printed(found)


def test_a_collection_of_a_newer_version_leaves_the_rest(settings: Settings, journal: Journal, tmp_path: Path) -> None:
    record = tmp_path / "s6a" / ".zcommits" / f"{0:020d}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 99}))
    s6a = as_json(report(settings))["collections"][0]
    assert s6a["holdings"]["state"] == "failed"
    assert "use a newer one" in s6a["holdings"]["message"]
    assert s6a["granules"]["total"] == 24


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_latencies_that_granules_had(values: list[float]) -> None:
    latency = Latency.of(values)
    assert latency is not None
    assert latency.granules == len(values)
    assert {latency.p50, latency.p95, latency.max} <= set(values)
    assert latency.p50 <= latency.p95 <= latency.max == max(values)
    assert sum(v <= latency.p50 for v in values) >= len(values) / 2
    assert sum(v < latency.p50 for v in values) < len(values) / 2


def test_without_commits_there_is_no_latency() -> None:
    assert Latency.of([]) is None


@given(st.text(max_size=30))
def test_a_printable_text_is_one_line_without_controls(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    assert printable(line) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0.40 s"), (-3.0, "-3.00 s"), (12.34, "12.3 s"), (300, "5 min"), (7200, "2.0 h"), (400_000, "4.6 d")],
)
def test_durations_have_a_unit_that_fits(value: float, text: str) -> None:
    assert seconds(value) == text
