"""The sections of the settings that concern data: where granules come from, and which collections they go
into.

Constructing them reads nothing and touches nothing. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from daemon.locations import shows_whole_objects
from daemon.settings_rules import (
    DatePartitioningSettings,
    DriftSettings,
    MergeSettings,
    PartitioningSettings,
    PrecedenceSettings,
)
from daemon.settings_sections import FilePath, Section, Text, Texts, Url

if TYPE_CHECKING:
    from zcollection_engine.granules.model import GranuleSpec

#: numpy dtypes that a row variable made from a global attribute may have.
AttributeType = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

#: Settling time of files on stores that show a file while it is being written.
LOCAL_SETTLE_SECONDS = 2.0


class SqsSourceSettings(Section):
    """A queue of Amazon SQS that receives the events of S3 buckets."""

    type: Literal["sqs"]
    """Selects this kind of source."""

    queue_url: str = Field(pattern=r"^https?://[^/]+/.+")
    """URL of the queue."""

    name: str = ""
    """Name in logs and in ``status``. Empty: the queue's."""

    wait_seconds: int = Field(default=20, ge=0, le=20)
    """Seconds that a receive waits for messages. The longest that SQS allows is the default: fewest requests,
    and a message is handed out the moment it comes."""

    visibility_seconds: int = Field(default=120, ge=1, le=43200)
    """Seconds that other receivers do not see a received message; prolonged while its granules are worked on.
    After a crash it is how long they wait; SQS allows 12 hours."""

    @property
    def label(self) -> str:
        """``name``, or what stands for it when it is empty."""
        return self.name or self.queue_url.rstrip("/").rpartition("/")[2]

    @model_validator(mode="after")
    def _visible_longer_than_wait(self) -> SqsSourceSettings:
        if self.visibility_seconds <= self.wait_seconds:
            raise ValueError(
                f"visibility_seconds ({self.visibility_seconds}) must be greater than wait_seconds "
                f"({self.wait_seconds}), or messages come back before the receive has ended"
            )
        return self


class WatchSourceSettings(Section):
    """A folder or prefix that is listed again and again; needs no event."""

    type: Literal["watch"]
    """Selects this kind of source."""

    url: Url = Field(min_length=1)
    """Folder or prefix with all that is below it: a path, or any fsspec URL (``s3://bucket/prefix/``)."""

    name: str = ""
    """Name in logs and in ``status``. Empty: the URL."""

    interval_seconds: float = Field(default=10.0, gt=0)
    """Seconds from the start of one listing to the start of the next. On S3 a thousand objects cost one
    request."""

    settle_seconds: float | None = Field(default=None, ge=0)
    """Seconds for which size and time of an object must have been steady before it is taken. Not set: 0 where
    objects appear whole (S3, GCS, Azure), else 2, since a file is seen while it is being written."""

    @property
    def label(self) -> str:
        """``name``, or what stands for it when it is empty."""
        return self.name or self.url

    @property
    def effective_settle_seconds(self) -> float:
        """``settle_seconds``, or what stands for it when it is not set."""
        if self.settle_seconds is not None:
            return self.settle_seconds
        return 0.0 if shows_whole_objects(self.url) else LOCAL_SETTLE_SECONDS


SourceSettings = Annotated[SqsSourceSettings | WatchSourceSettings, Field(discriminator="type")]


class GranuleSettings(Section):
    """What is read from a granule, and under which names it goes into the collection.

    A variable's name in the collection is its path relative to the axis's group; one from elsewhere keeps its
    path from the root.
    """

    format: Literal["netcdf", "zarr"] = "netcdf"
    """``netcdf``: files. ``zarr``: zip archives of a Zarr hierarchy, and Zarr directories, of which ``match``
    must name the marker (``**/*.zarr/.zmetadata``)."""

    marker: str = Field(default="", pattern=r"^[^/]*$")
    """Glob on the last part of a key; an object of such a name in its root tells that a Zarr directory is
    complete. Empty: ``.zmetadata`` (format 2), or ``zarr.json`` with consolidated metadata (format 3)."""

    missing_chunks: Literal["reject", "fill"] = "reject"
    """What becomes of a Zarr granule that lacks a chunk. ``reject``: it is incomplete. ``fill``: the chunk
    stands for fill values, for writers that leave such chunks out; then a granule that was cut short cannot be
    told from a whole one."""

    axis: str | None = Field(default=None, pattern=r"^/.*[^/]$")
    """Path of the axis variable in a granule (``/data_01/time``). Not set: the collection's axis in the root
    group."""

    include: Texts = ()
    """Globs on the paths of variables in a granule; ``*`` stays inside a group, ``**`` does not. Empty: all
    in the axis's group and below."""

    exclude: Texts = ()
    """Globs as in ``include``; what they match is left out."""

    rename: Mapping[str, Text] = Field(default_factory=dict)
    """From a name in the collection to the one it shall have instead."""

    attributes: Mapping[str, AttributeType] = Field(default_factory=dict)
    """Global attributes that become row variables: name and numpy dtype. For what tells granules apart and is
    not among the variables, such as cycle and pass."""

    max_mb: int = Field(default=4000, ge=1)
    """Megabytes that the values taken from one granule may need in memory. One that declares more is quarantined
    before any of them is read."""

    @model_validator(mode="after")
    def _globs_are_absolute(self) -> GranuleSettings:
        wrong = [glob for glob in (*self.include, *self.exclude) if not glob.startswith("/")]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: globs are for absolute paths, start them with '/'")
        return self

    @model_validator(mode="after")
    def _zarr_keys_need_zarr(self) -> GranuleSettings:
        if self.format != "zarr" and (self.marker or self.missing_chunks == "fill"):
            raise ValueError('marker and missing_chunks are for Zarr granules, add format = "zarr"')
        return self


class CollectionSettings(Section):
    """One collection, and which granules go into it."""

    name: Name
    """Name in logs, in ``status`` and in ``state_url``; letters, digits, "_", "-" and "."."""

    url: Url = Field(min_length=1)
    """Root of the collection: a path, or any fsspec URL. It is created with the first granule."""

    match: Texts = Field(min_length=1)
    """Globs on the last part of a granule's key, or on the whole key if they contain "/". The first
    collection of the list that matches takes the granule."""

    axis: Text
    """Name in the collection of the variable that orders the rows."""

    partitioning: PartitioningSettings
    """How rows are spread over partitions."""

    merge: MergeSettings = MergeSettings()

    precedence: PrecedenceSettings = PrecedenceSettings()

    drift: DriftSettings = DriftSettings()

    provenance: bool = True
    """Keep for each row which granule it came from. Without, granules cannot be retracted, and a newer version
    replaces an older one only where the strategy drops its rows anyway."""

    schema_file: FilePath | None = None
    """JSON file with the schema of a collection to be created. Not set: derived from the first good
    granule."""

    chunk_rows: int | None = Field(default=None, ge=1)
    """Rows in a chunk of a collection to be created. Not set: derived from the first granule's rows and the
    size of a row."""

    zarr_format: Literal[3, 2] | None = None
    """Zarr format of a collection to be created. 2 is for readers that know no other, such as released zcollection.
    Not set: 3, or that of ``schema_file``."""

    codecs: Literal["default", "zstd", "blosc", "fast", "small"] = "default"
    """How the values of a collection to be created are compressed; ``schema_file`` can say it for each variable."""

    rewrite_memory_mb: int = Field(default=256, ge=8)
    """Megabytes of rows that a worker holds while it rewrites a partition, besides the granules it merges and some
    ten bytes for each row."""

    reader_grace_seconds: float = Field(default=600.0, ge=0)
    """Seconds for which a reader that opened a partition can go on reading what it opened, whatever is
    written. Longer keeps more disk occupied and can make rewrites wait."""

    array_metadata_lag_seconds: float = Field(default=60.0, ge=0)
    """Seconds by which the metadata document of each single array may lag behind after appends. Only readers
    that ignore consolidated metadata see it; 0 costs one request for each variable and append."""

    grant_ttl_seconds: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life after which another daemon may take over partitions of this one. Shorter
    recovers faster; too short fences off a writer that is only slow."""

    single_writer: bool = False
    """Your word that exactly one process writes to the collection. Then a store without conditional writes is
    accepted, and none is probed; two writers on such a store destroy each other's commits."""

    granule: GranuleSettings = GranuleSettings()

    @property
    def granule_axis(self) -> str:
        """Path of the axis variable in a granule."""
        return self.granule.axis or f"/{self.axis}"

    @property
    def granule_spec(self) -> GranuleSpec:
        """The engine's form of ``granule``."""
        # Here, so that reading and checking settings does not load the engine.
        from zcollection_engine.granules.model import GranuleSpec

        rule = self.partitioning
        times = {rule.variable} - {self.axis} if isinstance(rule, DatePartitioningSettings) else ()
        return GranuleSpec(
            axis=self.granule_axis,
            include=self.granule.include,
            exclude=self.granule.exclude,
            rename=dict(self.granule.rename),
            attributes=dict(self.granule.attributes),
            format=self.granule.format,
            marker=self.granule.marker,
            missing_chunks=self.granule.missing_chunks,
            times=tuple(times),
            max_nbytes=self.granule.max_mb * 1_000_000,
        )

    @model_validator(mode="after")
    def _axis_is_one(self) -> CollectionSettings:
        name = self.granule_axis.rpartition("/")[2]
        name = self.granule.rename.get(name, name)
        if name != self.axis:
            raise ValueError(f"granule.axis ({self.granule.axis!r}) becomes {name!r}, but axis is {self.axis!r}")
        return self
