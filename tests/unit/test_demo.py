"""The parts of the demonstration that need no server: its folder, its deliveries, its verdict."""

from __future__ import annotations

import io
import os
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from daemon.demo import server
from daemon.demo.delivery import BACKLOG, Delivered, Deliverer
from daemon.demo.folder import COLLECTION, COLLECTION_URL, MARKER, DemoFolder, FolderInUseError
from daemon.demo.granules import DemoGranule, Kind
from daemon.demo.progress import Watcher, display
from daemon.demo.report import ProofError, next_commands, prove, summarise
from daemon.demo.results import Outcome, Results
from daemon.demo.server import DemoUnavailableError, check_installed
from daemon.journal import Entry, State
from daemon.settings import load_settings
from zcollection_engine.view import Partition

NOW = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
FIRST = int(NOW.timestamp()) * 10**9


class FakeAws:
    """A bucket whose every object is remembered, and a queue whose message is held or not."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.puts: list[str] = []
        self.held = False
        self.let_go_of = threading.Event()
        self._breaks_at = breaks_at

    def put(self, key: str, data: bytes) -> str:
        if len(self.puts) == self._breaks_at:
            raise ConnectionError("the bucket is gone")
        self.puts.append(key)
        return f"etag-{key}-{len(data)}"

    def hold(self) -> str:
        self.held = True
        return "receipt"

    def let_go(self, receipt: str) -> None:
        assert receipt == "receipt"
        self.held = False
        self.let_go_of.set()


def granule(number: int, kind: Kind = Kind.GOOD, *, size: int = 1) -> DemoGranule:
    return DemoGranule(f"incoming/{number:02d}.nc", b"x" * size, 10, kind)


def entry(key: str, state: State = State.COMMITTED, *, etag: str = "", reason: str = "") -> Entry:
    return Entry(
        key, COLLECTION, "demo", key, state, etag=etag, reason=reason, landed=NOW, settled=NOW + timedelta(seconds=2)
    )


def deliver(aws: FakeAws, granules: list[DemoGranule], monkeypatch: pytest.MonkeyPatch) -> Deliverer:
    monkeypatch.setattr("daemon.demo.delivery.PACE_SECONDS", 0.0)
    monkeypatch.setattr("daemon.demo.delivery._BETWEEN_VERSIONS", 0.0)
    return Deliverer(aws, granules)  # type: ignore[arg-type]


def test_the_backlog_is_there_before_the_daemon_and_the_rest_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, granules = FakeAws(), [granule(n) for n in range(BACKLOG + 2)]
    deliverer = deliver(aws, granules, monkeypatch)
    deliverer.start()
    assert aws.puts == [g.key for g in granules[:BACKLOG]]
    assert aws.held
    for delivered in granules[:BACKLOG]:
        deliverer.settled(entry(delivered.key))
    assert aws.let_go_of.wait(10)
    assert aws.puts == [g.key for g in granules]
    deliverer.finish()
    assert [d.granule for d in deliverer.delivered] == granules


def test_a_second_version_waits_until_the_first_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    first = granule(BACKLOG)
    granules = [*(granule(n) for n in range(BACKLOG)), first, replace(first, data=b"new", kind=Kind.CHANGED)]
    aws = FakeAws()
    deliverer = deliver(aws, granules, monkeypatch)
    deliverer.start()
    for delivered in granules[:BACKLOG]:
        deliverer.settled(entry(delivered.key))
    assert not aws.let_go_of.wait(0.2)
    assert aws.held
    deliverer.settled(entry(first.key))
    assert aws.let_go_of.wait(10)
    assert aws.puts.count(first.key) == 2
    deliverer.finish()


def test_a_failed_delivery_frees_the_queue_and_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, granules = FakeAws(breaks_at=BACKLOG), [granule(n) for n in range(BACKLOG + 1)]
    deliverer = deliver(aws, granules, monkeypatch)
    deliverer.start()
    for delivered in granules[:BACKLOG]:
        deliverer.settled(entry(delivered.key))
    assert aws.let_go_of.wait(10)
    with pytest.raises(ConnectionError, match="the bucket is gone"):
        deliverer.finish()


def test_finishing_early_ends_the_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, granules = FakeAws(), [granule(n) for n in range(BACKLOG + 1)]
    deliverer = deliver(aws, granules, monkeypatch)
    deliverer.start()
    deliverer.finish()
    assert len(deliverer.delivered) == BACKLOG
    assert not aws.held


def test_a_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    place = DemoFolder(tmp_path / "a" / "demo")
    place.prepare()
    assert [path.name for path in place.root.iterdir()] == [MARKER]


def test_a_former_demonstration_is_replaced(tmp_path: Path) -> None:
    place = DemoFolder(tmp_path / "demo")
    place.prepare()
    place.log.write_text("old")
    place.prepare()
    assert not place.log.exists()


@pytest.mark.parametrize("content", ["file", "folder"])
def test_what_is_not_a_demonstration_is_left_alone(tmp_path: Path, content: str) -> None:
    root = tmp_path / "demo"
    if content == "file":
        root.write_text("mine")
    else:
        root.mkdir()
        (root / "thesis.tex").write_text("mine")
    with pytest.raises(FolderInUseError, match="was not made by a demonstration"):
        DemoFolder(root).prepare()
    assert "mine" in ((root / "thesis.tex") if content == "folder" else root).read_text()


def test_the_settings_files_are_good_ones(tmp_path: Path) -> None:
    place = DemoFolder(tmp_path)
    place.write_settings(endpoint_url="http://127.0.0.1:1", queue_url="http://127.0.0.1:1/1/granules")
    settings = load_settings(place.settings, environ={})
    assert [c.url for c in settings.collections] == [COLLECTION_URL]
    assert settings.aws.endpoint_url == "http://127.0.0.1:1"
    watched = load_settings(place.watch_settings, environ={})
    assert [s.label for s in watched.sources] == [f"file://{tmp_path}/granules"]
    assert place.quarantine.parent.parent == settings.daemon.state_dir / "state"


def results(*judgements: tuple[DemoGranule, Entry | None], rows: int) -> Results:
    delivered = [Delivered(g, e.etag or "" if e else "again", NOW) for g, e in judgements]
    partition = Partition("year=2026", (("year", 2026),), rows, FIRST, FIRST + 10**9, 0, 1, 1)
    return Results(delivered, 0, [e for _, e in judgements if e is not None], [partition], {"zarr.json": 500})


def test_a_run_as_planned_has_no_surprises() -> None:
    good, cut = granule(1), granule(2, Kind.TRUNCATED)
    old, new = granule(3), granule(3, Kind.CHANGED)
    found = results(
        (good, entry(good.key, etag="a")),
        (cut, entry(cut.key, State.QUARANTINED, etag="b", reason="truncated")),
        (old, entry(old.key, etag="c")),
        (new, entry(new.key, etag="d")),
        (replace(good, kind=Kind.REPEATED), entry(good.key, etag="a")),
        rows=20,
    )
    assert [j.outcome for j in found.judged] == [
        Outcome.IN,
        Outcome.QUARANTINED,
        Outcome.REPLACED,
        Outcome.IN,
        Outcome.RECOGNISED,
    ]
    assert found.surprises() == []
    assert found.latencies(backlog=False) == [2.0, 2.0, 2.0]
    assert found.latencies(backlog=True) == []


def test_surprises_are_told_one_by_one() -> None:
    good, cut, lost = granule(1), granule(2, Kind.TRUNCATED), granule(3)
    found = results(
        (good, entry(good.key, State.QUARANTINED, etag="a", reason="store_failed")),
        (cut, entry(cut.key, etag="b")),
        (lost, None),
        rows=5,
    )
    told = found.surprises()
    assert len(told) == 4
    assert "01.nc: quarantined (store_failed: ), expected: in the collection" in told[0]
    assert "02.nc: in the collection" in told[1]
    assert "03.nc: not settled" in told[2]
    assert told[3] == "the collection has 5 rows, its granules have 10"


def test_the_summary_names_every_outcome_and_counts() -> None:
    good, cut = granule(1), granule(2, Kind.TRUNCATED)
    refused = replace(entry(cut.key, State.QUARANTINED, etag="b", reason="truncated"), message="half of it is missing")
    stream = io.StringIO()
    summarise(Console(file=stream, width=120), results((good, entry(good.key, etag="a")), (cut, refused), rows=10))
    text = stream.getvalue()
    assert "half of it is missing" in text
    assert "the file is not whole" in text
    assert "2026-03-09T12:00:00" in text
    assert "2.00 s" in text
    assert "\x1b" not in text


def test_a_proof_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProofError, match=r"(?s)nowhere.*Error"):
        prove(f"file://{tmp_path}/nowhere", "http://127.0.0.1:1")


def test_commands_are_quoted_for_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = list(next_commands(DemoFolder(tmp_path / "my demo"), "year=2026").values())
    assert commands[0].endswith("inspect 'my demo/collection'")
    assert sys.executable in commands[1]
    assert "--config 'my demo/watch.toml'" in commands[2]


def test_progress_is_a_few_lines_where_there_is_no_terminal() -> None:
    stream, seen = io.StringIO(), list[Entry]()
    with display(Console(file=stream, width=80), 12) as show:
        watcher = Watcher(show, seen.append)
        for number in range(12):
            watcher.settled(entry(f"{number}", State.SKIPPED if number == 3 else State.COMMITTED))
    assert stream.getvalue().splitlines() == ["  10 of 12 settled, 9 in", "  12 of 12 settled, 11 in"]
    assert watcher.entries == seen


def test_progress_is_a_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    with display(Console(file=stream, width=80, force_terminal=True), 2) as show:
        show(2, 1)
    assert "1 in, 1 refused" in stream.getvalue()


def test_missing_packages_are_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(DemoUnavailableError, match=r'pip install "zcollectiond\[demo\]"'):
        check_installed()


def test_credentials_of_the_environment_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with server._environment({"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "none"}, hidden=("AWS_PROFILE",)):
        assert (os.environ.get("AWS_PROFILE"), os.environ["AWS_ACCESS_KEY_ID"]) == (None, "demo")
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_ACCESS_KEY_ID"]) == ("mine", "mine")
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
