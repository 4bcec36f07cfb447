"""Environments of other programs; writing processes, and places for collections."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine_processes import Crew, Place
from tests.environments import PLAIN, Environment, EnvironmentMissingError, python_of
from tests.servers import S3Server


@pytest.fixture(scope="session")
def python_for() -> Callable[[Environment], Path]:
    """Gives the Python of an environment; the test is skipped where that cannot be made."""

    def made(environment: Environment) -> Path:
        try:
            return python_of(environment)
        except EnvironmentMissingError as error:
            pytest.skip(str(error))

    return made


@pytest.fixture(scope="session")
def plain_python(python_for: Callable[[Environment], Path]) -> Path:
    """The Python of an environment that has only xarray and zarr, in the locked versions."""
    return python_for(PLAIN)


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
