"""Granules that a collection does not take: an older version, or one that was taken out on purpose."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from daemon.failures import Failure, Kind
from daemon.target import Target
from zcollection_engine.collection import Collection
from zcollection_engine.errors import NotFoundError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.planning import Verdict

_REASONS = {
    Verdict.SUPERSEDED: "a newer version of this object is in the collection already",
    Verdict.WITHDRAWN: (
        "it was in and was taken out by a rollback or a retraction, so it stays out; deliver it under another name, or"
        " roll the collection back to a commit that has it, to bring it in again"
    ),
}


def passed_over(verdict: Verdict, entry: GranuleEntry) -> Failure | None:
    """Why a granule was not taken; None if it is in."""
    reason = _REASONS.get(verdict)
    return Failure(Kind.SKIP, verdict.value, f"{entry.identity.key}: {reason}") if reason is not None else None


async def newer_of_a_tie(target: Target, collection: Collection, entry: GranuleEntry) -> GranuleEntry | None:
    """Decide between two versions of a key that were written within the resolution of the store's clock.

    S3 tells the time of an object to the second. The version that the store has now is the newer one; returns its entry
    with a precedence just above the other's, or None if the other one is the newer.
    """
    identity = entry.identity
    present = await asyncio.to_thread(collection.state.ledger.latest, identity.bucket, identity.key)
    if present is None or present.precedence[: len(entry.precedence)] != entry.precedence:
        return None
    try:
        is_current = await target.is_current(entry.url, identity.etag)
    except NotFoundError:
        return None  # neither is there any more: the one that is in stays
    if not is_current:
        return None
    return replace(entry, precedence=(*present.precedence, 1))
