"""The commands that make collections of what is there already."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from daemon.cli_shared import AsJson, EndpointUrl, Region, WriterConfig, exit_codes, place, show
from daemon.errors import DaemonError


class ZarrFormat(StrEnum):
    """A Zarr format."""

    V2 = "2"
    V3 = "3"


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


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A collection, or a tree that zcollection wrote; it is not changed.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where the new collection goes.")],
    *,
    as_json: AsJson = False,
    zarr_format: Annotated[
        ZarrFormat, typer.Option("--zarr-format", help="Of the new collection; 2 is what zcollection reads.")
    ] = ZarrFormat.V3,
    keep_codecs: Annotated[
        bool, typer.Option("--keep-codecs", help="Keep each variable's codecs; else it gets the format's default.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not read all values back to compare them.")
    ] = False,
    config: WriterConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Rewrite a collection into a new one, in Zarr 3 or 2: one partition after another, in bounded memory.

    A conversion that was interrupted goes on where it stopped when it is started again. Granules and the origin of
    rows come along; older commits do not. In Zarr 2 names are flat: a/b becomes a_b. Nobody else may write the new
    collection before the end. How to reach the stores, and how to write, is the same for both.

    \b
    Example:
      zcollectiond convert s3://bucket/old s3://bucket/new --zarr-format 3
    """
    with exit_codes():
        from daemon import converting

        origin = place(source, config, endpoint_url, region)
        goal = place(target, config, endpoint_url, region)
        report = converting.run(
            origin.url,
            goal.url,
            converting.ConvertOptions(int(zarr_format), keep_codecs, not no_verify),
            goal.storage,
            goal.writer("convert"),
        )
        show(report, converting.render, as_json=as_json)
