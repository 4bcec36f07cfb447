"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import servers
from tests.landing import Bucket, notifying_bucket
from tests.servers import S3Server

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("long", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    """Credentials of the test servers, for every AWS client of the session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in servers.AWS_UNSET:
            patch.delenv(name, raising=False)
        for name, value in servers.AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def moto_server(aws_environment: None) -> Iterator[S3Server]:
    """moto: S3 and SQS in this process."""
    with servers.moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_server(aws_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS: a real object store."""
    try:
        with servers.seaweed_server(tmp_path_factory.mktemp("seaweed")) as server:
            yield server
    except servers.ServerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def landing(moto_server: S3Server) -> Iterator[Bucket]:
    """A fresh bucket on moto that tells a queue of its own what lands."""
    with notifying_bucket(moto_server) as bucket:
        yield bucket


@pytest.fixture
def bucket(moto_server: S3Server) -> str:
    """A fresh bucket on moto."""
    return moto_server.new_bucket()
