"""Plain readers in processes of their own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tests.daemon_support import PATIENCE

_POLL_SECONDS = 0.02
_SCRIPT = Path(__file__).parent / "acceptance" / "plain_reader.py"

#: Modules that a reader of ours would load.
OURS = ("zcollection_engine", "daemon")

#: What an environment with nothing but xarray and zarr lacks besides.
OTHERS = ("dask", "netCDF4", "fsspec", "obstore")


@dataclass(frozen=True)
class Reader:
    """A reader's process, and what it printed."""

    process: subprocess.Popen[str]
    output: Path

    def lines(self) -> list[dict[str, Any]]:
        """One for each read so far."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if line.endswith("}")]

    def until_it_read(self) -> None:
        """Wait for its first read."""
        deadline = time.monotonic() + PATIENCE
        while not self.lines():
            assert self.process.poll() is None, f"the reader ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"no read within {PATIENCE:g} s"
            time.sleep(_POLL_SECONDS)


@contextmanager
def reading(
    python: Path,
    partition: str,
    folder: Path,
    *,
    kinds: Sequence[str],
    storage: Mapping[str, Any] | None = None,
    foreign: Sequence[str] = (*OURS, *OTHERS),
) -> Iterator[Reader]:
    """Read a partition in another process for as long as the context lasts; see it end well.

    Parameters
    ----------
    python
        Of the environment to read in.
    partition
        Its URL.
    folder
        For the output of this reader.
    kinds
        Ways to read, see ``plain_reader.py``.
    storage
        Options for fsspec where the URL needs it.
    foreign
        Modules that must not be loaded in the end.
    """
    folder.mkdir(exist_ok=True)
    output, stop = folder / "reader.jsonl", folder / "stop"
    arguments = [partition, str(stop), *map(json.dumps, (kinds, storage, foreign))]
    command = [str(python), "-W", "error::RuntimeWarning", str(_SCRIPT), *arguments]
    with output.open("w") as out, (folder / "reader.err").open("w") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, text=True)
    try:
        yield Reader(process, output)
        stop.touch()
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert code == 0, (folder / "reader.err").read_text()[-4000:]


def digest(values: npt.NDArray[Any]) -> str:
    """What a reader prints for the values of a variable."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
