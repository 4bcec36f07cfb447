"""The commands that look at a collection as it is, and keep it in order."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from daemon.cli_shared import (
    AsJson,
    CollectionUrl,
    EndpointUrl,
    Region,
    StorageConfig,
    WriterConfig,
    duration,
    exit_codes,
    moment,
    place,
    show,
)
from daemon.errors import DaemonError


class Look(StrEnum):
    """How closely chunks are looked at."""

    NONE = "none"
    PRESENT = "present"
    DECODE = "decode"


LookAtChunks = Annotated[
    Look, typer.Option("--chunks", help="Not at all, whether they are there, or decode every one.")
]


def inspect(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="COMMIT|TIME", help="As of a commit's number or a time (ISO 8601, UTC)."),
    ] = None,
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
    with exit_codes():
        from daemon import inspection

        found = place(url, config, endpoint_url, region)
        as_of = moment("--at", at) if at is not None else None
        show(inspection.inspect(found.url, found.storage, at=as_of), inspection.render, as_json=as_json)


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
    with exit_codes():
        from daemon import checking

        found = place(url, config, endpoint_url, region)
        report = checking.check(found.url, found.storage, rounds=rounds)
        show(report, checking.render, as_json=as_json)
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


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
    with exit_codes():
        from daemon import upkeep

        found = place(url, config, endpoint_url, region)
        report = upkeep.verify(found.url, found.storage, chunks=chunks.value)
        show(report, upkeep.render_verification, as_json=as_json)
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


def repair(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    chunks: LookAtChunks = Look.PRESENT,
    config: WriterConfig = None,
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
    with exit_codes():
        from daemon import upkeep

        found = place(url, config, endpoint_url, region)
        report = upkeep.repair(found.url, found.storage, found.writer("repair"), chunks=chunks.value)
        show(report, upkeep.render_repair, as_json=as_json)
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)


def gc(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    min_age: Annotated[
        str,
        typer.Option(
            "--min-age",
            metavar="DURATION",
            help="Nothing younger is removed; longer than any transaction lasts (90m, 24h, 7d).",
        ),
    ] = "24h",
    retention: Annotated[
        str,
        typer.Option("--retention", metavar="DURATION", help="Commits younger than this stay as readable as they are."),
    ] = "7d",
    run: Annotated[bool, typer.Option("--run", help="Remove it; else it is only told.")] = False,
    config: WriterConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Tell what nothing can reach any more, and with --run remove it: retired chunks, old records of the log, and what
    failed attempts left.

    Without --run nothing is written. A daemon may be at work: partitions that it holds are left alone. Objects that are
    none of ours are never touched. --retention counts as the collection's reader_grace_seconds if that is longer.

    \b
    Example:
      zcollectiond gc s3://bucket/collections/s6a --retention 30d --run
    """
    with exit_codes():
        from daemon import upkeep

        ages = upkeep.Ages(duration("--min-age", min_age), duration("--retention", retention))
        found = place(url, config, endpoint_url, region)
        report = upkeep.collect_garbage(found.url, found.storage, found.writer("gc"), ages, dry_run=not run)
        show(report, upkeep.render_garbage, as_json=as_json)
