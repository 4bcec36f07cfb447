"""Environments of their own for programs that are not ours: one folder each in the checkout, made once per lock.

    python -m tests.environments     # resolve the locks in requirements/interop again, to the newest versions

An environment is installed by uv where there is one (seconds), else by venv and pip. Where the Python or the packages
cannot be had, `EnvironmentMissingError` tells why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.daemon_support import PROJECT

#: Seconds that one step of an installation may take.
_PATIENCE = 600

_MADE_FOR = "made-for.txt"


class EnvironmentMissingError(Exception):
    """An environment cannot be made here: the Python is missing, or the packages are out of reach."""


@dataclass(frozen=True)
class Environment:
    """A Python with some packages.

    Attributes
    ----------
    name
        The folder is ``.venv-<name>-<python>``.
    python
        Version, "3.11".
    packages
        Requirements as pip reads them.
    constraints
        File with the exact version of every package, relative to the project. It may name others, too.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    constraints: str

    @property
    def folder(self) -> Path:
        return PROJECT / f".venv-{self.name}-{self.python}"

    @property
    def executable(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def lock(self) -> Path:
        return PROJECT / self.constraints


def _locked(name: str, python: str, *packages: str) -> Environment:
    return Environment(name, python, packages, f"requirements/interop/{name}.txt")


#: Nothing but xarray and zarr, in the versions and with the Python that the project itself runs on.
PLAIN = Environment(
    "plain", f"{sys.version_info.major}.{sys.version_info.minor}", ("xarray", "zarr"), "requirements/ci.txt"
)

#: Readers of other makers; "old" is the oldest zarr-python that our format is promised to, "new" the newest there is.
ZARR_OLD = _locked("zarr-old", "3.11", "zarr==3.1.*", "xarray")
ZARR_NEW = _locked("zarr-new", "3.13", "zarr", "xarray")
ZARRS = _locked("zarrs", "3.11", "zarrs", "zarr")
TENSORSTORE = _locked("tensorstore", "3.11", "tensorstore")
GDAL = _locked("gdal", "3.13", "rasterio")
ZCOLLECTION_2024 = _locked("zcollection-2024", "3.11", "zcollection==2024.2.0", "zarr<3", "numcodecs<0.16")
ZCOLLECTION_2026 = _locked("zcollection-2026", "3.11", "zcollection==2026.6.0", "zarr<3", "numcodecs<0.16")

READERS = (ZARR_OLD, ZARR_NEW, ZARRS, TENSORSTORE, GDAL, ZCOLLECTION_2024, ZCOLLECTION_2026)


def python_of(environment: Environment) -> Path:
    """Return the Python of an environment, which is made first unless it is there for this very lock.

    Raises
    ------
    EnvironmentMissingError
        If it cannot be made.
    """
    recipe = "\n".join((*environment.packages, environment.lock.read_text("utf-8")))
    made_for = environment.folder / _MADE_FOR
    if made_for.exists() and made_for.read_text("utf-8") == recipe:
        return environment.executable
    base = find_python(environment.python)
    failures = []
    for steps in _ways(environment, base):
        shutil.rmtree(environment.folder, ignore_errors=True)
        failure = _run(steps)
        if failure is None:
            made_for.write_text(recipe, "utf-8")
            return environment.executable
        failures.append(failure)
    raise EnvironmentMissingError(
        f"{', '.join(environment.packages)} cannot be installed for Python {environment.python}: {failures[-1]}"
    )


def find_python(version: str) -> Path:
    """Return an interpreter that really is of a version: pyenv's shims exist for versions that they refuse to run."""
    for candidate in _candidates(version):
        check = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
        if subprocess.run([str(candidate), "-c", check], capture_output=True, check=False).returncode == 0:
            return candidate
    raise EnvironmentMissingError(f"there is no Python {version} on this machine")


def _candidates(version: str) -> Iterator[Path]:
    names = (sys.executable, shutil.which(f"python{version}"), shutil.which("python3"))
    yield from (Path(name) for name in names if name)
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        yield from sorted(Path(root).glob(f"versions/{version}*/bin/python"))


def _ways(environment: Environment, base: Path) -> Iterator[list[list[str]]]:
    """Commands that make an environment, one list for each way to do so."""
    folder, executable, lock = str(environment.folder), str(environment.executable), str(environment.lock)
    wanted = ["--constraint", lock, *environment.packages]
    if uv := find_uv():
        yield [
            [uv, "venv", "--quiet", "--no-config", "--python", str(base), folder],
            [uv, "pip", "install", "--quiet", "--no-config", "--python", executable, *wanted],
        ]
    yield [
        [str(base), "-m", "venv", folder],
        [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", *wanted],
    ]


def find_uv() -> str | None:
    """Return uv as it lies beside our own Python, or on the path."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def _run(steps: Iterable[Sequence[str]]) -> str | None:
    """Run commands; returns the end of what the first that fails says."""
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            return f"no answer within {_PATIENCE} s"
        if done.returncode:
            return done.stderr.strip()[-300:]
    return None


def lock(environment: Environment, uv: str) -> None:
    """Resolve the packages of an environment to the newest versions and write them down."""
    command = [uv, "pip", "compile", "--quiet", "--upgrade", "--no-config", "--python-version", environment.python]
    style = ["--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "python -m tests.environments"]
    output = ["--output-file", str(environment.lock), "-"]
    subprocess.run([*command, *style, *output], input="\n".join(environment.packages), text=True, check=True)


def main() -> None:
    """Write all locks again."""
    uv = find_uv()
    if uv is None:
        sys.exit("uv resolves the locks, and there is none: python -m pip install uv")
    for environment in READERS:
        lock(environment, uv)


if __name__ == "__main__":
    main()
