"""What is told of older commits, and going back to one: the commands and their reports."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from daemon import differences, lookback
from daemon.cli import app
from tests.engine_support import DAY_16, DAY_17, FakeClock, heights, rows_of, small_schema
from zcollection_engine import Collection, DatePartitioning, StorageOptions, create_collection, open_collection
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import Grant
from zcollection_engine.history import CommitInfo
from zcollection_engine.transaction import WriterOptions

DAY = 86_400
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@dataclass
class Program:
    """The program, run in the folder of the collection, 160 columns wide."""

    collection: Collection

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, prog_name="zcollectiond")

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, with its report for machines."""
        result = self(*arguments, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def words(self, *arguments: str) -> list[list[str]]:
        """Run a command that must succeed; return the words of each line for people."""
        result = self(*arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return [line.split() for line in result.stdout.splitlines()]

    def rows(self) -> dict[str, int]:
        return {p.path: p.rows for p in open_collection(self.collection.url).partitions()}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Commits 2 (first granule), 4 (one in both days), 6 (attributes); an hour between them, from noon on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    clock = FakeClock(NOON)
    made = create_collection(
        str(tmp_path / "s6a"),
        small_schema(),
        DatePartitioning("time", "day"),
        writer=WriterOptions(owner="daemon-1"),
        clock=clock,
    )
    made.insert(heights(range(5)), granule="first.nc")
    clock.advance(3600)
    made.insert(heights([5, 6, DAY]), granule="second.nc")
    clock.advance(3600)
    made.set_attributes({"title": "another title", "comment": "new"})
    return Program(made)


# history


def test_history_tells_machines_all_of_every_commit(program: Program) -> None:
    found = program.json("history", "s6a")
    assert found["url"] == program.collection.url
    first, second, third = found["commits"]
    assert first.pop("time").startswith("2024-01-01T12:00:00.")
    assert first == {
        "number": 2,
        "operation": "merge",
        "owner": "daemon-1",
        "rows": {DAY_16: 5},
        "granules": ["first.nc"],
        "removed": [],
        "lost": [],
    }
    assert (second["number"], second["rows"], second["granules"]) == (4, {DAY_16: 7, DAY_17: 1}, ["second.nc"])
    assert (third["number"], third["operation"], third["rows"]) == (6, "attributes", {})


def test_history_tells_people_a_line_for_each_commit(program: Program) -> None:
    lines = program.words("history", "s6a")
    assert ["2", "2024-01-01", "12:00:00Z", "merge", "daemon-1", "1", "0", "0", f"{DAY_16}:", "5"] in lines
    assert ["6", "2024-01-01", "14:00:00Z", "attributes", "daemon-1", "0", "0", "0", "-"] in lines


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--last", "1"], [6]),
        (["--last", "9"], [2, 4, 6]),
        (["--since", "2024-01-01T13:00"], [4, 6]),
        (["--since", "2024-01-01T13:00", "--last", "1"], [6]),
        (["--since", "2024-01-01T14:30+01:00"], [6]),
        (["--since", "2030-01-01"], []),
    ],
)
def test_history_may_be_cut(program: Program, options: list[str], numbers: list[int]) -> None:
    assert [commit["number"] for commit in program.json("history", "s6a", *options)["commits"]] == numbers


def test_history_without_commits_says_so(program: Program, tmp_path: Path) -> None:
    create_collection(str(tmp_path / "empty"), small_schema(), DatePartitioning("time", "day"))
    assert program("history", "empty").stdout.endswith("No commits.\n")


def test_a_long_history_shows_people_the_last_commits() -> None:
    rows = {f"cycle={n}": n for n in range(9)}
    commit = CommitInfo(0, NOON, "merge", None, rows, ("a\x1b[31m", "b"), ("c",), (1, 2, 3))
    commits = tuple(replace(commit, number=number) for number in range(60))
    text = printed(lookback.HistoryReport("s3://b/c", commits, 50))
    assert ["10", "2024-01-01", "12:00:00Z", "merge", "-", "2", "1", "3", "cycle=0:", "0"] in words(text)
    assert ["and", "5", "more"] in words(text)
    assert not any(line[:2] == ["9", "2024-01-01"] for line in words(text))
    assert "and 10 more: --json prints all" in text


# diff


def test_diff_names_partitions_granules_and_attributes(program: Program) -> None:
    found = program.json("diff", "s6a", "2", "6")
    assert found["before"] | {"time": ""} == {"record": 2, "commit": 2, "time": ""}
    assert found["after"]["commit"] == 6
    assert found["partitions"] == [
        {
            "path": DAY_16,
            "before": {"rows": 5, "generation": 0, "commit": 2},
            "after": {"rows": 7, "generation": 0, "commit": 6},
        },
        {"path": DAY_17, "before": None, "after": {"rows": 1, "generation": 0, "commit": 6}},
    ]
    (came,) = found["granules_in"]
    assert (came["key"], came["rows"], found["granules_out"]) == ("second.nc", {DAY_16: 2, DAY_17: 1}, [])
    assert found["attributes"] == [
        {"variable": None, "name": "comment", "before": None, "after": "new"},
        {"variable": None, "name": "title", "before": "a small collection", "after": "another title"},
    ]


def test_diff_shows_people_the_same(program: Program) -> None:
    lines = program.words("diff", "s6a", "2", "6")
    assert ["from", "commit", "2,", "2024-01-01", "12:00:00Z"] in lines
    assert [DAY_16, "5", "7", "appended"] in lines
    assert [DAY_17, "-", "1", "new"] in lines
    assert ["second.nc", "3", "2"] in lines
    assert ["the", "collection", "comment", "-", "new"] in lines


def test_diff_takes_times_and_either_order(program: Program) -> None:
    by_number = program.json("diff", "s6a", "2", "4")
    by_time = program.json("diff", "s6a", "2024-01-01T13:30", "2024-01-01T12:30Z")
    for point in ("before", "after"):
        assert by_number[point]["commit"] == by_time[point]["commit"]
    assert by_number["partitions"] == by_time["partitions"]


def test_diff_tells_rewritten_and_emptied_partitions(program: Program) -> None:
    program.collection.insert(heights([0, 1], offset=7), granule="late.nc")
    program.collection.drop_partitions([DAY_17])
    lines = program.words("diff", "s6a", "6", f"{program.collection.commit}")
    assert [DAY_16, "7", "7", "rewritten"] in lines
    assert [DAY_17, "1", "-", "emptied"] in lines


def test_diff_of_the_same_is_no_difference(program: Program) -> None:
    lines = program.words("diff", "s6a", "0", "1")
    assert ["from", "before", "the", "first", "commit"] in lines
    assert lines[-1] == ["No", "difference."]


@pytest.mark.parametrize(
    ("older", "newer", "code", "start"),
    [
        ("2", "99", 3, "zcollectiond: file://"),
        ("2", "now", 2, "NEWER: 'now' is no time"),
        ("then", "2", 2, "OLDER: 'then' is no time"),
    ],
)
def test_diff_of_what_never_was_is_an_error(program: Program, older: str, newer: str, code: int, start: str) -> None:
    result = program("diff", "s6a", older, newer)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(start)


def test_looking_back_writes_nothing(program: Program, tmp_path: Path) -> None:
    def files() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")}

    before = files()
    for command in (("history",), ("diff", "2", "6"), ("rollback", "2"), ("inspect", "--at", "2")):
        assert program(command[0], "s6a", *command[1:]).exit_code == 0
    assert files() == before


# rollback


def test_rollback_shows_what_would_change_and_changes_nothing(program: Program) -> None:
    lines = program.words("rollback", "s6a", "2")
    assert [DAY_16, "7", "5", "rewritten"] in lines
    assert [DAY_17, "1", "-", "emptied"] in lines
    assert lines.index(["Granules", "out"]) < lines.index(["second.nc", "3", "2"])
    assert ["the", "collection", "comment", "new", "-"] in lines
    assert lines[-1] == ["Nothing", "was", "changed:", "--yes", "does", "it."]
    assert open_collection(program.collection.url).commit == 6


@pytest.mark.parametrize("to", ["2", "2024-01-01T12:30"])
def test_rollback_that_is_meant_goes_back_and_names_its_commit(program: Program, to: str) -> None:
    lines = program.words("rollback", "s6a", to, "--yes")
    back = open_collection(program.collection.url)
    assert lines[-1] == ["Rolled", "back:", "commit", f"{back.commit}."]
    assert program.rows() == {DAY_16: 5}
    assert rows_of(back.load(decode=False)) == [(n, n) for n in range(5)]  # type: ignore[arg-type]
    assert back.schema.attributes["title"] == "a small collection"
    assert {entry.identity.key for entry in back.granules()} == {"first.nc"}
    last = program.json("history", "s6a", "--last", "1")["commits"][0]
    assert (last["number"], last["operation"], last["removed"]) == (back.commit, "rollback", ["second.nc"])
    assert last["owner"].startswith("rollback-")


def test_a_rollback_can_be_rolled_back(program: Program) -> None:
    done = program.json("rollback", "s6a", "2", "--yes")
    assert done["commit"] > 6
    assert [granule["key"] for granule in done["granules_out"]] == ["second.nc"]
    undone = program.json("rollback", "s6a", "6", "--yes")
    assert [granule["key"] for granule in undone["granules_in"]] == ["second.nc"]
    assert program.rows() == {DAY_16: 7, DAY_17: 1}


def test_rollback_to_the_present_is_nothing_to_do(program: Program) -> None:
    assert program.words("rollback", "s6a", "6")[-1] == ["Nothing", "to", "roll", "back."]
    result = program("rollback", "s6a", "6", "--yes")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "has the content of the last commit already" in result.stderr


def test_rollback_says_beforehand_that_the_rows_are_gone(program: Program) -> None:
    for offset in (7, 8):
        program.collection.insert(heights([0, 1], offset=offset), granule="late.nc")
    assert program.json("rollback", "s6a", "2")["gone"] == [DAY_16]
    text = " ".join(program("rollback", "s6a", "2").stdout.split())
    assert text.endswith(f"Not possible: rewritten so often since that the old rows are gone: {DAY_16}")
    result = program("rollback", "s6a", "2", "--yes")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "its old rows are gone" in result.stderr


def test_rollback_waits_for_another_writer_no_longer_than_it_may(program: Program) -> None:
    store = program.collection.store
    grant = Grant("t", NOON, "daemon-7", "session", 60.0, (DAY_16,))
    CommitLog(store).append(load_state(store).number + 1, grant)
    result = program("rollback", "s6a", "4", "--yes", "--timeout", "0s")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "is held by 'daemon-7'" in result.stderr
    assert program("rollback", "s6a", "4", "--yes", "--timeout", "soon").exit_code == 2


@pytest.mark.parametrize("command", [["history"], ["diff", "0", "1"], ["rollback", "0"], ["rollback", "0", "--yes"]])
def test_nothing_to_look_back_at_is_an_error(program: Program, command: list[str]) -> None:
    result = program(command[0], "nowhere", *command[1:])
    assert (result.exit_code, result.stdout) == (3, "")
    assert "there is no collection here" in result.stderr


def test_long_lists_are_cut_for_people_only(program: Program) -> None:
    report = differences.diff(program.collection.url, StorageOptions(), 2, 4)
    many = replace(report, came=report.came * 60, partitions={f"{n}": report.partitions[DAY_17] for n in range(70)})
    text = printed(many)
    assert "and 10 more: --json prints all" in text
    assert "and 20 more: --json prints all" in text
    assert len(many.to_json()["granules_in"]) == 60


def printed(report: lookback.HistoryReport | differences.DiffReport) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=160, markup=False, highlight=False, emoji=False)
    if isinstance(report, lookback.HistoryReport):
        lookback.render_history(report, console)
    else:
        differences.render_diff(report, console)
    return stream.getvalue()


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]
