"""The real program in a process of its own, and its settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.settings import ENVIRONMENT_PREFIX
from zcollection_engine.errors import NotFoundError
from zcollection_engine.stores.resolve import StorageOptions, open_store

PROJECT = Path(__file__).resolve().parents[1]

#: Seconds within which anything that a test waits for must have happened on a slow machine.
PATIENCE = 90.0

#: Settings that let a test end soon; each is the daemon's own but for its times.
QUICK = {
    "daemon": {"log_level": "debug", "log_format": "json", "shutdown_grace_seconds": 30.0},
    "retry": {"max_attempts": 3, "base_seconds": 0.05, "max_seconds": 0.1},
}

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Product:
    """How the granules of a product go into a collection.

    Attributes
    ----------
    match
        Globs on the last part of a key.
    resolution
        Of the partitions by date.
    granule
        The section ``[collections.granule]``.
    """

    match: tuple[str, ...]
    resolution: str
    granule: Mapping[str, Any]

    def collection(self, name: str, url: str | Path, **changes: Any) -> dict[str, Any]:
        """A section ``[[collections]]``."""
        section: dict[str, Any] = {
            "name": name,
            "url": str(url),
            "match": self.match,
            "axis": "time",
            "partitioning": {"by": "date", "variable": "time", "resolution": self.resolution},
            "reader_grace_seconds": 0,
            "array_metadata_lag_seconds": 0.5,
            "grant_ttl_seconds": 5,
            "granule": self.granule,
        }
        return section | changes


SENTINEL6 = Product(
    ("S6A_*.nc",),
    "day",
    {
        "axis": "/data_01/time",
        "include": ["/data_01/*", "/data_01/ku/*"],
        "attributes": {"cycle_number": "uint16", "pass_number": "uint16"},
    },
)
SENTINEL3_WAVE = Product(("global_vavh_l3_rt_s3a_*.nc",), "month", {"axis": "/time"})
GSFC = Product(("GSFC-alt_ssh*.nc",), "month", {"axis": "/time"})


def watch(url: str | Path, **changes: Any) -> dict[str, Any]:
    """A section ``[[sources]]`` of a watched folder; ``settle_seconds`` is 0: tests rename files into place."""
    return {"type": "watch", "url": str(url), "interval_seconds": 0.2, "settle_seconds": 0.0} | changes


def sqs(queue_url: str, **changes: Any) -> dict[str, Any]:
    """A section ``[[sources]]`` of a queue."""
    return {"type": "sqs", "queue_url": queue_url, "wait_seconds": 1, "visibility_seconds": 30} | changes


def write_settings(
    path: Path,
    *,
    sources: Sequence[Mapping[str, Any]],
    collections: Sequence[Mapping[str, Any]],
    endpoint_url: str | None = None,
    **sections: Mapping[str, Any],
) -> Path:
    """Write a settings file; ``sections`` go over `QUICK`. ``state_dir`` is named after the file."""
    merged: dict[str, Any] = {name: dict(values) for name, values in QUICK.items()}
    merged["daemon"]["state_dir"] = f"{path.stem}-state"
    if endpoint_url is not None:
        merged["aws"] = {"endpoint_url": endpoint_url, "region": "us-east-1"}
    for name, values in sections.items():
        merged[name] = {**merged.get(name, {}), **values}
    document = {**merged, "sources": sources, "collections": collections}
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in document.items()), "utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class Daemon:
    """A started ``zcollectiond run``; what it writes goes to a file beside its settings.

    Parameters
    ----------
    settings
        Path of the settings file.
    options
        Of the command line.
    """

    def __init__(self, settings: Path, *options: str) -> None:
        self.settings = settings
        runs = len(list(settings.parent.glob(f"{settings.stem}-*.log")))
        self.log = settings.with_name(f"{settings.stem}-{runs}.log")
        command = [sys.executable, "-m", "daemon", "run", "--config", str(settings), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """All it wrote so far."""
        return self.log.read_text("utf-8", errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        return [line for line in self.lines() if line["event"] == event]

    def strange_lines(self) -> list[str]:
        """What should not be there: errors, and output that is no log line."""
        return [
            line
            for line in self.text.splitlines()
            if not line.startswith("{") or json.loads(line)["level"] in {"error", "critical"}
        ]

    def until(
        self, condition: Callable[[], bool], seconds: float = PATIENCE, *, poll_seconds: float = _POLL_SECONDS
    ) -> None:
        """Wait for a condition while the daemon runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds:g} s:\n{self.tail()}"
            time.sleep(poll_seconds)

    def until_ready(self) -> None:
        """Wait until it takes granules."""
        self.until(lambda: '"event": "ready"' in self.text)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.tail()}") from None

    def stop(self) -> None:
        """Ask for an orderly stop and see it end well."""
        self.process.send_signal(signal.SIGTERM)
        self.finish()

    def finish(self, seconds: float = PATIENCE) -> None:
        """See it end well."""
        code = self.wait(seconds)
        assert code == 0, f"exit code {code}:\n{self.tail()}"
        strange = self.strange_lines()
        assert not strange, "\n".join(strange)[-4000:]

    def kill(self) -> None:
        """SIGKILL to the daemon alone; then see its workers die too."""
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + PATIENCE
        while self._group_lives():
            assert time.monotonic() < deadline, "workers outlive their daemon"
            time.sleep(_POLL_SECONDS)

    def tail(self, characters: int = 6000) -> str:
        """The end of what it wrote."""
        return f"--- {self.log}\n{self.text[-characters:]}"

    def clean_up(self) -> None:
        """End whatever is left of it."""
        if self._group_lives():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def running(settings: Path, *options: str) -> Iterator[Daemon]:
    """Run the daemon while the context lasts; whatever is left of it then is killed."""
    daemon = Daemon(settings, *options)
    try:
        yield daemon
    finally:
        daemon.clean_up()


def run_until_idle(settings: Path, *options: str, seconds: float = 180.0) -> Daemon:
    """Run ``--until-idle`` to its good end."""
    with running(settings, "--until-idle", *options) as daemon:
        daemon.finish(seconds)
    return daemon


def visible_granules(url: str | Path, endpoint_url: str | None = None) -> int:
    """How many granules a collection has, by the summary that its readers see; 0 while there is none."""
    try:
        document = open_store(str(url), StorageOptions(endpoint_url, "us-east-1")).get("zarr.json").data
    except NotFoundError:
        return 0
    return int(json.loads(document)["attributes"].get("zcollection_granules", 0))


def settled_documents(state: Path) -> dict[str, dict[str, Any]]:
    """The documents below a local ``state_url``, by the last part of the granule's key."""
    found = [json.loads(path.read_text()) for kind in ("quarantine", "skipped") for path in state.glob(f"{kind}/*/*")]
    return {document["key"].rpartition("/")[2]: document for document in found}


def names(keys: Iterable[str]) -> set[str]:
    """The last parts of keys."""
    return {key.rpartition("/")[2] for key in keys}
