"""Errors of the engine, grouped by what a handler does about them.

::

    EngineError
    ├── ConflictError               someone else changed the same thing: read the new state and try again
    │   ├── PreconditionFailedError     a conditional write met another object than the one it was made for
    │   ├── FencedError                 this writer's grant was taken over: stop, change nothing more
    │   └── SchemaChangedError          a granule was fitted to a schema that is no longer in force: fit it again
    ├── BusyError                   not possible yet (a grant is held, no free key space): wait ``retry_after`` s
    ├── StorageError                the environment failed, often for a moment: back off and try again
    │   └── OutcomeUnknownError         the answer to a write was lost: read back, never clean up on a guess
    ├── NotFoundError (KeyError)    no such object, collection, partition or variable
    ├── FormatError                 data on disk that this version cannot read: stop and tell the operator
    ├── ReadOnlyError               a write was asked of something opened for reading
    ├── SnapshotExpiredError        the data behind this snapshot are gone: refresh and read again
    └── InvalidInputError (ValueError)  the caller's input is wrong; trying again cannot help
        └── InvalidGranuleError         a bad product: quarantine it
            ├── EmptyGranuleError           nothing to ingest: skip it
            └── SchemaMismatchError         it does not fit the collection

Every error survives pickling, since Dask carries errors between processes.
"""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Root of all errors of the engine.

    ``code`` is stable and made for machines; the message is made for people.
    """

    code = "engine"

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.context)


def _rebuild(cls: type[EngineError], message: str, context: dict[str, Any]) -> EngineError:
    return cls(message, **context)


class ConflictError(EngineError):
    """Someone else changed the same thing."""

    code = "conflict"


class PreconditionFailedError(ConflictError):
    """A conditional write met another object than the one it was made for."""

    code = "precondition_failed"


class FencedError(ConflictError):
    """This writer's grant was taken over by another writer."""

    code = "fenced"


class SchemaChangedError(ConflictError):
    """A granule was fitted to a schema that is no longer in force."""

    code = "schema_changed"


class BusyError(EngineError):
    """Not possible yet.

    Parameters
    ----------
    message
        What is waited for, and for whom.
    retry_after
        Seconds after which another try makes sense.
    """

    code = "busy"

    def __init__(self, message: str, *, retry_after: float, **context: Any) -> None:
        super().__init__(message, retry_after=retry_after, **context)
        self.retry_after = retry_after


class StorageError(EngineError):
    """The storage or the network failed, often for a moment."""

    code = "storage"


class OutcomeUnknownError(StorageError):
    """The answer to a write was lost and could not be found out."""

    code = "outcome_unknown"


class NotFoundError(EngineError, KeyError):
    """There is no such object, collection, partition or variable."""

    code = "not_found"


class FormatError(EngineError):
    """Data on disk that this version cannot read."""

    code = "format"


class ReadOnlyError(EngineError):
    """A write was asked of something that was opened for reading."""

    code = "read_only"


class SnapshotExpiredError(EngineError):
    """The data behind this snapshot are gone."""

    code = "snapshot_expired"


class InvalidInputError(EngineError, ValueError):
    """The caller's input is wrong."""

    code = "invalid_input"


class InvalidGranuleError(InvalidInputError):
    """A granule that cannot be ingested. ``code`` may be set per instance (``reason=``)."""

    code = "invalid_granule"

    def __init__(self, message: str, *, reason: str | None = None, **context: Any) -> None:
        if reason is not None:
            context["reason"] = reason
        super().__init__(message, **context)
        if reason is not None:
            self.code = reason


class EmptyGranuleError(InvalidGranuleError):
    """A granule without rows."""

    code = "empty"


class SchemaMismatchError(InvalidGranuleError):
    """A granule that does not fit the schema of its collection."""

    code = "schema_mismatch"
