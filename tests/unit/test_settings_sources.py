"""TOML file < environment < command line; misspelt keys; all problems together, each with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SettingsError
from daemon.settings import Settings, environment_names, load_settings

QUEUE = '[[sources]]\ntype = "sqs"\nqueue_url = "https://host/1/granules"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("settings.toml")


def problems(file: Path | None, *overrides: str, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, overrides=overrides, environ=environ)
    return list(caught.value.problems)


def test_without_any_source_the_defaults_hold() -> None:
    settings = load_settings(None, environ={})
    assert settings.model_copy(update={"daemon": Settings().daemon}) == Settings()
    assert settings.daemon.state_dir == Path.cwd() / ".zcollectiond"


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(file: Path) -> None:
    file.write_text("[dask]\nworkers = 3\nmemory_limit = '3GiB'\naddress = 'tcp://file:1'")
    environ = {"ZCOLLECTIOND_DASK__WORKERS": "4", "ZCOLLECTIOND_DASK__MEMORY_LIMIT": "4GiB"}
    settings = load_settings(file, environ=environ, overrides=["dask.workers=5"])
    assert (settings.dask.workers, settings.dask.memory_limit) == (5, "4GiB")
    assert settings.dask.address == "tcp://file:1"


def test_the_last_of_equal_overrides_wins() -> None:
    assert load_settings(None, environ={}, overrides=["dask.workers=5", "dask.workers=6"]).dask.workers == 6


def test_lists_and_tables_are_json_in_the_environment(file: Path) -> None:
    file.write_text(QUEUE + "[batch]\nmax_granules = 9")
    sources = [{"type": "watch", "url": "s3://bucket/in"}]
    environ = {
        "ZCOLLECTIOND_SOURCES": json.dumps(sources),
        "ZCOLLECTIOND_BATCH": '{"max_in_flight": 10}',
        "ZCOLLECTIOND_BATCH__MAX_BYTES": "11",
    }
    settings = load_settings(file, environ=environ)
    assert [source.model_dump(exclude_defaults=True) for source in settings.sources] == sources
    assert (settings.batch.max_granules, settings.batch.max_in_flight, settings.batch.max_bytes) == (
        9,
        10,
        11,
    )


def test_an_entry_of_a_list_can_be_changed_from_outside(file: Path) -> None:
    file.write_text(QUEUE)
    environ = {"ZCOLLECTIOND_SOURCES__0__NAME": "night", "ZCOLLECTIOND_SOURCES__0__WAIT_SECONDS": "3"}
    (source,) = load_settings(file, environ=environ, overrides=["sources[0].visibility_seconds=30"]).sources
    assert source.model_dump(exclude_defaults=True) == {
        "type": "sqs",
        "queue_url": "https://host/1/granules",
        "name": "night",
        "wait_seconds": 3,
        "visibility_seconds": 30,
    }


def test_an_entry_that_is_not_there_cannot_be_changed(file: Path) -> None:
    file.write_text(QUEUE)
    assert problems(file, "sources[1].name=x", "sources.name=y", "dask.workers.x=1") == [
        "command line: sources[1].name: sources has 1 entries, numbered from 0",
        "command line: sources.name: sources is no table",
        "command line: dask.workers: should be a valid integer, not {'x': 1}",
    ]


def test_null_unsets_what_may_be_not_set(file: Path) -> None:
    file.write_text("[aws]\nregion = 'us-east-1'")
    assert load_settings(file, environ={"ZCOLLECTIOND_AWS__REGION": "null"}).aws.region is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("daemon.instance=a", "a"),
        ("daemon.instance='a b'", "a b"),
        ("daemon.instance = a = b", "a = b"),
        ("daemon.instance=7", "7"),
        ("daemon.instance=", ""),
        ("daemon.instance='x'\ndask = 1", "'x'\ndask = 1"),
    ],
)
def test_an_override_that_is_no_toml_literal_is_a_text(override: str, expected: str) -> None:
    assert load_settings(None, environ={}, overrides=[override]).daemon.instance == expected


@pytest.mark.parametrize("override", ["dask", "=3", "dask..workers=3", "dask.[0=3", "a b=3", "", "[]=1"])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    assert problems(None, override) == [f"command line: {override!r}: expected section.key=value"]


def test_all_problems_are_reported_together_each_with_its_place(file: Path) -> None:
    file.write_text(
        """
        [daks]
        workers = 1
        [retry]
        max_attempts = 0
        [[collections]]
        name = "a"
        url = "s3://bucket/a"
        match = ["*"]
        axis = "time"
        partitioning = { by = "date", variable = "time", resolution = "week" }
        mrege = { strategy = "time_series" }
        """
    )
    environ = {
        "ZCOLLECTIOND_DASK_WORKERS": "3",
        "ZCOLLECTIOND_DASK__WORKERS": "two",
        "ZCOLLECTIOND_BATCH": "{",
    }
    lines = problems(file, "aws.regoin=x", "batch.max_bytes=many", **environ)
    assert sorted(lines) == sorted(
        [
            'settings.toml: daks: unknown key; did you mean "dask"?',
            'settings.toml: collections[0].mrege: unknown key; did you mean "merge"?',
            "settings.toml: retry.max_attempts: should be greater than or equal to 1, not 0",
            "settings.toml: collections[0].partitioning.resolution: should be 'year', 'month', 'day', "
            "'hour', 'minute' or 'second', not 'week'",
            "environment variable ZCOLLECTIOND_DASK_WORKERS: unknown name; did you mean ZCOLLECTIOND_DASK__WORKERS?",
            "environment variable ZCOLLECTIOND_DASK__WORKERS: dask.workers: should be a valid integer, not 'two'",
            "environment variable ZCOLLECTIOND_BATCH: batch: not JSON: Expecting property name enclosed in "
            "double quotes: line 1 column 2 (char 1)",
            'command line: aws.regoin: unknown key; did you mean "region"?',
            "command line: batch.max_bytes: should be a valid integer, not 'many'",
        ]
    )


def test_unknown_keys_inside_json_name_the_variable() -> None:
    lines = problems(None, ZCOLLECTIOND_SOURCES='[{"type": "sqs", "queue_url": "https://h/q", "wait": 3}]')
    assert lines == [
        'environment variable ZCOLLECTIOND_SOURCES: sources[0].wait: unknown key; did you mean "wait_seconds"?'
    ]


def test_a_key_of_the_other_kind_of_source_is_unknown(file: Path) -> None:
    file.write_text(QUEUE + "settle_seconds = 3")
    (line,) = problems(file)
    assert line.startswith("settings.toml: sources[0].settle_seconds: unknown key")


def test_a_key_like_no_other_is_answered_with_all_that_are_known(file: Path) -> None:
    file.write_text("[aws]\nzzz = 1")
    assert problems(file) == ["settings.toml: aws.zzz: unknown key; known here: endpoint_url, region"]


def test_names_the_operator_chooses_are_never_unknown(file: Path) -> None:
    file.write_text(
        """
        [[collections]]
        name = "a"
        url = "s3://bucket/a"
        match = ["*"]
        axis = "time"
        partitioning = { by = "date", variable = "time", resolution = "day" }
        granule = { rename = { "ku/range" = "range" }, attributes = { Cycle = "uint16" } }
        """
    )
    environ = {"ZCOLLECTIOND_COLLECTIONS__0__GRANULE__ATTRIBUTES__Pass_Number": "uint8"}
    (collection,) = load_settings(file, environ=environ).collections
    assert collection.granule.rename == {"ku/range": "range"}
    assert collection.granule.attributes == {"Cycle": "uint16", "Pass_Number": "uint8"}


def test_service_links_of_kubernetes_are_no_settings() -> None:
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR")
    environ = {f"ZCOLLECTIOND_{name}": "tcp://10.0.0.1:80" for name in links} | {"OTHER": "1"}
    assert load_settings(None, environ=environ).daemon.health_port == 0
    assert problems(None, ZCOLLECTIOND_DAEMON__HELTH_PORT="1") == [
        "environment variable ZCOLLECTIOND_DAEMON__HELTH_PORT: unknown name; "
        "did you mean ZCOLLECTIOND_DAEMON__HEALTH_PORT?"
    ]


def test_every_listed_name_is_known() -> None:
    names = environment_names()
    assert {"ZCOLLECTIOND_DASK__WORKERS", "ZCOLLECTIOND_STORAGE__S3__CLIENT", "ZCOLLECTIOND_SOURCES"} <= set(names)
    for name in names:
        # Nothing fits the number 1e400 (infinite), and no name may be unknown.
        try:
            load_settings(None, environ={name: "1e400"})
        except SettingsError as error:
            assert "unknown name" not in str(error)  # noqa: PT017


@given(st.sampled_from(environment_names()), st.data())
def test_a_misspelt_name_is_answered_with_the_right_one(name: str, data: st.DataObject) -> None:
    prefix = len("ZCOLLECTIOND_")
    position = data.draw(st.integers(prefix, len(name) - 1))
    misspelt = f"{name[:position]}X{name[position:]}"
    (line,) = problems(None, **{misspelt: "1"})
    assert line == f"environment variable {misspelt}: unknown name; did you mean {name}?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[dask]\nworkers = \n", "not TOML: Invalid value (at line 2, column 11)"),
        (b"[dask]\n[dask]\n", "not TOML: Cannot declare ('dask',) twice (at line 2, column 6)"),
        (b"# caf\xe9\n", "not UTF-8 at byte 5"),
        (None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(file: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        file.write_bytes(content)
    assert problems(file) == [f"settings.toml: {message}"]


def test_a_folder_in_place_of_the_file_is_refused(file: Path) -> None:
    file.mkdir()
    assert problems(file) == ["settings.toml: cannot be read: Is a directory"]
