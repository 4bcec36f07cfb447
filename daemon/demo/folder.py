"""The folder in which a demonstration leaves what it made."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.demo.granules import PATTERN, DemoGranule
from daemon.demo.server import BUCKET, REGION
from daemon.errors import DaemonError

MARKER = ".zcollectiond-demo"
COLLECTION = "altimetry"
COLLECTION_URL = f"s3://{BUCKET}/collections/{COLLECTION}"

_SETTINGS = """\
# The settings with which this demonstration ran: a whole file for "zcollectiond run --config settings.toml".
# For a bucket of your own, copy it and change the lines marked with "<--"; credentials come from the usual AWS chain.
# settings.example.toml explains every key there is.

[daemon]
state_dir = "state"

[dask]
workers = 2

[aws]
endpoint_url = "{endpoint_url}"                  # <-- the demonstration's own server; delete this line for AWS
region = "{region}"                                     # <--

[[sources]]
type = "sqs"
queue_url = "{queue_url}"  # <-- your bucket announces new objects there
wait_seconds = 1                                         # <-- delete: it only makes the demonstration end sooner

[[collections]]
name = "{name}"
url = "{url}"                  # <-- any prefix of any bucket, or a folder
match = ["{pattern}"]                              # <-- which objects are granules
axis = "time"
partitioning = {{ by = "date", variable = "time", resolution = "day" }}
merge = {{ strategy = "time_series" }}
reader_grace_seconds = 2                                 # <-- delete: readers of the demonstration are quick

[collections.granule]
attributes = {{ cycle_number = "uint16", pass_number = "uint16" }}
"""

_WATCH_SETTINGS = """\
# The granules of the demonstration once more, from a folder that is watched into a collection in a folder: no server,
# no queue, no credentials. zcollectiond run --config watch.toml --until-idle

[daemon]
state_dir = "watched/state"

[[sources]]
type = "watch"
url = "granules"
interval_seconds = 1

[[collections]]
name = "{name}"
url = "watched/collection"
match = ["{pattern}"]
axis = "time"
partitioning = {{ by = "date", variable = "time", resolution = "day" }}
reader_grace_seconds = 2

[collections.granule]
attributes = {{ cycle_number = "uint16", pass_number = "uint16" }}
"""


class FolderInUseError(DaemonError):
    """The folder holds something that is not a demonstration's."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where everything is.

    Attributes
    ----------
    root
        The folder itself.
    """

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def watch_settings(self) -> Path:
        return self.root / "watch.toml"

    @property
    def log(self) -> Path:
        return self.root / "daemon.log"

    @property
    def granules(self) -> Path:
        return self.root / "granules"

    @property
    def collection(self) -> Path:
        return self.root / "collection"

    @property
    def plot(self) -> Path:
        return self.root / "demo.png"

    @property
    def quarantine(self) -> Path:
        return self.root / "state" / "state" / "quarantine" / COLLECTION

    def prepare(self) -> None:
        """Make the folder, empty; only a former demonstration's is replaced.

        Raises
        ------
        FolderInUseError
            If something else is there.
        """
        if self.root.is_dir() and (self.root / MARKER).is_file():
            shutil.rmtree(self.root)
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise FolderInUseError(
                f"{self.root}: is there already and was not made by a demonstration ({MARKER} is not in it); "
                "name another folder, or move it away"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARKER).write_text("Made by zcollectiond demo, which replaces this folder when it runs again.\n")

    def write_granules(self, deliveries: Sequence[DemoGranule]) -> None:
        """Write every granule as it is in the bucket at the end."""
        self.granules.mkdir()
        for granule in deliveries:
            (self.granules / granule.key.rpartition("/")[2]).write_bytes(granule.data)

    def write_settings(self, *, endpoint_url: str, queue_url: str) -> None:
        """Write both settings files."""
        common = {"name": COLLECTION, "pattern": PATTERN}
        text = _SETTINGS.format(
            **common, url=COLLECTION_URL, region=REGION, endpoint_url=endpoint_url, queue_url=queue_url
        )
        self.settings.write_text(text, "utf-8")
        self.watch_settings.write_text(_WATCH_SETTINGS.format(**common), "utf-8")

    def write_collection(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Write the objects of the collection as files: keys relative to its root, and their bytes."""
        for key, data in objects:
            path = self.collection / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
