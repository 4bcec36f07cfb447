"""What the commands have in common: options, exit codes, the reading of settings and values, and how they print."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from daemon.errors import DaemonError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from daemon.settings import Settings
    from daemon.settings_data import CollectionSettings
    from zcollection_engine.stores.options import StorageOptions
    from zcollection_engine.transaction import WriterOptions

PROGRAM = "zcollectiond"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
StorageConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="PATH", help="Settings file whose [aws] and [storage] tell how to reach S3."
    ),
]
WriterConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help="Settings file whose [aws] and [storage] tell how to reach S3, and whose [[collections]] how to write.",
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint-url", metavar="URL", help="S3 service, if it is not AWS itself.")
]
Region = Annotated[str | None, typer.Option("--region", metavar="NAME", help="AWS region.")]
CollectionUrl = Annotated[
    str, typer.Argument(metavar="URL", help="Root of the collection: a path, s3:// or any fsspec URL.")
]

_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Report(Protocol):
    """What a command found or did."""

    def to_json(self) -> Mapping[str, Any]:
        """The report for machines."""


_R = TypeVar("_R", bound=Report)


@dataclass(frozen=True, slots=True)
class Place:
    """A collection that the command line names.

    Attributes
    ----------
    url
        Its root, absolute.
    storage
        How to reach it.
    settings
        Its section in the settings file; None if there is no file, or the file does not have it.
    """

    url: str
    storage: StorageOptions
    settings: CollectionSettings | None

    def writer(self, command: str) -> WriterOptions:
        """Return how a command writes: as the settings say, under a name that people recognise in the log."""
        from daemon.settings_data import CollectionSettings
        from zcollection_engine.transaction import WriterOptions

        owner = f"{command}-{gethostname()}-{os.getpid()}"
        if self.settings is None:
            grace = CollectionSettings.model_fields["reader_grace_seconds"].default
            return WriterOptions(owner=owner, reader_grace=timedelta(seconds=grace))
        return WriterOptions(
            owner=owner,
            grant_seconds=self.settings.grant_ttl_seconds,
            reader_grace=timedelta(seconds=self.settings.reader_grace_seconds),
            single_writer=self.settings.single_writer,
            block_nbytes=self.settings.rewrite_memory_mb * 1_000_000,
        )


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn foreseen errors into messages and exit codes."""
    from zcollection_engine.errors import EngineError

    try:
        yield
    except SettingsError as error:
        for line in error.problems:
            typer.echo(line, err=True)
        raise typer.Exit(error.exit_code) from error
    except (DaemonError, EngineError) as error:
        code = error.exit_code if isinstance(error, DaemonError) else DaemonError.exit_code
        typer.echo(f"{PROGRAM}: {_one_line(error)}", err=True)
        raise typer.Exit(code) from error


def show(report: _R, render: Callable[[_R, Console], None], *, as_json: bool) -> None:
    """Print a report for machines or for people."""
    from daemon import rendering

    if as_json:
        typer.echo(rendering.json_text(report.to_json()))
    else:
        render(report, rendering.make_console())


def load(config: Path, overrides: Sequence[str] | None = None) -> Settings:
    """Read the settings; raises `SettingsError`, for a file that is not there with the way to make one."""
    from daemon.settings import load_settings

    if not config.exists():
        raise SettingsError(
            f"{config}: no such settings file; copy settings.example.toml, which explains every key, and adapt it,"
            " or name another file with --config"
        )
    return load_settings(config, overrides=overrides or ())


def place(url: str, config: Path | None, endpoint_url: str | None, region: str | None) -> Place:
    """Say where a collection is and how to reach it: as the options say, else the settings file, else the environment.

    Raises
    ------
    SettingsError
        If the URL is none, or the settings cannot be used.
    """
    from daemon.locations import absolute_url, is_inside
    from zcollection_engine.stores.options import StorageOptions

    try:
        root = absolute_url(url, Path())
    except ValueError as error:
        raise SettingsError(str(error)) from error
    settings = load(config) if config else None
    storage = settings.storage_options if settings else StorageOptions()
    storage = replace(storage, endpoint_url=endpoint_url or storage.endpoint_url, region=region or storage.region)
    sections = settings.collections if settings else ()
    same = [section for section in sections if is_inside(section.url, root) and is_inside(root, section.url)]
    return Place(root, storage, same[0] if same else None)


def duration(option: str, text: str) -> timedelta:
    """Read a duration such as "90m"; raises `SettingsError`, which names the option."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise SettingsError(
            f"{option}: {text!r} is no duration; write a number and a unit, such as 45s, 90m, 24h or 7d"
        )
    try:
        return timedelta(**{_UNITS[found["unit"]]: float(found["number"])})
    except OverflowError as error:
        raise SettingsError(f"{option}: {text!r} is too long; a million days are the most that makes sense") from error


def instant(name: str, text: str) -> datetime:
    """Read an ISO 8601 time, in UTC where no zone is given; raises `SettingsError`, which names the argument."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise SettingsError(
            f"{name}: {text!r} is no time; write ISO 8601, such as 2026-01-31, 2026-01-31T12:00 (UTC) or"
            " 2026-01-31T12:00+02:00"
        ) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def moment(name: str, text: str) -> int | datetime:
    """Read the number of a commit, or a time; raises `SettingsError`, which names the argument."""
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return instant(name, text)
    except SettingsError as error:
        raise SettingsError(f"{error}; or the number of a commit, as `{PROGRAM} history` tells it") from error


def _one_line(error: Exception) -> str:
    from daemon.redaction import redact_text
    from zcollection_engine.errors import ConflictError, NotFoundError, StorageError

    line = redact_text(" ".join(str(error).split()))
    match error:
        case StorageError():
            return f"{line}; check the address, the region, the credentials and the network, then start again"
        case ConflictError():
            return f"{line}; another writer changed the same thing: start again"
        case NotFoundError():
            return f"{line}; check the URL"
    return line
