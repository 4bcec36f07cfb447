"""Processes that write a collection, and where the collection lies: what tests of crashes and contention need."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.daemon_support import PATIENCE, PROJECT
from tests.passes import Pass
from tests.servers import REGION
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import StorageOptions, open_store

_POLL_SECONDS = 0.002
_COMMAND = [sys.executable, "-m", "tests.engine_scripts.actor"]


@dataclass(frozen=True)
class Place:
    """Where a collection lies.

    Attributes
    ----------
    url
        A folder, or ``s3://bucket/prefix``.
    endpoint_url
        Of the S3 server, if it is one.
    """

    url: str
    endpoint_url: str | None = None

    @property
    def is_posix(self) -> bool:
        return self.endpoint_url is None

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(self.endpoint_url, REGION)

    def store(self) -> ObjectStore:
        """Return a store of its own."""
        return open_store(self.url, self.options)


@dataclass(frozen=True)
class Order:
    """What an `Actor` does: open a collection, insert the passes that are not in yet, make some calls.

    Attributes
    ----------
    place
        Of the collection.
    owner, grant_seconds, reader_grace, checkpoint_records
        `zcollection_engine.transaction.WriterOptions`; the grace in seconds.
    faults
        `zcollection_engine.testing.faults.parse_fault`.
    passes
        To insert, one transaction each.
    calls
        Methods of the collection and their arguments, made afterwards; times are in seconds.
    create
        Create the collection if there is none; then in ``zarr_format``, with chunks of ``chunk_rows`` rows.
    single_writer
        Whether there is no other writer yet: then the store is not probed, which takes seconds.
    timeout
        Of each insert, in seconds; None waits for ever.
    seconds, at_least
        After so many seconds no further insert is begun, if at least so many were.
    """

    place: Place
    owner: str
    passes: Sequence[Pass] = ()
    faults: Sequence[str] = ()
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    create: bool = False
    single_writer: bool = False
    chunk_rows: int = 8
    zarr_format: int = 3
    grant_seconds: float = 60.0
    reader_grace: float = 0.0
    checkpoint_records: int = 100
    timeout: float | None = None
    seconds: float = math.inf
    at_least: int = 0

    def to_json(self) -> str:
        """One line."""
        options = {
            "owner": self.owner,
            "grant_seconds": self.grant_seconds,
            "reader_grace": self.reader_grace,
            "checkpoint_records": self.checkpoint_records,
            "single_writer": self.single_writer,
        }
        return json.dumps(
            {
                "url": self.place.url,
                "endpoint_url": self.place.endpoint_url,
                "region": REGION,
                "writer": options,
                "passes": [asdict(each) for each in self.passes],
                "faults": list(self.faults),
                "calls": list(self.calls),
                "create": self.create,
                "chunk_rows": self.chunk_rows,
                "zarr_format": self.zarr_format,
                "timeout": self.timeout,
                "seconds": self.seconds,
                "at_least": self.at_least,
            }
        )


class Actor:
    """A process that writes collections as it is told, one order after the other.

    Parameters
    ----------
    folder
        For its output.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._output, self._errors = folder / "answers", folder / "errors"
        with self._output.open("wb") as out, self._errors.open("wb") as err:
            self.process = subprocess.Popen(_COMMAND, cwd=PROJECT, stdin=subprocess.PIPE, stdout=out, stderr=err)
        self._given = 0
        self._taken = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_idle(self) -> bool:
        """Whether it lives and has done all that it was told."""
        return self.process.poll() is None and self._done() == self._given

    def give(self, order: Order) -> None:
        """Hand over an order and return at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order.to_json()}\n".encode())
        self.process.stdin.flush()
        self._given += 1

    def finish(self, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until all orders are done; return the answers given since the last call, one a pass or call."""
        self._until(self.is_finished, "has not carried out its orders", seconds)
        answers = [line for line in self.answers() if "what" in line]
        fresh, self._taken = answers[self._taken :], len(answers)
        return fresh

    def is_finished(self) -> bool:
        """Tell whether all orders are done; fails if the process ended."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.tail()}"
        return self._done() == self._given

    def do(self, order: Order) -> list[dict[str, Any]]:
        """Have an order carried out, and see it go well; return the answers."""
        self.give(order)
        return succeeded(self.finish())

    def until_ended(self) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        self._until(lambda: self.process.poll() is not None or self._done() == self._given, "did not end")
        assert self.process.poll() is not None, f"it did all it was told and lives:\n{self.tail()}"
        return self.process.returncode

    def until_stopped(self) -> None:
        """Wait until a SIGSTOP has stopped it."""

        def stopped() -> bool:
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
            assert found is not None or not self.is_finished(), f"nothing stopped it:\n{self.tail()}"
            return found is not None

        self._until(stopped, "was not stopped")

    def resume(self) -> None:
        """Let it go on after a stop."""
        self.process.send_signal(signal.SIGCONT)

    def answers(self) -> list[dict[str, Any]]:
        """All lines that it wrote so far."""
        whole, _, _ = self._output.read_text("utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def tail(self) -> str:
        """The end of what it wrote."""
        return f"{self._output.read_text('utf-8')[-2000:]}\n{self._errors.read_text('utf-8')[-4000:]}"

    def clean_up(self) -> None:
        """End it, in whatever state it is."""
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def _done(self) -> int:
        return self._output.read_bytes().count(b'{"done": true}\n')

    def _until(self, condition: Callable[[], bool], complaint: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"process {self.pid} {complaint} within {seconds:g} s:\n{self.tail()}"
            time.sleep(_POLL_SECONDS)


def succeeded(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers if none of them is an error."""
    failed = [answer for answer in answers if "error" in answer]
    assert not failed, failed
    return answers


class Crew:
    """Actors whose imports are made before they are needed: a second each, which tests need not wait for.

    Parameters
    ----------
    folder
        For their output.
    spares
        How many wait.
    """

    def __init__(self, folder: Path, spares: int = 2) -> None:
        self._folder = folder
        self._spares = spares
        self._started = 0
        self._idle: list[Actor] = []

    @contextmanager
    def hire(self) -> Iterator[Actor]:
        """Lend an actor; one that survives and is idle in the end serves again."""
        actor = self._idle.pop(0) if self._idle else self._start()
        while len(self._idle) < self._spares:
            self._idle.append(self._start())
        try:
            yield actor
        finally:
            if actor.is_idle:
                self._idle.insert(0, actor)
            else:
                actor.clean_up()

    def dismiss(self) -> None:
        """End all that wait."""
        for actor in self._idle:
            actor.clean_up()
        self._idle.clear()

    def _start(self) -> Actor:
        self._started += 1
        return Actor(self._folder / f"actor-{self._started}")
