"""Log lines: their form, their context, what they hide, and where those of libraries go."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from daemon import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    names = (*logs.OWN_PACKAGES, "distributed")
    handlers, levels = list(root.handlers), {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def only_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = lines(stream)
    return line


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    return stream


LOG = structlog.get_logger("daemon.pipeline")


def test_a_line_is_one_json_object_with_time_level_event_and_keys(stream: io.StringIO) -> None:
    LOG.info("granule committed", rows=12, commit=7, seconds=0.5, path=None)
    line = only_line(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "granule committed",
        "logger": "daemon.pipeline",
        "rows": 12,
        "commit": 7,
        "seconds": 0.5,
        "path": None,
    }
    assert stream.getvalue().startswith('{"timestamp": ')


def test_lines_of_a_granule_carry_its_key_collection_and_partition(stream: io.StringIO) -> None:
    with logs.context(granule="a/b.nc", collection="s6a"):
        LOG.info("outer")
        with logs.context(partition="year=2023", attempt=2):
            LOG.info("inner")
        LOG.info("outer again")
    LOG.info("outside")
    known = [{k: line.get(k) for k in ("granule", "collection", "partition", "attempt")} for line in lines(stream)]
    outer = {"granule": "a/b.nc", "collection": "s6a", "partition": None, "attempt": None}
    assert known == [outer, {**outer, "partition": "year=2023", "attempt": 2}, outer, dict.fromkeys(outer)]


async def test_tasks_have_their_own_context(stream: io.StringIO) -> None:
    barrier = asyncio.Barrier(2)

    async def work(key: str) -> None:
        with logs.context(granule=key):
            await barrier.wait()
            await asyncio.to_thread(LOG.info, "read")

    async with asyncio.TaskGroup() as tasks:
        for key in "ab":
            tasks.create_task(work(key))
    assert sorted(line["granule"] for line in lines(stream)) == ["a", "b"]


def test_lines_of_libraries_have_the_same_form_from_warning_on(stream: io.StringIO) -> None:
    library = logging.getLogger("aiobotocore.endpoint")
    library.setLevel(logging.DEBUG)
    library.info("not of interest")
    with logs.context(granule="a.nc"):
        library.warning("retrying %s", "s3")
    line = only_line(stream)
    assert (line["level"], line["event"], line["logger"]) == (
        "warning",
        "retrying s3",
        "aiobotocore.endpoint",
    )
    assert line["granule"] == "a.nc"
    assert "timestamp" in line


def test_the_level_is_for_the_own_packages(stream: io.StringIO) -> None:
    engine = logging.getLogger("zcollection_engine.commits")
    LOG.debug("unheard")
    engine.debug("unheard")
    engine.info("heard")
    logs.configure("json", "debug", stream)
    LOG.debug("heard")
    engine.debug("heard")
    logs.configure("json", "error", stream)
    LOG.warning("unheard")
    assert [line["event"] for line in lines(stream)] == ["heard"] * 3


def test_handlers_that_distributed_gave_itself_are_taken_away() -> None:
    library, own = logging.getLogger("distributed"), io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    library.warning("worker lost")
    assert own.getvalue() == ""
    assert only_line(stream)["event"] == "worker lost"


def test_distributed_imported_later_adds_no_handler() -> None:
    code = (
        "import logging; from daemon import logs; logs.configure('json', 'info');"
        "import distributed; log = logging.getLogger('distributed.scheduler');"
        "log.info('quiet'); log.warning('loud')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "loud"
    assert done.stdout == ""


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    second = io.StringIO()
    logs.configure("json", "info", second)
    logs.configure("json", "info", second)
    LOG.info("once")
    assert only_line(second)["event"] == "once"
    assert stream.getvalue() == ""


def test_handlers_of_others_stay() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    logs.configure("json", "info", io.StringIO())
    assert other in logging.getLogger().handlers


def test_warnings_become_lines() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("json", "info", stream)
        warnings.warn("old codec", UserWarning, stacklevel=1)
    assert "UserWarning: old codec" in only_line(stream)["event"]


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logs.configure("auto", "info", terminal)
    LOG.info("started", workers=2)
    logs.configure("auto", "info", pipe)
    LOG.info("started", workers=2)
    assert "\x1b[" in terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert re.search(r"info +\] started .*workers=2\n$", plain)
    assert only_line(pipe)["workers"] == 2


def test_text_off_a_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    LOG.info("started")
    assert "started" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def refuse(url: str) -> None:
    raise ConnectionError(f"{url} refused")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_are_shown_without_secrets(log_format: logs.LogFormat) -> None:
    stream = io.StringIO()
    logs.configure(log_format, "info", stream)
    try:
        refuse("https://me:hunter2@store:9000/bucket")
    except ConnectionError:
        LOG.exception("store unreachable")
        logging.getLogger("s3fs").exception("cannot list")
    text = stream.getvalue()
    assert text.count("Traceback") == 2
    assert "https://***@store:9000/bucket refused" in text
    assert "hunter2" not in text


def test_secrets_are_masked_wherever_they_stand(stream: io.StringIO) -> None:
    LOG.info(
        "opened s3://key:hunter2@host/bucket",
        aws={"session_token": "hunter2"},
        credentials={"AccessKeyId": "AKIA", "SecretAccessKey": "hunter2"},
        options=[{"password": "hunter2"}, "aws_secret_access_key=hunter2 region=x"],
        error=ValueError('{"SecretAccessKey": "hunter2"}'),
        token=17,
    )
    line = only_line(stream)
    assert "hunter2" not in stream.getvalue()
    assert line["event"] == "opened s3://***@host/bucket"
    assert line["token"] == 17
    assert line["options"][1] == "aws_secret_access_key=*** region=x"
    assert line["error"].startswith("ValueError: ")


def test_importing_changes_nothing() -> None:
    code = (
        "import logging, structlog, warnings; before = warnings.showwarning, list(logging.root.handlers);"
        "import daemon.logs; assert not structlog.is_configured();"
        "assert before == (warnings.showwarning, logging.root.handlers)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
