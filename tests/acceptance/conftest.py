"""An environment in which there is nothing but xarray and zarr; writing processes, and places for collections."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_support import PROJECT
from tests.engine_processes import Crew, Place
from tests.servers import S3Server

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


@pytest.fixture(scope="session")
def crew(aws_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Processes that wait for orders."""
    found = Crew(tmp_path_factory.mktemp("crew"))
    try:
        yield found
    finally:
        found.dismiss()


@pytest.fixture(scope="session")
def seaweed_bucket(seaweed_server: S3Server) -> str:
    """A bucket on SeaweedFS for many collections: making one takes its time."""
    return seaweed_server.new_bucket()


@pytest.fixture(params=["files", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a new collection lies: local files, and a real object store."""
    if request.param == "files":
        return Place(str(tmp_path / "collection"))
    server, bucket = (request.getfixturevalue(name) for name in ("seaweed_server", "seaweed_bucket"))
    return Place(f"s3://{bucket}/{uuid.uuid4().hex}", server.endpoint_url)
