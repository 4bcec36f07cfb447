"""The command line: what it prints, where to, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from daemon import app as application
from daemon import checking, cli_shared, inspection, logs
from daemon.cli import app
from daemon.demo import command as demonstration
from daemon.errors import DaemonError, SettingsError, StateInUseError
from daemon.journal import FILE, Entry, Journal, State
from daemon.settings import Settings
from tests.engine_support import DAY_16, heights, small_schema
from tests.servers import S3Server
from zcollection_engine import DatePartitioning, StorageOptions, create_collection, open_collection
from zcollection_engine.errors import ConflictError, FormatError, NotFoundError, StorageError
from zcollection_engine.stores.filesystem import FilesystemStore

PROJECT = Path(__file__).parents[2]

SETTINGS = """
[daemon]
log_level = "warning"

[aws]
endpoint_url = "http://127.0.0.1:5000"
region = "eu-west-1"

[[sources]]
type = "watch"
url = "incoming"

[[collections]]
name = "s6a"
url = "out/s6a"
match = ["S6A_*.nc"]
axis = "time"
partitioning = { by = "date", variable = "time", resolution = "day" }
"""

COMMANDS = (
    "run",
    "status",
    "inspect",
    "history",
    "diff",
    "rollback",
    "retract",
    "check",
    "verify",
    "repair",
    "gc",
    "demo",
)

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the program in the folder of ``settings.toml``, 100 columns wide, without a terminal."""
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, prog_name="zcollectiond")

    return run


@dataclass
class Runs:
    """What the daemon was started with, and what it does then."""

    error: Exception | None = None
    settings: Settings | None = None
    until_idle: bool | None = None
    logging: tuple[str, str] | None = None


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Put something that notes its arguments in the place of the daemon and of the set-up of logging."""
    noted = Runs()

    async def run(settings: Settings, *, until_idle: bool = False) -> None:
        noted.settings, noted.until_idle = settings, until_idle
        if noted.error is not None:
            raise noted.error

    def configure(log_format: str, level: str) -> None:
        noted.logging = (log_format, level)

    monkeypatch.setattr(application, "run", run)
    monkeypatch.setattr(logs, "configure", configure)
    return noted


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )


# The program.


def test_help_names_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in (*COMMANDS, "--version"):
        assert f"\n  {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_that_can_be_copied(invoke: Invoke, command: str) -> None:
    result = invoke(command, "-h")
    assert result.exit_code == 0
    assert f"  Example:\n    zcollectiond {command}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_without_arguments_the_usage_is_shown(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: zcollectiond" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("explode",),
        ("run", "--quickly"),
        ("status", "--errors", "-1"),
        ("inspect",),
        ("check",),
        ("check", "x", "--rounds", "0"),
        ("diff", "x", "1"),
        ("rollback", "x"),
        ("retract", "x"),
        ("history", "x", "--last", "0"),
        ("gc",),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: zcollectiond" in result.stderr
    assert result.stdout == ""


def test_the_module_is_the_program_and_tells_its_version() -> None:
    try:
        expected = f"zcollectiond {version('zcollectiond')}\n"
    except PackageNotFoundError:
        expected = "zcollectiond, run from its sources\n"
    done = python("-m", "daemon", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = ("boto3", "dask", "distributed", "matplotlib", "moto", "netCDF4", "numpy", "pydantic", "xarray", "zarr")
    done = python("-c", f"import sys, daemon.cli; print([m for m in {heavy} if m in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_unforeseen_error_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    program = """
import sys
from daemon import app, cli
async def run(settings, *, until_idle):
    raise ZeroDivisionError("a defect")
app.run = run
sys.argv = ["zcollectiond", "run", "--config", sys.argv[1]]
cli.main()
"""
    done = python("-c", program, str(tmp_path / "settings.toml"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: a defect\n")


# run


def test_run_starts_the_daemon_with_the_settings_of_the_folder(invoke: Invoke, runs: Runs, tmp_path: Path) -> None:
    result = invoke("run")
    assert (result.exit_code, result.output) == (0, "")
    assert runs.settings is not None
    assert runs.settings.collections[0].url == f"file://{tmp_path}/out/s6a"
    assert runs.until_idle is False
    assert runs.logging == ("auto", "warning")


def test_run_takes_settings_from_the_command_line(invoke: Invoke, runs: Runs) -> None:
    result = invoke(
        "run", "-c", "settings.toml", "--until-idle", "--set", "dask.workers=4", "--set", "collections[0].url=s3://b/c"
    )
    assert (result.exit_code, result.output) == (0, "")
    assert runs.settings is not None
    assert runs.settings.dask.workers == 4
    assert runs.settings.collections[0].url == "s3://b/c"
    assert runs.until_idle is True


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_missing_settings_file_is_named_with_the_way_to_make_one(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--config", "elsewhere/my.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("elsewhere/my.toml: no such settings file")
    assert "settings.example.toml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_every_wrong_setting_has_a_line(invoke: Invoke, runs: Runs) -> None:
    result = invoke("run", "--set", "dask.wrokers=4", "--set", "batch.max_granules=0")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert any("dask.wrokers" in line and "workers" in line for line in lines)
    assert any("batch.max_granules" in line for line in lines)
    assert runs.settings is None


def test_settings_that_cannot_run_are_a_usage_error(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("")
    result = invoke("run")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["sources", "collections"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SettingsError("a: wrong"), 2, "a: wrong"),
        (StateInUseError("state: another\ndaemon"), 3, "zcollectiond: state: another daemon"),
        (DaemonError("no cluster"), 3, "zcollectiond: no cluster"),
        (FormatError("x has version 9: use a newer one"), 3, "zcollectiond: x has version 9: use a newer one"),
        (
            StorageError("cannot reach s3://u:geheim@bucket"),
            3,
            "zcollectiond: cannot reach s3://***@bucket; check the address, the region, the credentials and the"
            " network, then start again",
        ),
        (NotFoundError("no bucket b"), 3, "zcollectiond: no bucket b; check the URL"),
        (
            ConflictError("taken"),
            3,
            "zcollectiond: taken; another writer changed the same thing: start again",
        ),
    ],
)
def test_a_foreseen_error_is_one_line_and_an_exit_code(
    invoke: Invoke, runs: Runs, error: Exception, code: int, line: str
) -> None:
    runs.error = error
    result = invoke("run")
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"{line}\n", "")


# status


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal at rest with three failures; returns its folder."""
    folder = tmp_path / ".zcollectiond"
    folder.mkdir()
    opened = Journal(folder)
    for second in range(3):
        settled = datetime(2026, 7, 30, 12, 0, second, tzinfo=UTC)
        opened.record(
            Entry(str(second), "s6a", "b", f"{second}.nc", State.QUARANTINED, reason="unreadable", settled=settled)
        )
    opened.close()
    return folder


def test_status_prints_json_and_nothing_else(invoke: Invoke, journal: Path) -> None:
    result = invoke("status", "--json", "--errors", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["collections"][0]["granules"]["states"]["quarantined"] == 3
    assert [error["key"] for error in found["errors"]] == ["2.nc", "1.nc"]


def test_status_prints_tables_without_colour_when_not_on_a_terminal(invoke: Invoke, journal: Path) -> None:
    result = invoke("status")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("quarantined unreadable") == 3
    assert "\x1b" not in result.stdout


def test_status_before_the_first_run_is_no_error(invoke: Invoke) -> None:
    result = invoke("status")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no daemon has run with these settings yet" in " ".join(result.stdout.split())


def test_status_of_a_damaged_journal_is_an_error(invoke: Invoke, journal: Path) -> None:
    (journal / FILE).write_bytes(b"x" * 5000)
    result = invoke("status")
    assert result.exit_code == 3
    assert "cannot be read as a journal" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# inspect


@pytest.fixture
def collection(tmp_path: Path) -> str:
    made = create_collection(str(tmp_path / "s6a"), small_schema(), DatePartitioning("time", "day"))
    made.insert(heights(range(5)), granule="first")
    return made.url


@pytest.mark.parametrize("spelling", ["s6a", "./s6a/", "{url}", "{folder}/s6a"])
def test_inspect_takes_paths_and_urls(invoke: Invoke, collection: str, tmp_path: Path, spelling: str) -> None:
    result = invoke("inspect", spelling.format(url=collection, folder=tmp_path), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["url"], found["rows"], found["partitions"][0]["path"]) == (collection, 5, DAY_16)


def test_inspect_prints_tables_without_colour_when_not_on_a_terminal(invoke: Invoke, collection: str) -> None:
    result = invoke("inspect", "s6a")
    assert (result.exit_code, result.stderr) == (0, "")
    assert DAY_16 in result.stdout
    assert "\x1b" not in result.stdout


def test_inspect_of_nothing_is_an_error(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("inspect", "nowhere")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"zcollectiond: file://{tmp_path}/nowhere: there is no collection here; check the URL\n"


def test_inspect_of_what_is_no_url_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("inspect", "s3:/bucket/s6a")
    assert result.exit_code == 2
    assert "s3://bucket/prefix" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], StorageOptions()),
        (["--config", "settings.toml"], StorageOptions("http://127.0.0.1:5000", "eu-west-1")),
        (
            ["--config", "settings.toml", "--endpoint-url", "http://h:1"],
            StorageOptions("http://h:1", "eu-west-1"),
        ),
        (["--endpoint-url", "http://h:1", "--region", "r"], StorageOptions("http://h:1", "r")),
    ],
)
def test_inspect_reaches_s3_as_settings_and_options_say(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: StorageOptions
) -> None:
    asked: list[Any] = []

    def refuse(url: str, storage: StorageOptions, *, at: object) -> None:
        asked.append((url, storage))
        raise NotFoundError("not here")

    monkeypatch.setattr(inspection, "inspect", refuse)
    assert invoke("inspect", "s3://bucket/s6a", *options).exit_code == 3
    assert asked == [("s3://bucket/s6a", expected)]


def test_inspect_shows_what_was_there(invoke: Invoke, collection: str) -> None:
    later = open_collection(collection, mode="w")
    first = later.commit
    later.insert(heights(range(5, 9)), granule="second")
    rows = {at: json.loads(invoke("inspect", "s6a", "--json", *at).stdout)["rows"] for at in ((), ("--at", f"{first}"))}
    assert rows == {(): 9, ("--at", f"{first}"): 5}
    committed = next(commit.time for commit in later.history() if commit.number == first)
    assert json.loads(invoke("inspect", "s6a", "--json", "--at", committed.isoformat()).stdout)["rows"] == 5


@pytest.mark.parametrize(
    ("at", "code", "words"),
    [
        ("99", 3, "there is no record 99; the log ends with 2"),
        ("2001-01-01", 3, "after 2001-01-01T00:00:00.000000Z"),
        ("yesterday", 2, "--at: 'yesterday' is no time; write ISO 8601"),
    ],
)
def test_a_commit_that_never_was_is_an_error(invoke: Invoke, collection: str, at: str, code: int, words: str) -> None:
    result = invoke("inspect", "s6a", "--at", at)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.integration
def test_inspect_reads_a_collection_on_s3(invoke: Invoke, moto_server: S3Server, bucket: str) -> None:
    url, storage = f"s3://{bucket}/s6a", StorageOptions(moto_server.endpoint_url, "us-east-1")
    create_collection(url, small_schema(), DatePartitioning("time", "day"), storage=storage).insert(heights(range(5)))
    result = invoke("inspect", url, "--endpoint-url", moto_server.endpoint_url, "--region", "us-east-1", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["rows"] == 5


# check


def test_check_of_a_fit_store_ends_with_0(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("check", "s6a", "--json", "--rounds", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["url"], found["fit_for_several_writers"], found["rounds"]) == (f"file://{tmp_path}/s6a", True, 2)


def test_check_of_an_unfit_store_ends_with_3_and_its_report(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "open_store", lambda url, _: FilesystemStore(url))
    result = invoke("check", "memory://unfit/s6a", "--rounds", "1")
    assert (result.exit_code, result.stderr) == (3, "")
    assert "NOT fit for several writers: set single_writer = true" in result.stdout
    assert "no conditional writes" in result.stdout
    assert "\x1b" not in result.stdout


def test_check_of_what_is_no_url_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("check", "s3:/bucket/s6a")
    assert result.exit_code == 2
    assert "s3://bucket/prefix" in result.stderr


def test_check_reaches_s3_as_settings_and_options_say(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(url: str, storage: StorageOptions, *, rounds: int) -> None:
        asked.append((url, storage, rounds))
        raise StorageError("not here")

    monkeypatch.setattr(checking, "check", refuse)
    assert invoke("check", "s3://bucket/s6a", "-c", "settings.toml", "--region", "r").exit_code == 3
    assert asked == [("s3://bucket/s6a", StorageOptions("http://127.0.0.1:5000", "r"), 3)]


# demo


@pytest.mark.parametrize(("arguments", "folder"), [([], "demo"), (["elsewhere"], "elsewhere")])
@pytest.mark.parametrize("code", [0, 1])
def test_demo_ends_with_the_code_of_the_demonstration(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], folder: str, code: int
) -> None:
    asked: list[Path] = []

    def demonstrate(place: Path) -> int:
        asked.append(place)
        return code

    monkeypatch.setattr(demonstration, "demo", demonstrate)
    assert invoke("demo", *arguments).exit_code == code
    assert asked == [Path(folder)]


# Values.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("90m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("7D", timedelta(days=7)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert cli_shared.duration("--min-age", text) == expected


@pytest.mark.parametrize("text", ["", "7", "h", "-1h", "1w", "1h30m", "inf d", "\u0663h", "9" * 30 + "d"])
def test_what_is_no_duration_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--min-age: '"):
        cli_shared.duration("--min-age", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("120", 120),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31 12:30:00.5Z", datetime(2026, 1, 31, 12, 30, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:30+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_number_or_a_time_in_utc(text: str, expected: object) -> None:
    assert cli_shared.moment("TO", text) == expected


@pytest.mark.parametrize("text", ["", "-1", "\u0663", "2026-13-01", "noon"])
def test_what_is_no_moment_is_refused_with_the_argument(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^TO: .* or the number of a commit"):
        cli_shared.moment("TO", text)


# Writers.


def test_a_command_writes_as_the_settings_of_the_collection_say(invoke: Invoke, tmp_path: Path) -> None:
    section = "reader_grace_seconds = 7\ngrant_ttl_seconds = 8\nsingle_writer = true\n"
    (tmp_path / "settings.toml").write_text(SETTINGS.replace("axis =", f"{section}axis ="))
    writer = cli_shared.place("out/s6a/", Path("settings.toml"), None, None).writer("gc")
    assert writer.owner == f"gc-{gethostname()}-{os.getpid()}"
    assert (writer.reader_grace, writer.grant_seconds, writer.single_writer) == (timedelta(seconds=7), 8, True)


@pytest.mark.parametrize("config", [None, Path("settings.toml")])
def test_a_collection_that_no_settings_have_gets_the_grace_that_readers_expect(
    invoke: Invoke, config: Path | None
) -> None:
    writer = cli_shared.place("out/another", config, None, None).writer("gc")
    assert (writer.reader_grace, writer.single_writer) == (timedelta(minutes=10), False)
