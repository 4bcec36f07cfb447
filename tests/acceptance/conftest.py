"""An environment in which there is nothing but xarray and zarr."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_support import PROJECT

_LOCK = PROJECT / "requirements" / "ci.txt"
_PACKAGES = ("xarray", "zarr")


@pytest.fixture(scope="session")
def plain_python() -> Path:
    """The Python of an environment that has only xarray and zarr, made once a checkout, in the locked versions."""
    folder = PROJECT / f".venv-plain-{sys.version_info.major}.{sys.version_info.minor}"
    python, made_for = folder / "bin" / "python", folder / "made-for.txt"
    lock = _LOCK.read_text("utf-8")
    if made_for.exists() and made_for.read_text("utf-8") == lock:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(_LOCK)]
    done = subprocess.run([*install, *_PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' and '.join(_PACKAGES)} cannot be installed from the registry: {done.stderr.strip()[-300:]}")
    made_for.write_text(lock, "utf-8")
    return python
