"""The commands import and convert, as people and machines meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from daemon.cli import app
from tests.foreign_trees import BY_MONTH, JANUARY, by_month, write_tree
from zcollection_engine import open_collection
from zcollection_engine.stores.posix import PosixStore

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, prog_name="zcollectiond")

    return run


def on_disk(folder: Path, unit: str = "ns", lost: str = "") -> Path:
    made, store = write_tree(by_month(unit), BY_MONTH), PosixStore(folder)
    for info in made.list():
        if info.key != lost:
            store.create(info.key, made.get(info.key).data)
    return folder


def test_import_takes_a_tree_over_at_once_and_says_so(invoke: Invoke, tmp_path: Path) -> None:
    on_disk(tmp_path / "tree")
    done = invoke("import", "tree")
    assert done.exit_code == 0, done.output
    assert "partitions   2" in done.output
    assert "rows         14" in done.output
    assert "Taken over with commit 2." in done.output
    assert sum(p.rows for p in open_collection(str(tmp_path / "tree")).partitions()) == 14
    for also in ((), ("--dry-run",)):
        again = invoke("import", "tree", *also)
        assert again.exit_code == 3
        assert "there is a collection already" in again.output


def test_a_dry_run_writes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "tree", lost=f"{JANUARY}/packed/0")
    before = sorted(folder.rglob("*"))
    report = json.loads(invoke("import", "tree", "--dry-run", "--json").stdout)
    assert (report["ok"], report["commit"], report["partitions"], report["dry_run"]) == (True, None, 2, True)
    assert [(f["code"], f["severity"], f["variable"]) for f in report["findings"]] == [
        ("absent_chunks", "note", "packed")
    ]
    assert sorted(folder.rglob("*")) == before
    assert "absent_chunks" in invoke("import", "tree", "--dry-run").output


def test_what_stands_against_an_import_is_told_and_the_exit_code_is_3(invoke: Invoke, tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "tree", "us")
    before = sorted(folder.rglob("*"))
    done = invoke("import", "tree")
    assert done.exit_code == 3
    assert "microseconds" in done.output
    assert "nothing was written" in done.output
    assert json.loads(invoke("import", "tree", "--json").stdout)["obstacles"]
    assert sorted(folder.rglob("*")) == before


def test_convert_makes_a_new_collection_and_says_what_it_has(invoke: Invoke, tmp_path: Path) -> None:
    on_disk(tmp_path / "tree", "us")
    done = invoke("convert", "tree", "new")
    assert done.exit_code == 0, done.output
    assert "2, of which 2 were written now" in done.output
    assert "compared, all are the same" in done.output
    assert open_collection(str(tmp_path / "new")).schema.zarr_format == 3
    report = json.loads(invoke("convert", "tree", "new", "--json", "--no-verify").stdout)
    assert (report["written"], report["rows"], report["verified"]) == (0, 14, False)
    other = invoke("convert", "new", "old", "--zarr-format", "2", "--keep-codecs", "--json")
    assert json.loads(other.stdout)["zarr_format"] == 2
    refused = invoke("convert", "tree", "old")
    assert refused.exit_code == 3
    assert "another collection" in refused.output
