"""Conditional writes whose answer may get lost on the way.

A client that repeats a conditional request by itself can meet its own first success and report it as a conflict. So
the clients send such a request once, and the repetition happens here, where a conflict after a lost answer is
checked against what the object holds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from zcollection_engine.errors import NotFoundError, OutcomeUnknownError, PreconditionFailedError, StorageError
from zcollection_engine.stores.base import StoredObject


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


def settled_write(
    send: Callable[[], str], read: Callable[[], StoredObject], *, data: bytes, key: str, patience: Patience
) -> str:
    """Carry out a conditional write and return the ETag of the object written.

    Parameters
    ----------
    send
        Sends the request once and returns the new ETag; raises `PreconditionFailedError` for a conflict and
        `TransientError` when the answer is lost or the server is busy. Any other error is passed on.
    read
        Returns the object as it is now.
    data
        The bytes that ``send`` writes.
    key
        What errors call the object.
    patience
        When to give up.

    Raises
    ------
    PreconditionFailedError
        Another object was there, and it does not hold our bytes.
    OutcomeUnknownError
        No attempt was answered.
    """
    for attempt in range(patience.attempts):
        try:
            return send()
        except PreconditionFailedError:
            written = _our_success(read, data) if attempt else None
            if written is None:
                raise
            return written
        except TransientError as error:
            if attempt == patience.attempts - 1:
                raise OutcomeUnknownError(
                    f"no answer to {patience.attempts} attempts to write {key}: {error}", key=key
                ) from error
            time.sleep(patience.pause(attempt))
    raise ValueError(f"patience must allow an attempt: {patience}")


def _our_success(read: Callable[[], StoredObject], data: bytes) -> str | None:
    """Return the present ETag when the object holds the bytes of an earlier attempt."""
    try:
        found = read()
    except NotFoundError:
        return None
    return found.info.etag if found.data == data else None
