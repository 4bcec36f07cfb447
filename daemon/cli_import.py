"""The commands that make collections of what is there already."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon.cli_shared import AsJson, EndpointUrl, Region, WriterConfig, exit_codes, place, show
from daemon.errors import DaemonError


def import_tree(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Root of the tree: the folder with .zcollection in it, or its URL.")
    ],
    *,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is there and what stands against it; writes nothing.")
    ] = False,
    config: WriterConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Take over a collection that zcollection wrote (Zarr v2), as it lies.

    Only .zcommits/, .zgroup and .zattrs are added to its root. Its partitions stay as they are until granules are
    merged into them, and zcollection can read it before and after; but nobody else may write it from then on. The exit
    code is 3 if something stands against it; nothing was written then.

    \b
    Example:
      zcollectiond import s3://bucket/collections/swot --dry-run
    """
    with exit_codes():
        from daemon import importing

        found = place(url, config, endpoint_url, region)
        report = importing.take_over(found.url, found.storage, found.writer("import"), dry_run=dry_run)
        show(report, importing.render, as_json=as_json)
    raise typer.Exit(0 if report.ok else DaemonError.exit_code)
