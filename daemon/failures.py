"""What an exception means for the granule it happened to."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from enum import StrEnum

from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from zcollection_engine.errors import (
    EmptyGranuleError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    SchemaChangedError,
)


class Kind(StrEnum):
    """What the handler does."""

    SKIP = "skip"
    QUARANTINE = "quarantine"
    RETRY = "retry"
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as the handler needs it.

    Attributes
    ----------
    kind
        Skip, quarantine, try again after a pause, or try again at once since nothing is wrong with the granule.
    reason
        A stable code.
    message
        For people.
    error
        The exception itself; None where there was none.
    """

    kind: Kind
    reason: str
    message: str
    error: BaseException | None = None


def judge(error: BaseException) -> Failure:
    """Classify what went wrong with one granule.

    What is not understood is tried again: after the retry budget it ends in quarantine with its traceback, so a
    granule is never lost by a defect of ours.
    """
    match error:
        case EmptyGranuleError():
            return Failure(Kind.SKIP, error.code, error.message, error)
        case InvalidInputError():
            return Failure(Kind.QUARANTINE, error.code, error.message, error)
        case EngineError():
            reason = "missing" if isinstance(error, NotFoundError) else error.code
            kind = Kind.AGAIN if isinstance(error, SchemaChangedError) else Kind.RETRY
            return Failure(kind, reason, error.message, error)
        case KilledWorker():
            # Not proven yet: Dask blames everything that the worker had before it, and someone else may have killed it.
            return Failure(
                Kind.RETRY,
                "kills_worker",
                "the worker process died while it worked on this granule (native crash, or out of memory); look at it"
                f" in a process of its own before it is tried again: {error}",
                error,
            )
        case FutureCancelledError() | CancelledError():
            return Failure(Kind.RETRY, "cluster_lost", f"the Dask cluster lost the work: {error}", error)
        case _:
            return Failure(Kind.RETRY, "unexpected", f"{type(error).__name__}: {error}", error)


def spent(failure: Failure, attempts: int) -> Failure:
    """The failure of a granule whose retry budget is spent."""
    return Failure(
        Kind.QUARANTINE,
        failure.reason,
        f"{failure.message} (given up after {attempts} attempts)",
        failure.error,
    )
