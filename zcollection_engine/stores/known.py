"""What is known of stores from their documentation and their users' reports: who keeps conditional writes apart.

A probe sees only the races it happens to run; this list stands beside it.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: "right": exact under concurrency. "wrong": not to be used by several writers. "depends": on what the note says.
Verdict = Literal["right", "wrong", "depends"]

_S3 = ("s3", "s3a")
_MOUNTS = Path("/proc/self/mountinfo")
_SERVER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """A kind of store.

    Attributes
    ----------
    name
        As its makers call it.
    verdict
        Whether several writers may use it.
    note
        Since when, or on which condition.
    source
        Where that is from: a documentation page, an issue, or this project's own tests.
    schemes
        URL schemes that mean this service.
    hosts
        Ends of the names of the hosts where it is found, for S3's protocol.
    servers
        Beginnings of the ``Server`` header that it sends, in lower case.
    mounts
        Types of mounted file systems, as the kernel spells them, for local paths.
    """

    name: str
    verdict: Verdict
    note: str
    source: str
    schemes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()


SERVICES: tuple[Service, ...] = (
    Service(
        "Amazon S3",
        "right",
        "create-if-absent since August 2024, replace-if-match since November 2024",
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html",
        hosts=(".amazonaws.com", ".amazonaws.com.cn"),
        servers=("amazons3",),
    ),
    Service(
        "Google Cloud Storage through S3's protocol",
        "wrong",
        "its uploads know conditions on generation numbers only, not on ETags: use a gs:// URL",
        "https://cloud.google.com/storage/docs/request-preconditions",
        hosts=("storage.googleapis.com",),
    ),
    Service(
        "Google Cloud Storage",
        "right",
        "conditions on generation numbers; not tried on a server by this project",
        "https://cloud.google.com/storage/docs/request-preconditions",
        schemes=("gs", "gcs"),
    ),
    Service(
        "Azure Blob Storage",
        "right",
        "If-None-Match and If-Match as in HTTP; not tried on a server by this project",
        "https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations",
        schemes=("az", "azure", "abfs", "abfss"),
    ),
    Service(
        "Cloudflare R2",
        "right",
        "both conditions on PutObject; not tried on a server by this project",
        "https://developers.cloudflare.com/r2/api/s3/conditional-operations/",
        hosts=(".r2.cloudflarestorage.com",),
    ),
    Service(
        "Scaleway Object Storage",
        "right",
        "both conditions; not tried on a server by this project",
        "https://www.scaleway.com/en/docs/object-storage/api-cli/using-conditional-writes/",
        hosts=(".scw.cloud",),
    ),
    Service(
        "Backblaze B2",
        "wrong",
        "its S3 protocol answers 501 NotImplemented to conditional writes",
        "https://github.com/sathinduga/obsidian-s3-sync-and-backup/issues/78",
        hosts=(".backblazeb2.com",),
    ),
    Service(
        "DigitalOcean Spaces",
        "wrong",
        "refuses If-Match with the quoted ETag that HTTP wants (June 2026): no replacement succeeds",
        "https://github.com/slatedb/slatedb/issues/1818",
        hosts=(".digitaloceanspaces.com",),
    ),
    Service(
        "MinIO",
        "depends",
        "create-if-absent since 2024-05-07; replacing a missing object was allowed until August 2025",
        "https://github.com/minio/minio/issues/21526",
        servers=("minio",),
    ),
    Service(
        "Ceph Object Gateway",
        "depends",
        "both conditions as an extension since 2018, their tests are still growing: check the release in use",
        "https://github.com/ceph/s3-tests/issues/583",
        servers=("ceph object gateway",),
    ),
    Service(
        "SeaweedFS",
        "depends",
        "create-if-absent since August 2025 (#7154), replace-if-match since October 2025 (#7277), exact in the 4.x that"
        " this project tests with; a lock of its own makes contending writers slow",
        "https://github.com/seaweedfs/seaweedfs/issues/7277",
        servers=("seaweedfs",),
    ),
    Service(
        "Versity S3 Gateway",
        "wrong",
        "passed over If-None-Match in December 2025",
        "https://github.com/versity/versitygw/issues/1708",
        servers=("versitygw",),
    ),
    Service(
        "moto",
        "right",
        "exact under the races of this project's tests; a test server",
        "tests/contract/test_object_stores.py",
        servers=("werkzeug",),
    ),
    Service(
        "memory",
        "right",
        "a lock of this process; the objects end with it",
        "tests/contract/test_object_stores.py",
        schemes=("memory",),
    ),
    Service(
        "network file system",
        "depends",
        "right where the mount sends flock to the server: not with nolock or local_lock",
        "https://man7.org/linux/man-pages/man2/flock.2.html",
        mounts=("nfs", "nfs4", "cifs", "smb3"),
    ),
    Service(
        "file system of a cluster or in user space",
        "depends",
        "right where flock reaches all its clients and hard links exist (Lustre: mounted with flock)",
        "https://man7.org/linux/man-pages/man2/flock.2.html",
        mounts=("lustre", "ceph", "gpfs", "beegfs", "glusterfs", "fuse", "9p", "virtiofs"),
    ),
    Service(
        "local file system",
        "right",
        "link(2) creates once, flock(2) guards replacements, on this machine",
        "https://man7.org/linux/man-pages/man2/link.2.html",
        schemes=("file",),
    ),
)

_OTHER_S3 = Service(
    "unknown service that speaks S3's protocol",
    "depends",
    "not on the list; some gateways accept conditions and pass over them",
    "https://github.com/pithings/mountx/issues/19",
)

_OTHER = Service(
    "file system of fsspec",
    "wrong",
    "fsspec has no conditional writes",
    "https://filesystem-spec.readthedocs.io/en/latest/api.html",
)


def known_service(url: str, *, endpoint: str | None = None, server: str | None = None) -> Service:
    """Return what is known of a store.

    Parameters
    ----------
    url
        Its root, as `ObjectStore.url` spells it.
    endpoint
        Address of the S3 service; None for AWS itself.
    server
        The ``Server`` header of the service, see `server_header`.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _S3:
        host = urllib.parse.urlsplit(endpoint).hostname or "" if endpoint else ".amazonaws.com"
        return _by_host(host) or _by_server(server) or _OTHER_S3
    if scheme == "file":
        mount = mounted_type(Path(rest))
        found = next((s for s in SERVICES if _base(mount) in s.mounts), None)
        if found is not None:
            return found
    return next((s for s in SERVICES if scheme in s.schemes), _OTHER)


def server_header(address: str) -> str | None:
    """Ask an HTTP service for its ``Server`` header; None when it does not say, or does not answer within 5 s."""
    parts = urllib.parse.urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_SERVER_SECONDS)
    try:
        connection.request("GET", "/")
        return connection.getresponse().getheader("Server")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def mounted_type(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that holds a path, as the kernel spells it; empty where it does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    place = Path(os.path.realpath(path))
    best, found = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(_unescaped(fields.split(" ")[4]))
        if len(point.parts) >= best and (place == point or point in place.parents):
            best, found = len(point.parts), rest.partition(" ")[0]
    return found


def _by_host(host: str) -> Service | None:
    return next((s for s in SERVICES if any(f".{host}".endswith(end) for end in s.hosts)), None)


def _by_server(server: str | None) -> Service | None:
    said = (server or "").lower()
    return next((s for s in SERVICES if said.startswith(s.servers)), None) if said else None


def _base(mount: str) -> str:
    """Return the type without the name of a program in user space ("fuse.sshfs")."""
    return mount.partition(".")[0]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
