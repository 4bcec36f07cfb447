"""What the settings accept, what they refuse, and what they say then."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from daemon.errors import SettingsError
from daemon.settings import Settings, check_runnable, load_settings
from daemon.settings_data import DatePartitioningSettings, SqsSourceSettings, WatchSourceSettings
from zcollection_engine.granules.model import GranuleSpec

MINIMAL = """
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

OTHER_COLLECTION = """
[[collections]]
name = "{name}"
url = "{url}"
match = ["*.nc"]
axis = "time"
partitioning = {{ by = "date", variable = "time", resolution = "day" }}
"""

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return load_settings(path, overrides=overrides, environ=environ or {})

    return load_text


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Callable[..., list[str]]:
    """Load settings that must be refused; the lines, without the folder of the file."""

    def refused(text: str, *args: object) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(text, *args)
        return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()]

    return refused


def test_the_shape_of_a_full_file_is_understood(load: Load) -> None:
    settings = load(
        """
        [daemon]
        state_dir = "/var/lib/zcollectiond"
        [aws]
        endpoint_url = "http://127.0.0.1:5000"
        region = "us-east-1"
        [[sources]]
        type = "sqs"
        queue_url = "http://127.0.0.1:5000/123456789012/granules"
        [[sources]]
        type = "watch"
        url = "file:///data/incoming"
        [[collections]]
        name = "s6a"
        url = "s3://bucket/collections/s6a"
        match = ["S6A_*.nc"]
        axis = "time"
        partitioning = { by = "date", variable = "time", resolution = "day" }
        merge = { strategy = "time_series" }
        [collections.granule]
        axis = "/data_01/time"
        include = ["/data_01/*", "/data_01/ku/*"]
        attributes = { cycle_number = "uint16", pass_number = "uint16" }
        """
    )
    queue, folder = settings.sources
    assert isinstance(queue, SqsSourceSettings)
    assert queue.label == "granules"
    assert isinstance(folder, WatchSourceSettings)
    assert folder.label == "file:///data/incoming"
    (collection,) = settings.collections
    assert collection.partitioning == DatePartitioningSettings(by="date", variable="time", resolution="day")
    assert collection.granule_axis == "/data_01/time"
    assert collection.granule.include == ("/data_01/*", "/data_01/ku/*")
    assert collection.granule.attributes == {"cycle_number": "uint16", "pass_number": "uint16"}
    assert settings.daemon.durable_state_url == "file:///var/lib/zcollectiond/state"


def test_partitioning_by_sequence_is_understood(load: Load) -> None:
    text = MINIMAL.replace(
        '{ by = "date", variable = "time", resolution = "day" }',
        '{ by = "sequence", variables = ["cycle_number", "pass_number"] }',
    )
    (collection,) = load(text).collections
    assert collection.partitioning.model_dump() == {
        "by": "sequence",
        "variables": ("cycle_number", "pass_number"),
        "size": None,
        "start": 0,
    }


def test_paths_and_urls_start_at_the_folder_of_the_file(load: Load, tmp_path: Path) -> None:
    text = MINIMAL.replace('axis = "time"', 'axis = "time"\nschema_file = "schemas/../s6a.json"')
    settings = load(text)
    assert settings.daemon.state_dir == tmp_path / ".zcollectiond"
    assert settings.daemon.durable_state_url == f"file://{tmp_path}/.zcollectiond/state"
    assert settings.sources[0].label == f"file://{tmp_path}/incoming"
    assert settings.collections[0].url == f"file://{tmp_path}/out/s6a"
    assert settings.collections[0].schema_file == tmp_path / "s6a.json"


def test_paths_from_the_command_line_start_there_too(load: Load, tmp_path: Path) -> None:
    settings = load(MINIMAL, ["daemon.state_dir=state", "collections[0].url=file://elsewhere"])
    assert settings.daemon.state_dir == tmp_path / "state"
    assert settings.collections[0].url == f"file://{tmp_path}/elsewhere"


def test_the_home_folder_is_expanded(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load(MINIMAL, ["daemon.state_dir=~/state", "collections[0].url=~/s6a"])
    assert settings.daemon.state_dir == Path("/home/someone/state")
    assert settings.collections[0].url == "file:///home/someone/s6a"


@pytest.mark.parametrize("url", ["s3://bucket/a//b/", "memory://x", "simplecache::s3://bucket/a"])
def test_urls_of_other_stores_stay_as_they_are(load: Load, url: str) -> None:
    assert load(MINIMAL, [f"collections[0].url={url}"]).collections[0].url == url


def test_a_url_with_one_slash_is_refused(problems: Callable[..., list[str]]) -> None:
    (line,) = problems(MINIMAL.replace('"out/s6a"', '"s3:/bucket/s6a"'))
    assert line.startswith("settings.toml: collections[0].url: 's3:/bucket/s6a' is no URL")


def test_files_settle_unless_the_store_shows_whole_objects(load: Load) -> None:
    def settle(*overrides: str) -> float:
        (source,) = load(MINIMAL, overrides).sources
        assert isinstance(source, WatchSourceSettings)
        return source.effective_settle_seconds

    assert settle() == 2
    assert settle("sources[0].url=s3://bucket/in") == 0
    assert settle("sources[0].settle_seconds=5", "sources[0].url=s3://bucket/in") == 5
    assert settle("sources[0].settle_seconds=0") == 0


def test_settings_are_frozen_and_survive_pickling(load: Load) -> None:
    settings = load(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        settings.dask.workers = 3
    with pytest.raises(ValidationError, match="frozen"):
        settings.collections[0].name = "other"
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301


def test_the_class_alone_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCOLLECTIOND_DASK__WORKERS", "7")
    assert Settings().dask.workers == 2
    assert load_settings(None).dask.workers == 7


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dask.workers='2'", "dask.workers: should be a valid integer, not '2'"),
        ("dask.workers=true", "dask.workers: should be a valid integer, not True"),
        ("dask.workers=0", "dask.workers: should be greater than or equal to 1, not 0"),
        ("dask.memory_limit=much", "dask.memory_limit: should match pattern"),
        ("retry.base_seconds=nan", "retry.base_seconds: should be a finite number, not nan"),
        ("retry.max_seconds=0.5", "retry: max_seconds (0.5) is less than base_seconds (1)"),
        ("batch.max_in_flight=3", "batch: max_in_flight (3) is less than max_granules (64)"),
        ("storage.s3.client=boto3", "storage.s3.client: should be 'obstore' or 's3fs', not 'boto3'"),
        ("aws.endpoint_url=minio:9000", "aws.endpoint_url: should match pattern"),
        ("dask=3", "dask: should be a valid table"),
        ("collections[0].match=S6A_*.nc", "collections[0].match: should be a valid list, not 'S6A_*.nc'"),
        ("collections[0].match=[]", "collections[0].match: should have at least 1 item"),
        ("collections[0].name='a b'", "collections[0].name: should match pattern"),
        ("collections[0].merge.strategy=newest", "collections[0].merge.strategy: should be 'time_series', 'replace'"),
        (
            "collections[0].merge.key=['time']",
            "collections[0].merge: key is for the strategy 'upsert', not 'time_series'",
        ),
        (
            "collections[0].merge.strategy=callable",
            "collections[0].merge: the strategy 'callable' needs function = \"module:function\"",
        ),
        ("collections[0].precedence.by=key", "collections[0].precedence: precedence by key needs a pattern"),
        (
            "collections[0].precedence={by='key', pattern='a.b'}",
            "collections[0].precedence: pattern 'a.b' has no group (...): what it holds decides",
        ),
        ("collections[0].granule.max_mb=0", "collections[0].granule.max_mb: should be greater than or equal to 1"),
        (
            "collections[0].granule.axis='/data_01/tim'",
            "collections[0]: granule.axis ('/data_01/tim') becomes 'tim', but axis is 'time'",
        ),
        (
            "collections[0].granule.include=['data_01/*']",
            "collections[0].granule: 'data_01/*': globs are for absolute paths",
        ),
        (
            "collections[0].granule.attributes={pass_number='u2'}",
            "collections[0].granule.attributes.pass_number: should be 'int8',",
        ),
        ("collections[0].partitioning.by=dte", "collections[0].partitioning: 'by' is 'dte', not one of"),
        ("sources[0].type=kafka", "sources[0]: 'type' is 'kafka', not one of 'sqs', 'watch'"),
    ],
)
def test_a_wrong_value_is_refused_by_key_and_value(
    problems: Callable[..., list[str]], setting: str, message: str
) -> None:
    lines = problems(MINIMAL, [setting])
    (line,) = lines
    assert line.removeprefix("settings.toml with ").startswith(f"command line: {message}")


def test_a_table_without_the_key_that_tells_its_kind_is_refused(problems: Callable[..., list[str]]) -> None:
    assert problems(MINIMAL.replace('by = "date", ', "").replace('type = "watch"', "")) == [
        "settings.toml: sources[0]: 'type' must be set",
        "settings.toml: collections[0].partitioning: 'by' must be set",
    ]


def test_the_engine_gets_the_granules_section_in_its_own_form(load: Load) -> None:
    overrides = [
        "collections[0].granule.exclude=['/**/flag_*']",
        "collections[0].granule.rename={'ku/range'='range'}",
        "collections[0].granule.attributes={pass_number='uint16'}",
        "collections[0].granule.max_mb=5",
    ]
    assert load(MINIMAL, overrides).collections[0].granule_spec == GranuleSpec(
        axis="/time",
        exclude=("/**/flag_*",),
        rename={"ku/range": "range"},
        attributes={"pass_number": "uint16"},
        max_nbytes=5_000_000,
    )


def test_a_time_beside_the_axis_that_decides_on_partitions_is_decoded_like_it(load: Load) -> None:
    def times(*overrides: str) -> tuple[str, ...]:
        return load(MINIMAL, list(overrides)).collections[0].granule_spec.times

    assert times() == ()
    assert times("collections[0].partitioning.variable=sent") == ("sent",)
    by_cycle = MINIMAL.replace('"date", variable = "time", resolution = "day"', '"sequence", variables = ["cycle"]')
    assert load(by_cycle).collections[0].granule_spec.times == ()


def test_settings_are_read_without_loading_the_engine() -> None:
    code = (
        "import sys; from daemon.settings import load_settings; load_settings(None, environ={});"
        "assert 'zcollection_engine' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_renamed_axis_is_understood(load: Load) -> None:
    overrides = ["collections[0].granule.axis='/t_utc'", "collections[0].granule.rename={t_utc='time'}"]
    assert load(MINIMAL, overrides).collections[0].granule_axis == "/t_utc"


def test_what_must_be_set_is_named(problems: Callable[..., list[str]]) -> None:
    assert problems('[[collections]]\nname = "s6a"') == [
        "settings.toml: collections[0].url: must be set",
        "settings.toml: collections[0].match: must be set",
        "settings.toml: collections[0].axis: must be set",
        "settings.toml: collections[0].partitioning: must be set",
    ]


def test_visibility_must_outlast_the_wait(problems: Callable[..., list[str]]) -> None:
    text = '[[sources]]\ntype = "sqs"\nqueue_url = "https://host/1/q"\nvisibility_seconds = 20'
    (line,) = problems(text)
    assert line.startswith("settings.toml: sources[0]: visibility_seconds (20) must be greater than wait_seconds (20)")


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("s6a", "out/other", "collections[0] and collections[1] have the same name 's6a'"),
        ("b", "out/s6a/", "collections[1].url (file://out/s6a) and collections[0].url"),
        ("b", "out/s6a/b", "collections[1].url (file://out/s6a/b) and collections[0].url"),
        ("b", "out", "collections[1].url (file://out) and collections[0].url"),
        ("b", "out/s6b/../s6a", "collections[1].url (file://out/s6a) and collections[0].url"),
        ("b", ".zcollectiond/b", "collections[1].url (file://.zcollectiond/b) and daemon.state_dir"),
    ],
)
def test_collections_do_not_share_names_or_places(
    problems: Callable[..., list[str]], name: str, url: str, message: str
) -> None:
    (line,) = problems(MINIMAL + OTHER_COLLECTION.format(name=name, url=url))
    assert line.startswith(f"settings.toml: {message}")


def test_places_that_only_look_alike_are_accepted(load: Load) -> None:
    settings = load(MINIMAL + OTHER_COLLECTION.format(name="s6a-2", url="out/s6a2"))
    assert [collection.name for collection in settings.collections] == ["s6a", "s6a-2"]


def test_state_may_not_lie_in_a_collection(problems: Callable[..., list[str]]) -> None:
    (line,) = problems(MINIMAL, ["daemon.state_url=out/s6a/state"])
    assert "collections[0].url" in line
    assert "daemon.state_url" in line


@pytest.mark.parametrize("watched", ["out/s6a", "out/s6a/new", ".zcollectiond", "remote-state/x"])
def test_a_folder_the_daemon_writes_to_cannot_be_watched(problems: Callable[..., list[str]], watched: str) -> None:
    (line,) = problems(MINIMAL, [f"sources[0].url={watched}", "daemon.state_url=remote-state"])
    assert line.startswith("settings.toml: sources[0].url (file://")
    assert line.endswith("where the daemon writes")


def test_a_watched_folder_may_hold_collections(load: Load, tmp_path: Path) -> None:
    assert load(MINIMAL, ["sources[0].url=."]).sources[0].label == f"file://{tmp_path}"


def test_sources_of_one_name_are_told_apart(problems: Callable[..., list[str]], load: Load) -> None:
    queue = '[[sources]]\ntype = "sqs"\nqueue_url = "https://host/{}/granules"\n'
    text = queue.format(1) + queue.format(2)
    (line,) = problems(text)
    assert "sources[0] and sources[1] have the same name 'granules'" in line
    assert [source.label for source in load(text, ["sources[1].name=second"]).sources] == [
        "granules",
        "second",
    ]


def test_run_needs_a_source_and_a_collection(load: Load) -> None:
    check_runnable(load(MINIMAL))
    with pytest.raises(SettingsError) as caught:
        check_runnable(load(""))
    assert [line.partition(":")[0] for line in caught.value.problems] == ["sources", "collections"]


def test_secrets_in_wrong_urls_are_not_shown(problems: Callable[..., list[str]]) -> None:
    lines = problems(MINIMAL, ["aws.endpoint_url=ftp://me:hunter2@host"])
    assert "hunter2" not in "".join(lines)


def test_settings_errors_end_the_program_with_code_2_and_survive_pickling() -> None:
    error = SettingsError("one", "two")
    assert error.exit_code == 2
    assert str(pickle.loads(pickle.dumps(error))) == "one\ntwo"  # noqa: S301
