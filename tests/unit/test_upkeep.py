"""What verification and repair tell people and machines, and the commands that start them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from daemon import upkeep
from daemon.cli import app
from tests.engine_support import DAY_16, DAY_17
from tests.verification_support import overwrite, settled
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.verification.repairs import Action, LostChunk, OpenGrant, RepairReport, Source
from zcollection_engine.verification.report import Chunks, Code, Counts, Finding, VerifyReport

Invoke = Callable[..., Result]

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
NOTE = Finding(Code.UNPUBLISHED, DAY_16, f"{DAY_16}/zarr.json", "it is behind")
FAULT = Finding(Code.MISSING_CHUNK, DAY_16, f"{DAY_16}/time/c/0", "it is\n\x1b[31mgone")
CLEAN = VerifyReport(
    "s3://b/c", NOON, NOON + timedelta(seconds=3), 7, 6, "decode", Counts(2, 30, 4000, 90_000, 5, 1234, 0), (), ()
)


@pytest.fixture
def store(tmp_path: Path) -> PosixStore:
    made = PosixStore(tmp_path / "s6a")
    settled(made)
    return made


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, prog_name="zcollectiond")

    return run


def printed(report: VerifyReport | RepairReport) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=160, markup=False, highlight=False, emoji=False)
    if isinstance(report, VerifyReport):
        upkeep.render_verification(report, console)
    else:
        upkeep.render_repair(report, console)
    return stream.getvalue()


# Reports for people.


def test_a_clean_verification_says_what_was_looked_at() -> None:
    text = printed(CLEAN)
    assert "documents    30 checked in 2 partitions" in text
    assert "chunks       4,000 decoded, 90,000 rows" in text
    assert "garbage      5 chunks, 1,234 bytes" in text
    assert "took         3.00 s" in text
    assert text.endswith("All is as the commit log says.\n")


@pytest.mark.parametrize(("chunks", "words"), [("none", "not looked at"), ("present", "4,000 looked for")])
def test_it_says_how_closely_chunks_were_looked_at(chunks: Chunks, words: str) -> None:
    assert words in printed(replace(CLEAN, chunks=chunks, commit=-1))


def test_faults_come_before_notes_and_cannot_control_the_terminal() -> None:
    text = printed(replace(CLEAN, findings=(NOTE, FAULT), foreign=("a", "b", "c", "d"), counts=Counts(foreign=9)))
    assert text.index("missing_chunk") < text.index("unpublished")
    assert "it is \\x1b[31mgone" in text
    assert "9 objects: a, b, c, ..." in text
    assert text.endswith("1 faults, 1 notes.\n")
    assert printed(replace(CLEAN, findings=(NOTE,))).endswith("No fault, 1 notes.\n")


def test_long_lists_are_cut_for_people() -> None:
    many = tuple(replace(FAULT, key=f"k{n}") for n in range(73))
    assert "and 23 more: --json prints all" in printed(replace(CLEAN, findings=many))


def test_a_repair_says_what_was_done_what_is_lost_and_who_holds_what() -> None:
    report = RepairReport(
        "s3://b/c",
        (Action(Code.DAMAGED, DAY_16, f"{DAY_16}/zarr.json", "the group was written"),),
        (LostChunk(Code.MISSING_CHUNK, DAY_16, f"{DAY_16}/time/c/0", (Source("1", "a.nc", "s3://in/a.nc"),)),),
        (OpenGrant(12, "daemon-1", NOON, 60.0, (DAY_17,)),),
        3,
        (NOTE,),
    )
    text = printed(report)
    for words in ("the group was written", "s3://in/a.nc", "daemon-1", "2024-01-01 12:00:00Z", "3 hidden files"):
        assert words in text
    assert text.endswith("1 repaired; some damage is left: see above.\n")
    assert printed(replace(report, lost=())).endswith("1 repaired; no fault is left.\n")
    nothing = RepairReport("s3://b/c", (), (), (), 0, ())
    assert printed(nothing) == "s3://b/c\n\nNothing to repair.\n"


# Commands.


def test_verify_ends_with_0_when_all_is_well(invoke: Invoke, store: PosixStore) -> None:
    result = invoke("verify", "s6a")
    assert result.exit_code == 0
    assert "13 rows" in result.stdout
    assert result.stdout.endswith("All is as the commit log says.\n")


def test_verify_ends_with_3_and_names_the_fault(invoke: Invoke, store: PosixStore) -> None:
    store.delete(f"{DAY_16}/height/c.0")
    result = invoke("verify", store.url, "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert [f["code"] for f in report["findings"]] == ["missing_chunk"]
    assert invoke("verify", store.url, "--chunks", "none").exit_code == 0


def test_repair_puts_right_what_the_log_tells(invoke: Invoke, store: PosixStore) -> None:
    key = f"{DAY_16}/height/zarr.json"
    whole = store.get(key).data
    overwrite(store, key, b"torn")
    assert invoke("verify", "s6a", "--chunks", "none").exit_code == 3
    result = invoke("repair", "s6a")
    assert result.exit_code == 0
    assert "damaged_document" in result.stdout
    assert result.stdout.endswith("1 repaired; no fault is left.\n")
    assert store.get(key).data == whole
    assert invoke("repair", "s6a").stdout.endswith("Nothing to repair.\n")


def test_repair_ends_with_3_when_data_are_gone(invoke: Invoke, store: PosixStore) -> None:
    store.delete(f"{DAY_16}/height/c.0")
    result = invoke("repair", "s6a", "--json")
    assert result.exit_code == 3
    (lost,) = json.loads(result.stdout)["lost"]
    assert lost["key"] == f"{DAY_16}/height/c.0"
    assert {granule["key"] for granule in lost["granules"]} == {"first", "second"}


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_nothing_to_look_at_is_an_error(invoke: Invoke, command: str) -> None:
    result = invoke(command, "nowhere")
    assert result.exit_code == 3
    assert "there is no collection here" in result.stderr
    assert invoke(command, "nowhere", "--chunks", "some").exit_code == 2
