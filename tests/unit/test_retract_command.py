"""The command that takes granules out: what it shows, what it refuses, and what it does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from daemon.cli import app
from tests.engine_support import DAY_16, DAY_17, heights, plain_rows, small_schema
from zcollection_engine import Collection, DatePartitioning, WriterOptions, create_collection, open_collection
from zcollection_engine.granules.model import GranuleSpec

DAY = 86_400

SETTINGS = """
[[sources]]
type = "watch"
url = "in"

[[collections]]
name = "heights"
url = "out"
match = ["*.nc"]
axis = "time"
partitioning = { by = "date", variable = "time", resolution = "day" }
reader_grace_seconds = 0
rewrite_memory_mb = 8
"""


@dataclass
class Program:
    """The program, run in the folder of the collection; granule b took rows 1 and 2 from a, and c is alone."""

    folder: Path
    collection: Collection

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["retract", "out", *arguments], prog_name="zcollectiond")

    def json(self, *arguments: str) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def told(self, *arguments: str) -> Any:
        """What another command tells machines."""
        result = CliRunner().invoke(app, [*arguments, "--json"], prog_name="zcollectiond")
        assert result.exit_code == 0
        return json.loads(result.stdout)

    def key(self, name: str) -> str:
        return str(self.folder / "in" / name).lstrip("/")

    def rows(self) -> dict[str, list[tuple[int, int]]]:
        return plain_rows(self.collection.store)

    def operations(self) -> list[str]:
        return [info.operation for info in open_collection(self.collection.url).history()]


FULL = {DAY_16: [(0, 0), (1, 101), (2, 102), (3, 3)], DAY_17: [(DAY, DAY)]}
WITHOUT_B = {DAY_16: [(0, 0), (1, 1), (2, 2), (3, 3)], DAY_17: [(DAY, DAY)]}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "settings.toml").write_text(SETTINGS)
    (tmp_path / "in").mkdir()
    granules = {"a.nc": heights(range(4)), "b.nc": heights([1, 2], offset=100), "c.nc": heights([DAY])}
    for number, (name, dataset) in enumerate(granules.items()):
        path = tmp_path / "in" / name
        dataset.to_netcdf(path)
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    made = create_collection(
        "out", small_schema(), DatePartitioning("time", "day"), writer=WriterOptions(owner="daemon-1")
    )
    made.ingest([f"in/{name}" for name in granules], GranuleSpec("/time"))
    program = Program(tmp_path, made)
    assert program.rows() == FULL
    return program


def test_without_yes_it_is_only_shown_what_would_change(program: Program) -> None:
    found = program.json(program.key("b.nc"), "--config", "settings.toml")
    assert [(g["key"], g["rows"]) for g in found["granules_out"]] == [(program.key("b.nc"), {DAY_16: 2})]
    assert found["partitions"] == [DAY_16]
    assert [(g["key"], g["source"]) for g in found["read_again"]] == [(program.key("a.nc"), "there")]
    assert (found["lost"], found["commit"]) == ([], None)
    assert program.rows() == FULL
    assert program.operations() == ["merge"]
    printed = program(program.key("b.nc"), "--config", "settings.toml").stdout
    assert "Nothing was changed: --yes does it." in printed
    assert [line.split()[-1] for line in printed.splitlines() if program.key("a.nc") in line] == ["there"]


def test_rows_come_back_and_history_and_diff_show_it(program: Program) -> None:
    found = program.json(program.key("b.nc"), "--config", "settings.toml", "--yes")
    assert (found["lost"], [g["key"] for g in found["granules_out"]]) == ([], [program.key("b.nc")])
    assert program.rows() == WITHOUT_B
    commit = program.told("history", "out")["commits"][-1]
    assert (commit["number"], commit["operation"]) == (found["commit"], "retract")
    assert (commit["removed"], commit["lost"], commit["rows"]) == ([program.key("b.nc")], [], {DAY_16: 4})
    assert commit["owner"].startswith("retract-")
    difference = program.told("diff", "out", str(found["commit"] - 1), str(found["commit"]))
    assert [g["key"] for g in difference["granules_out"]] == [program.key("b.nc")]
    assert [p["path"] for p in difference["partitions"]] == [DAY_16]


def test_granules_are_named_by_id_too_and_several_leave_in_one_commit(program: Program) -> None:
    ids = {e.identity.key.rpartition("/")[2]: str(e.id) for e in program.collection.granules()}
    result = program(ids["b.nc"], program.key("b.nc"), ids["c.nc"], "--yes", "-c", "settings.toml")
    assert result.exit_code == 0, result.stderr
    assert program.rows() == {DAY_16: WITHOUT_B[DAY_16]}
    assert program.operations() == ["merge", "retract"]
    assert "Retracted: commit" in result.stdout


def test_a_granule_that_took_no_rows_needs_no_settings(program: Program) -> None:
    assert program.json(program.key("c.nc"), "--yes")["read_again"] == []
    assert program.rows() == {DAY_16: FULL[DAY_16]}


def test_without_settings_rows_that_cannot_be_read_again_are_named_and_it_is_refused(program: Program) -> None:
    found = program.json(program.key("b.nc"))
    assert [(g["key"], g["source"]) for g in found["read_again"]] == [(program.key("a.nc"), "unknown")]
    assert [g["key"] for g in found["lost"]] == [program.key("a.nc")]
    assert "--config" in program(program.key("b.nc")).stdout
    refused = program(program.key("b.nc"), "--yes")
    assert refused.exit_code == 3
    assert f"of {program.key('a.nc')} (not known" in refused.stderr
    assert "--accept-losses" in refused.stderr
    assert program.operations() == ["merge"]
    done = program.json(program.key("b.nc"), "--yes", "--accept-losses")
    assert [g["key"] for g in done["lost"]] == [program.key("a.nc")]
    assert program.rows() == {DAY_16: [(0, 0), (3, 3)], DAY_17: [(DAY, DAY)]}
    (entry,) = (e for e in program.collection.granules() if e.identity.key == program.key("a.nc"))
    assert program.told("history", "out")["commits"][-1]["lost"] == [str(entry.id)]


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.unlink()
    heights(range(5)).to_netcdf(path)


@pytest.mark.parametrize(("harm", "source", "words"), [(remove, "gone", "gone"), (change, "changed", "written again")])
def test_a_source_that_is_not_there_any_more_is_told_before_anything_is_lost(
    program: Program, harm: Callable[[Path], None], source: str, words: str
) -> None:
    harm(program.folder / "in" / "a.nc")
    found = program.json(program.key("b.nc"), "-c", "settings.toml")
    assert [g["source"] for g in found["read_again"]] == [source]
    refused = program(program.key("b.nc"), "-c", "settings.toml", "--yes")
    assert refused.exit_code == 3
    assert words in refused.stderr
    assert program.operations() == ["merge"]
    done = program(program.key("b.nc"), "-c", "settings.toml", "--yes", "--accept-losses")
    assert done.exit_code == 0
    assert f"Lost: rows of {program.key('a.nc')}" in done.stdout


def test_a_source_that_is_there_and_cannot_be_read_loses_nothing_either(program: Program) -> None:
    settings = program.folder / "settings.toml"
    settings.write_text(f'{SETTINGS}\n[collections.granule]\ninclude = ["/nothing"]\n')
    refused = program(program.key("b.nc"), "-c", "settings.toml", "--yes")
    assert refused.exit_code == 3
    assert "rows would be lost" in refused.stderr
    assert program.operations() == ["merge"]
    assert program.rows() == FULL


def test_a_granule_that_is_not_in_is_an_error(program: Program) -> None:
    for options in ([], ["--yes"]):
        result = program("b.nc", *options)
        assert result.exit_code == 3
        assert "no granule 'b.nc' is in" in result.stderr
    assert program.operations() == ["merge"]


def test_a_collection_of_other_settings_is_read_as_nobody_tells(program: Program) -> None:
    settings = program.folder / "settings.toml"
    settings.write_text(SETTINGS.replace('url = "out"', 'url = "elsewhere"'))
    assert program.json(program.key("b.nc"), "-c", "settings.toml")["read_again"][0]["source"] == "unknown"
