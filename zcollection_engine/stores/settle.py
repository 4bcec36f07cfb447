"""Conditional writes whose answer may get lost on the way.

A conditional request that is repeated can meet its own first success and be reported as a conflict. So every write
carries an id of its own in the object's user metadata, and a conflict that may be its own success is checked against
the id that the object has.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from zcollection_engine.errors import OutcomeUnknownError, PreconditionFailedError, StorageError

#: Name of the user metadata that hold the id of the write; also a valid name on Azure.
WRITE_ID = "writeid"


class TransientError(StorageError):
    """The request may have been carried out or not; sending it again is harmless."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to send a request, and how long to wait between: ``first_pause * 2**n`` seconds, with jitter."""

    attempts: int = 5
    first_pause: float = 0.1

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after the failed attempt number ``attempt`` (from 0)."""
        return self.first_pause * 2.0**attempt * (0.5 + random.random())  # noqa: S311


def new_write_id() -> str:
    """Return an id for the metadata (`WRITE_ID`) of one write, the same in all its attempts."""
    return uuid.uuid4().hex


def settled_write(
    send: Callable[[], str], written: Callable[[], str | None], *, key: str, patience: Patience, repeats: bool = False
) -> str:
    """Carry out a conditional write and return the ETag of the object written.

    Parameters
    ----------
    send
        Sends the request once and returns the new ETag; raises `PreconditionFailedError` for a conflict and
        `TransientError` when the answer is lost or the server is busy. Any other error is passed on.
    written
        Returns the present object's ETag when its metadata have this write's id, else None.
    key
        What errors call the object.
    patience
        When to give up.
    repeats
        Whether the client below may repeat a request unasked, so that the first conflict is doubtful too.

    Raises
    ------
    PreconditionFailedError
        The object is another writer's, or gone.
    OutcomeUnknownError
        No attempt was answered.
    """
    for attempt in range(patience.attempts):
        try:
            return send()
        except PreconditionFailedError:
            etag = written() if attempt or repeats else None
            if etag is None:
                raise
            return etag
        except TransientError as error:
            if attempt == patience.attempts - 1:
                raise OutcomeUnknownError(
                    f"no answer to {patience.attempts} attempts to write {key}: {error}", key=key
                ) from error
            time.sleep(patience.pause(attempt))
    raise ValueError(f"patience must allow an attempt: {patience}")
