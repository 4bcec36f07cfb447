"""The command that takes granules out of a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli_shared import AsJson, CollectionUrl, EndpointUrl, Region, duration, exit_codes, place, show


def retract(
    url: CollectionUrl,
    granules: Annotated[
        list[str], typer.Argument(metavar="KEY", help="Granules: the keys of their objects, or their ids.")
    ],
    *,
    as_json: AsJson = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only shown what would change.")] = False,
    accept_losses: Annotated[
        bool, typer.Option("--accept-losses", help="Also if rows of other granules cannot be read again.")
    ] = False,
    timeout: Annotated[
        str,
        typer.Option("--timeout", metavar="DURATION", help="Wait for other writers and for readers at most so long."),
    ] = "15m",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="PATH",
            help="Settings file: how to reach S3, how to write, and how the collection's granules are read.",
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show what taking granules out would change, and with --yes do it, as one commit.

    Rows that they had taken from other granules come back: those are read again from their sources, in the way that the
    collection's section of the settings tells. Without it, or if a source is gone, such rows would be lost: then it is
    refused unless --accept-losses. The granules stay out when they are delivered again; a newer version of their
    objects comes in. A daemon may be at work.

    \b
    Example:
      zcollectiond retract s3://bucket/collections/s6a in/S6A_114_099.nc --config settings.toml --yes
    """
    with exit_codes():
        from daemon import retraction

        patience = duration("--timeout", timeout)
        found = place(url, config, endpoint_url, region)
        spec = found.settings.granule_spec if found.settings is not None else None
        if yes:
            report = retraction.retract(
                found.url,
                found.storage,
                granules,
                spec,
                found.writer("retract"),
                accept_losses=accept_losses,
                timeout=patience,
            )
        else:
            report = retraction.preview(found.url, found.storage, granules, spec)
        show(report, retraction.render, as_json=as_json)
