"""What verification, repair and garbage collection tell people and machines, and the commands that start them."""

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
from tests.engine_support import DAY_16, DAY_17, small_schema
from tests.verification_support import overwrite, settled
from zcollection_engine import DatePartitioning, WriterOptions, create_collection, opening
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import Grant
from zcollection_engine.stores.filesystem import FilesystemStore
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


def test_repair_and_gc_write_to_a_store_without_conditions_only_on_the_operators_word(
    invoke: Invoke, tmp_path: Path
) -> None:
    url = f"memory://{tmp_path.name}/s6a"
    create_collection(
        FilesystemStore(url),
        small_schema(),
        DatePartitioning("time", "day"),
        writer=WriterOptions(owner="x", single_writer=True),
    )
    (tmp_path / "settings.toml").write_text(settings_for(url, "single_writer = true"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "open_store", lambda url, _: FilesystemStore(url))
        for command in (("repair", url), ("gc", url, "--run")):
            refused = invoke(*command)
            assert refused.exit_code == 3
            assert "single_writer = true" in refused.stderr
            assert invoke(*command, "--config", "settings.toml").exit_code == 0
        assert invoke("gc", url).exit_code == 0


# gc


def test_gc_only_tells_unless_it_shall_run(invoke: Invoke, store: PosixStore, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(settings_for(store.url, "reader_grace_seconds = 0"))
    ages = ("--min-age", "0s", "--retention", "0s", "--config", "settings.toml")
    store.create(f"{DAY_16}/notes.txt", b"mine")
    before = files(tmp_path)
    told = invoke("gc", "s6a", *ages, "--json")
    assert (told.exit_code, told.stderr) == (0, "")
    assert files(tmp_path) == before

    found = json.loads(told.stdout)
    assert (found["url"], found["dry_run"], found["foreign"], found["busy"]) == (store.url, True, 1, {})
    assert (found["min_age"], found["retention"]) == (0, 0)
    number, size = found["objects"]["chunk"], found["bytes"]["chunk"]
    assert number > 10
    line = f"{number:,} objects, {size:,} bytes"
    assert invoke("gc", "s6a", *ages).stdout.endswith(f"{line}: --run removes them.\n")
    assert files(tmp_path) == before

    done = invoke("gc", "s6a", *ages, "--run")
    assert done.exit_code == 0
    assert done.stdout.endswith(f"{line} removed.\n")
    assert json.loads(invoke("gc", "s6a", *ages, "--json").stdout)["objects"]["chunk"] == 0
    assert invoke("gc", "s6a").stdout.endswith("No garbage.\n")
    assert invoke("verify", "s6a").exit_code == 0
    assert store.get(f"{DAY_16}/notes.txt").data == b"mine"


def test_gc_leaves_what_readers_may_still_need(invoke: Invoke, store: PosixStore) -> None:
    for extra in ((), ("--run",)):
        result = invoke("gc", "s6a", "--min-age", "0s", "--retention", "0s", "--json", *extra)
        found = json.loads(result.stdout)
        assert found["retention"] == 600
        assert found["objects"]["chunk"] == 0


def test_gc_says_whom_it_left_alone(invoke: Invoke, store: PosixStore, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(settings_for(store.url, "reader_grace_seconds = 0"))
    grant = Grant("t", datetime.now(UTC), "daemon-7", "session", 60.0, (DAY_16,))
    CommitLog(store).append(load_state(store).number + 1, grant)
    for extra in ((), ("--run",)):
        result = invoke("gc", "s6a", "--min-age", "0s", "--retention", "0s", "-c", "settings.toml", *extra)
        assert result.exit_code == 0
        assert DAY_16 in result.stdout
        assert "is held by 'daemon-7'" in result.stdout


@pytest.mark.parametrize(("option", "value"), [("--min-age", "soon"), ("--retention", "-7d")])
def test_gc_of_a_wrong_age_is_a_usage_error(invoke: Invoke, store: PosixStore, option: str, value: str) -> None:
    result = invoke("gc", "s6a", option, value, "--run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{option}: {value!r} is no duration; ")


def test_gc_of_nothing_is_an_error(invoke: Invoke) -> None:
    for extra in ((), ("--run",)):
        result = invoke("gc", "nowhere", *extra)
        assert result.exit_code == 3
        assert "there is no collection here" in result.stderr


def settings_for(url: str, line: str) -> str:
    """Settings that have a collection."""
    return f"""
        [[collections]]
        name = "s6a"
        url = "{url}"
        match = ["*.nc"]
        axis = "time"
        partitioning = {{ by = "date", variable = "time", resolution = "day" }}
        {line}
    """


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}
