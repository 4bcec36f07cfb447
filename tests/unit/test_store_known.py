"""The list of stores known to be right or wrong: how a store is recognised, and that every line is whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from zcollection_engine.stores import known
from zcollection_engine.stores.known import SERVICES, known_service, mounted_type, server_header

MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /data/a\040scratch rw - tmpfs tmpfs rw
32 22 0:42 / /home/user/remote rw - fuse.sshfs host:/ rw
33 30 0:43 / /data rw - lustre mgs:/fs rw
34 22 0:44 / /database rw - xfs /dev/sdb1 rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("url", "endpoint", "server", "name", "verdict"),
    [
        ("s3://bucket/x", None, None, "Amazon S3", "right"),
        ("s3a://bucket", "https://s3.eu-west-1.amazonaws.com", None, "Amazon S3", "right"),
        ("s3://b", "https://0a1b.r2.cloudflarestorage.com", "cloudflare", "Cloudflare R2", "right"),
        ("s3://b", "https://storage.googleapis.com", None, "Google Cloud Storage through S3's protocol", "wrong"),
        ("s3://b", "https://s3.us-east-005.backblazeb2.com", None, "Backblaze B2", "wrong"),
        ("s3://b", "https://ams3.digitaloceanspaces.com", None, "DigitalOcean Spaces", "wrong"),
        ("s3://b", "http://127.0.0.1:9000", "MinIO", "MinIO", "depends"),
        ("s3://b", "http://127.0.0.1:7480", "Ceph Object Gateway (squid)", "Ceph Object Gateway", "depends"),
        ("s3://b", "http://127.0.0.1:8333", "SeaweedFS 8000GB 4.48", "SeaweedFS", "depends"),
        ("s3://b", "http://127.0.0.1:5000", "Werkzeug/3.1 Python/3.11, amazon.com", "moto", "right"),
        ("s3://b", "http://127.0.0.1:5000", "nginx", "unknown service that speaks S3's protocol", "depends"),
        ("s3://b", "http://127.0.0.1:5000", None, "unknown service that speaks S3's protocol", "depends"),
        ("s3://b", "https://evil-amazonaws.com.example", None, "unknown service that speaks S3's protocol", "depends"),
        ("gs://b", None, None, "Google Cloud Storage", "right"),
        ("abfss://c/x", None, None, "Azure Blob Storage", "right"),
        ("memory://x", None, None, "memory", "right"),
        ("sftp://host/x", None, None, "file system of fsspec", "wrong"),
    ],
)
def test_a_store_is_recognised(url: str, endpoint: str | None, server: str | None, name: str, verdict: str) -> None:
    service = known_service(url, endpoint=endpoint, server=server)
    assert (service.name, service.verdict) == (name, verdict)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/x", "ext4"),
        ("/data", "lustre"),
        ("/data/collections/not/there/yet", "lustre"),
        ("/data/a scratch/x", "tmpfs"),
        ("/database/x", "xfs"),
        ("/home/user/remote", "fuse.sshfs"),
    ],
)
def test_a_path_is_on_the_nearest_mount_and_on_the_latest_of_one_place(mounts: Path, path: str, kind: str) -> None:
    assert mounted_type(Path(path), mounts) == kind


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv", "local file system"),
        ("/data", "file system of a cluster or in user space"),
        ("/home/user/remote/x", "file system of a cluster or in user space"),
    ],
)
def test_a_folder_is_judged_by_its_mount(mounts: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    monkeypatch.setattr(known, "mounted_type", lambda place: mounted_type(place, mounts))
    assert known_service(f"file://{path}").name == name


def test_a_system_that_does_not_list_its_mounts_is_taken_as_local(tmp_path: Path) -> None:
    assert mounted_type(tmp_path, tmp_path / "none") == ""


def test_every_line_has_a_source_and_a_way_to_be_recognised() -> None:
    for service in SERVICES:
        assert service.source.startswith("https://") or (Path(__file__).parents[2] / service.source).exists()
        assert service.note
        assert service.schemes or service.hosts or service.servers or service.mounts
        assert all(host.startswith(".") or "." in host for host in service.hosts)
        assert all(server == server.lower() for server in service.servers)
    assert len({service.name for service in SERVICES}) == len(SERVICES)


class Named(BaseHTTPRequestHandler):
    server_version = "MinIO"
    sys_version = ""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Named) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_service_that_refuses_to_answer_still_says_what_it_is() -> None:
    with serving() as address:
        header = server_header(address)
        assert header is not None
        assert header.strip() == "MinIO"
        assert known_service("s3://b", endpoint=address, server=header).name == "MinIO"
    assert server_header(address) is None
