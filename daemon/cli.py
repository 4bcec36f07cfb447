"""The command line, ``zcollectiond``.

Exit codes: 0 done; 2 the settings or the command line are wrong; 3 the daemon cannot start, cannot go on, there is
nothing to report on, a store is not fit, a collection is damaged, or what is asked of it cannot be done; 1 all else:
what is not foreseen, with its traceback, and a demonstration with a surprise.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from daemon import cli_collections, cli_history, cli_import, cli_retract
from daemon.cli_shared import PROGRAM, AsJson, exit_codes, load, show

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
    with exit_codes():
        settings = load(config, overrides)
        from daemon import app as application
        from daemon import logs

        logs.configure(settings.daemon.log_format, settings.daemon.log_level)
        asyncio.run(application.run(settings, until_idle=until_idle))


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
    with exit_codes():
        from daemon import status as reporting

        settings = load(config, overrides)
        report = reporting.collect(settings, settings.storage_options, errors=errors)
        show(report, reporting.render, as_json=as_json)


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
    with exit_codes():
        from daemon.demo.command import demo as demonstrate

        code = demonstrate(folder)
    raise typer.Exit(code)


for _command, _short_help in (
    (run, "Ingest granules, until a signal or until idle."),
    (status, "Granules by state, last errors, lag."),
    (cli_collections.inspect, "Partitions and variables of a collection."),
    (cli_history.history, "Commits of a collection."),
    (cli_history.diff, "What is different between two commits."),
    (cli_history.rollback, "Give a collection back the content it had."),
    (cli_retract.retract, "Take granules out of a collection."),
    (cli_collections.check, "Whether a store is fit for several writers."),
    (cli_collections.verify, "Whether a collection is what its commit log says."),
    (cli_collections.repair, "Undo what a crash or a damaged file left."),
    (cli_collections.gc, "What nothing can reach any more; --run removes it."),
    (demo, "See it work, with S3, SQS and granules of its own."),
):
    app.command(short_help=_short_help)(_command)

app.command("import", short_help="Take over a tree of released zcollection as it lies.")(cli_import.import_tree)
app.command("convert", short_help="Rewrite a collection into a new one of another Zarr format.")(cli_import.convert)
