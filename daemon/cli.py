"""The command line, ``zcollectiond``.

Exit codes: 0 done; 2 the settings or the command line are wrong; 3 the daemon cannot start, cannot go on, there is
nothing to report on, a store is not fit, or a collection is damaged; 1 all else: what is not foreseen, with its
traceback, and a demonstration with a surprise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.errors import DaemonError, SettingsError

if TYPE_CHECKING:
    from daemon.settings import Settings
    from zcollection_engine.stores.options import StorageOptions

PROGRAM = "zcollectiond"

app = typer.Typer(
    name=PROGRAM,
    help="Granules that land in an object store become collections of Zarr, current and whole.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Option("--config", "-c", metavar="PATH", help="Settings file (TOML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, over file and environment; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
StorageConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="PATH", help="Settings file whose [aws] and [storage] tell how to reach S3."
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint-url", metavar="URL", help="S3 service, if it is not AWS itself.")
]
Region = Annotated[str | None, typer.Option("--region", metavar="NAME", help="AWS region.")]
CollectionUrl = Annotated[
    str, typer.Argument(metavar="URL", help="Root of the collection: a path, s3:// or any fsspec URL.")
]


class Look(StrEnum):
    """How closely chunks are looked at."""

    NONE = "none"
    PRESENT = "present"
    DECODE = "decode"


LookAtChunks = Annotated[
    Look, typer.Option("--chunks", help="Not at all, whether they are there, or decode every one.")
]

_DEFAULT_CONFIG = Path("settings.toml")
_DEMO_FOLDER = Path("demo")


def main() -> None:
    """Run the program; the console script."""
    app(prog_name=PROGRAM)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
    except PackageNotFoundError:
        typer.echo(f"{PROGRAM}, run from its sources")
    raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Ingest granules, until a signal or until idle.")
def run(
    config: Config = _DEFAULT_CONFIG,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when all sources are drained and every granule is settled.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Take granules from the sources and put them into the collections, until a signal.

    The first SIGINT or SIGTERM lets work in progress end; a second one ends at once.

    \b
    Example:
      zcollectiond run --config settings.toml --until-idle --set dask.workers=4
    """
    with _exit_codes():
        settings = _load(config, overrides)
        from daemon import app as application
        from daemon import logs

        logs.configure(settings.daemon.log_format, settings.daemon.log_level)
        asyncio.run(application.run(settings, until_idle=until_idle))


@app.command(short_help="Granules by state, last errors, lag.")
def status(
    config: Config = _DEFAULT_CONFIG,
    as_json: AsJson = False,
    errors: Annotated[
        int, typer.Option("--errors", metavar="N", min=0, help="Show this many of the last errors.")
    ] = 10,
    overrides: Overrides = None,
) -> None:
    """Show granules by state, the last errors, lag, and what the collections hold.

    Changes nothing; works while the daemon runs and while it does not, on the machine that has its state folder.

    \b
    Example:
      zcollectiond status --config settings.toml --errors 3
    """
    with _exit_codes():
        from daemon import rendering
        from daemon import status as reporting

        settings = _load(config, overrides)
        report = reporting.collect(settings, settings.storage_options, errors=errors)
        if as_json:
            typer.echo(rendering.json_text(report.to_json()))
        else:
            reporting.render(report, rendering.make_console())


@app.command(short_help="Partitions and variables of a collection.")
def inspect(
    url: CollectionUrl,
    as_json: AsJson = False,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show what a collection holds: a summary, its partitions, its variables.

    Reads only. Credentials come from the usual AWS chain.

    \b
    Example:
      zcollectiond inspect s3://bucket/collections/s6a --endpoint-url http://127.0.0.1:5000
    """
    with _exit_codes():
        from daemon import inspection, rendering

        report = inspection.inspect(_collection_url(url), _storage(config, endpoint_url, region))
        if as_json:
            typer.echo(rendering.json_text(report.to_json()))
        else:
            inspection.render(report, rendering.make_console())


@app.command(short_help="Whether a store is fit for several writers.")
def check(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Root of a collection, existing or planned: a path or a URL.")
    ],
    *,
    as_json: AsJson = False,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often the writers contend.")] = 3,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Try whether a store keeps concurrent writers apart, and tell what is known of the service.

    Writes some dozens of small objects to URL/.zcommits/probe/ and removes them. The exit code is 3 if the store is
    not fit for several writers.

    \b
    Example:
      zcollectiond check s3://bucket/collections/s6a --endpoint-url http://127.0.0.1:5000
    """
    with _exit_codes():
        from daemon import checking, rendering

        report = checking.check(_collection_url(url), _storage(config, endpoint_url, region), rounds=rounds)
        if as_json:
            typer.echo(rendering.json_text(report.to_json()))
        else:
            checking.render(report, rendering.make_console())
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


@app.command(short_help="Whether a collection is what its commit log says.")
def verify(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    chunks: LookAtChunks = Look.DECODE,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Compare the commit log of a collection with its documents and its chunks.

    Reads only, by default all data; a daemon may be at work. The exit code is 3 if there is a fault.

    \b
    Example:
      zcollectiond verify s3://bucket/collections/s6a --chunks present
    """
    with _exit_codes():
        from daemon import rendering, upkeep

        report = upkeep.verify(_collection_url(url), _storage(config, endpoint_url, region), chunks=chunks.value)
        if as_json:
            typer.echo(rendering.json_text(report.to_json()))
        else:
            upkeep.render_verification(report, rendering.make_console())
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


@app.command(short_help="Undo what a crash or a damaged file left.")
def repair(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    chunks: LookAtChunks = Look.PRESENT,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Verify a collection, complete what a crash left undone, and write damaged documents again from the commit log.

    Data that are gone cannot be made from anything: they are named, with the granules to read again, and the exit code
    is 3. A daemon may be at work.

    \b
    Example:
      zcollectiond repair s3://bucket/collections/s6a --chunks decode
    """
    with _exit_codes():
        from daemon import rendering, upkeep

        report = upkeep.repair(_collection_url(url), _storage(config, endpoint_url, region), chunks=chunks.value)
        if as_json:
            typer.echo(rendering.json_text(report.to_json()))
        else:
            upkeep.render_repair(report, rendering.make_console())
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


@app.command(short_help="See it work, with S3, SQS and granules of its own.")
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where its files go; a former demonstration is replaced.")
    ] = _DEMO_FOLDER,
) -> None:
    """Run the daemon on synthetic granules, an S3 and an SQS that live inside this process, and show what comes out.

    Needs the extra "demo": pip install "zcollectiond[demo]". Takes about a minute.

    \b
    Example:
      zcollectiond demo
    """
    with _exit_codes():
        from daemon.demo.command import demo as demonstrate

        code = demonstrate(folder)
    raise typer.Exit(code)


@contextmanager
def _exit_codes() -> Iterator[None]:
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


def _load(config: Path, overrides: Sequence[str] | None = None) -> Settings:
    from daemon.settings import load_settings

    if not config.exists():
        raise SettingsError(
            f"{config}: no such settings file; copy settings.example.toml, which explains every key, and adapt it,"
            " or name another file with --config"
        )
    return load_settings(config, overrides=overrides or ())


def _storage(config: Path | None, endpoint_url: str | None, region: str | None) -> StorageOptions:
    """Return how to reach S3: what the options say, else the settings file, else the environment."""
    from zcollection_engine.stores.options import StorageOptions

    storage = _load(config).storage_options if config else StorageOptions()
    return replace(storage, endpoint_url=endpoint_url or storage.endpoint_url, region=region or storage.region)


def _collection_url(text: str) -> str:
    from daemon.locations import absolute_url

    try:
        return absolute_url(text, Path())
    except ValueError as error:
        raise SettingsError(str(error)) from error
