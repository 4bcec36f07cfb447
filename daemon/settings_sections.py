"""The sections of the settings that concern the whole service: each key, its unit, its default and why.

Constructing them reads nothing and touches nothing. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

#: A URL that may be relative to the settings file; the loader makes it absolute.
Url = Annotated[str, WithJsonSchema({"type": "string", "format": "location"})]

#: A path that may be relative to the settings file; the loader makes it absolute.
FilePath = Annotated[Path, Field(strict=False)]

#: A list in TOML.
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]


class Section(BaseModel):
    """A frozen section: strict types, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DaemonSettings(Section):
    """The process itself."""

    state_dir: FilePath = Path(".zcollectiond")
    """Folder of the local journal; on a disk of this machine, since SQLite's locks need one. Losing it loses
    nothing: it is rebuilt from the collections and from ``state_url``."""

    state_url: Url = ""
    """Where quarantine and accepted granules are kept, which must outlive the machine. Empty: the folder
    ``state`` inside ``state_dir``, right for one machine; name an object store where the disk comes and
    goes."""

    instance: str = ""
    """Name of this process in logs and in the log of each collection. Empty: the host's name and a random
    part, kept in ``state_dir``, so that two daemons never share one."""

    shutdown_grace_seconds: float = Field(default=60.0, ge=0)
    """Seconds that work in progress has to end after a stop signal; then it is given up, and done again by
    the next start. The service manager must allow a little more (Kubernetes:
    ``terminationGracePeriodSeconds``)."""

    health_host: Text = "127.0.0.1"
    """Address on which ``/livez`` and ``/readyz`` listen. This machine only by default, since they have no
    access control; 0.0.0.0 in a container."""

    health_port: int = Field(default=0, ge=0, le=65535)
    """TCP port of ``/livez`` and ``/readyz``. 0: no health endpoint, since under systemd the watchdog does
    its work."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """``json``: one object a line. ``console``: coloured text. ``auto``: ``console`` on a terminal, else
    ``json``."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level of the daemon's own lines. Libraries are heard from ``warning`` on."""

    @property
    def durable_state_url(self) -> str:
        """``state_url``, or what stands for it when it is empty."""
        return self.state_url or f"file://{(self.state_dir / 'state').absolute()}"


class DaskSettings(Section):
    """Where granules are read and partitions are merged.

    A worker has one thread always: the netCDF4 library is not thread-safe.
    """

    address: str = ""
    """Address of a Dask scheduler (``tcp://scheduler:8786``). Empty: a local cluster that starts and ends
    with the daemon; the keys below are for that one only."""

    workers: int = Field(default=2, ge=1)
    """Processes of the local cluster, one thread each (the netCDF4 library is not thread-safe). Two overlap
    reading with writing on the smallest machine; one a core is the most that helps."""

    memory_limit: str = Field(default="auto", pattern=r"^(auto|0|\d+(\.\d+)? ?[kMGT]i?B)$")
    """Memory of each worker of the local cluster, as a size with unit (``2GiB``); Dask restarts a worker
    beyond it. ``auto``: an equal share of the machine's. ``0``: no limit."""


class AwsSettings(Section):
    """For S3 and SQS. Credentials come from the usual AWS chain, never from here."""

    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    """URL of a service that speaks AWS's protocols (MinIO, Ceph, moto). Not set: AWS itself."""

    region: str | None = Field(default=None, min_length=1)
    """AWS region. Not set: from the usual chain (AWS_REGION, profile, instance metadata)."""


class S3Settings(Section):
    """How collections on S3 are read and written."""

    client: Literal["obstore", "s3fs"] = "obstore"
    """Library that talks to S3. obstore is the default since it writes many small chunks nearly twice as
    fast; s3fs knows more of the exotic services and options."""


class StorageSettings(Section):
    """The stores of the collections."""

    s3: S3Settings = S3Settings()


class RetrySettings(Section):
    """What follows a transient failure. Attempts are counted for each granule by itself.

    Before attempt n + 1 passes a random time between 0 and ``min(max_seconds, base_seconds * 2**(n - 1))``
    ("full jitter", which keeps clients that failed together from coming back together).
    """

    max_attempts: int = Field(default=6, ge=1)
    """Attempts at a granule, the first one included, before it goes to quarantine. With the default
    times the sixth comes after 31 seconds at most: trouble of seconds is outlasted, more is reported."""

    base_seconds: float = Field(default=1.0, gt=0)
    """Seconds that the pause after the first attempt has at most; doubled with each further attempt."""

    max_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a pause has at most, so that recovery is noticed within a minute."""

    @model_validator(mode="after")
    def _ordered(self) -> RetrySettings:
        if self.max_seconds < self.base_seconds:
            raise ValueError(f"max_seconds ({self.max_seconds:g}) is less than base_seconds ({self.base_seconds:g})")
        return self


class BatchSettings(Section):
    """How many granules share a transaction.

    A batch takes what is ready, and waits only for granules that are being read just then; a lone granule is not
    delayed.
    """

    max_granules: int = Field(default=64, ge=1)
    """Granules in one transaction. 64 spread the fixed cost of a commit thin enough to vanish."""

    max_bytes: int = Field(default=256 * 1024**2, ge=1)
    """Bytes of the granules (as stored) in one transaction; a larger granule goes alone. A merge holds a few
    times as much in a worker's memory."""

    max_delay_seconds: float = Field(default=5.0, ge=0)
    """Seconds for which a granule that is ready waits at most for others that are being read. A backlog then takes
    a few large transactions instead of many small ones. 0: it never waits."""

    max_in_flight: int = Field(default=128, ge=1)
    """Granules taken from the sources and not yet committed, over all collections. Twice ``max_granules`` by
    default: the next batch fills while one is written."""

    @model_validator(mode="after")
    def _fits(self) -> BatchSettings:
        if self.max_in_flight < self.max_granules:
            raise ValueError(
                f"max_in_flight ({self.max_in_flight}) is less than max_granules ({self.max_granules}): "
                "no batch could ever be full"
            )
        return self
