"""The probe on servers: those that keep their promises pass, one whose conditions are passed over is found."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from daemon import checking
from daemon.cli import app
from tests.servers import S3Server
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.probing import check_store, probe_conditions
from zcollection_engine.stores.resolve import StorageOptions, open_store
from zcollection_engine.stores.s3filesystem import S3FilesystemStore

pytestmark = pytest.mark.integration

SERVERS = {"moto": ("moto", "right"), "seaweed": ("SeaweedFS", "depends")}


class Deaf(S3FilesystemStore):
    """The server is never told of a condition, as if it passed over them."""

    def _write(self, verb: str, key: str, data: bytes, **condition: str) -> str:
        return super()._write(verb, key, data)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def known(request: pytest.FixtureRequest) -> tuple[str, str]:
    return SERVERS[request.node.callspec.params["server"]]


@pytest.mark.parametrize("client", ["obstore", "s3fs"])
def test_a_new_collection_is_accepted_by_either_client(server: S3Server, client: Literal["obstore", "s3fs"]) -> None:
    store = open_store(f"s3://{server.new_bucket()}/a folder", StorageOptions(server.endpoint_url, s3_client=client))
    report = check_store(store, single_writer=False, probe=True)
    assert report is not None
    assert report.left == ()
    assert list(store.list()) == []


def test_the_command_tells_fitness_and_service(server: S3Server, known: tuple[str, str]) -> None:
    url = f"s3://{server.new_bucket()}/collections/s6a"
    arguments = ["check", url, "--endpoint-url", server.endpoint_url, "--rounds", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["fit_for_several_writers"] is True
    assert (found["service"]["name"], found["service"]["verdict"]) == known


def test_a_server_that_passes_over_conditions_is_found_and_refused(server: S3Server) -> None:
    store = Deaf(f"s3://{server.new_bucket()}/x", StorageOptions(server.endpoint_url))
    assert store.conditional
    findings = probe_conditions(store, writers=4, rounds=1).findings
    assert "4 of 4 concurrent writers created the same object" in findings
    assert "4 of 4 concurrent writers replaced the same object" in findings
    assert "an object that exists was created again" in findings
    assert "an object was replaced by a stale ETag" in findings
    assert "an object that does not exist was replaced" in findings
    assert list(store.list()) == []
    with pytest.raises(InvalidInputError, match="set single_writer = true"):
        check_store(store, single_writer=False, probe=True)


def test_the_command_ends_with_3_where_conditions_are_passed_over(
    moto_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "open_store", Deaf)
    result = CliRunner().invoke(app, ["check", f"s3://{bucket}", "--endpoint-url", moto_server.endpoint_url])
    assert result.exit_code == 3
    assert "NOT fit for several writers" in result.stdout
    assert "8 of 8 concurrent writers created the same object" in result.stdout
