"""The commands that look back at older commits of a collection, and go back to one."""

from __future__ import annotations

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
    instant,
    moment,
    place,
    show,
)

_MOMENT = "A commit's number, or a time (ISO 8601, UTC): the last commit up to it."


def history(
    url: CollectionUrl,
    *,
    as_json: AsJson = False,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="The last N commits; all by default.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Commits from this time on (ISO 8601, UTC).")
    ] = None,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show the commits of a collection, oldest first, as far as the log reaches back.

    Reads only. Without --last people see the last 50, machines all.

    \b
    Example:
      zcollectiond history s3://bucket/collections/s6a --since 2026-01-31T12:00
    """
    with exit_codes():
        from daemon import lookback

        start = instant("--since", since) if since is not None else None
        found = place(url, config, endpoint_url, region)
        show(
            lookback.history(found.url, found.storage, last=last, since=start), lookback.render_history, as_json=as_json
        )


def diff(
    url: CollectionUrl,
    older: Annotated[str, typer.Argument(metavar="OLDER", help=_MOMENT)],
    newer: Annotated[str, typer.Argument(metavar="NEWER", help="The same.")],
    *,
    as_json: AsJson = False,
    config: StorageConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show what is different between two commits: partitions, granules, attributes.

    Reads only, and only the log.

    \b
    Example:
      zcollectiond diff s3://bucket/collections/s6a 120 2026-01-31T12:00
    """
    with exit_codes():
        from daemon import differences

        moments = moment("OLDER", older), moment("NEWER", newer)
        found = place(url, config, endpoint_url, region)
        show(differences.diff(found.url, found.storage, *moments), differences.render_diff, as_json=as_json)


def rollback(
    url: CollectionUrl,
    to: Annotated[str, typer.Argument(metavar="TO", help=_MOMENT)],
    *,
    as_json: AsJson = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only shown what would change.")] = False,
    timeout: Annotated[
        str,
        typer.Option("--timeout", metavar="DURATION", help="Wait for other writers and for readers at most so long."),
    ] = "15m",
    config: WriterConfig = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Show what going back to an older commit would change, and with --yes do it, as a new commit.

    The commits since stay in the log, and rolling back to the last of them undoes it while their data are there.
    Granules that came in since stay out when they are delivered again. A daemon may be at work.

    \b
    Example:
      zcollectiond rollback s3://bucket/collections/s6a 120 --yes
    """
    with exit_codes():
        from daemon import differences

        target = moment("TO", to)
        patience = duration("--timeout", timeout)
        found = place(url, config, endpoint_url, region)
        if yes:
            report = differences.rollback(found.url, found.storage, target, found.writer("rollback"), timeout=patience)
        else:
            report = differences.preview(found.url, found.storage, target)
        show(report, differences.render_rollback, as_json=as_json)
