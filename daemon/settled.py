"""Durable documents about granules that will not go in: quarantined, or skipped.

One JSON document a granule below ``state_url``: ``quarantine/<collection>/<id>.json`` and ``skipped/...``. A message is
acknowledged only after its document exists.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from daemon.journal import Entry, State
from zcollection_engine.errors import ConflictError, FormatError, NotFoundError, PreconditionFailedError
from zcollection_engine.stores.base import ObjectStore

if TYPE_CHECKING:
    # At run time it would bring Dask along, which "status" can do without.
    from daemon.failures import Failure

FORMAT_VERSION = 1
_FOLDERS = {State.QUARANTINED: "quarantine", State.SKIPPED: "skipped"}
_PUT_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of a granule that is settled without being in."""

    state: State
    reason: str


class SettledDocuments:
    """The documents of one daemon's state, with an index in memory."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._index: dict[tuple[str, str], Settled] = {}

    @property
    def url(self) -> str:
        return self._store.url

    def load(self) -> list[Entry]:
        """Read all documents into the index; returns them as journal lines.

        Raises
        ------
        FormatError
            If one of them cannot be read by this version.
        """
        entries = []
        for state, folder in _FOLDERS.items():
            for info in self._store.list(f"{folder}/"):
                entry = _entry(state, self._store.get(info.key).data, name=f"{self.url}/{info.key}")
                self._index[entry.collection, entry.id] = Settled(state, entry.reason)
                entries.append(entry)
        return entries

    def find(self, collection: str, identity: str) -> Settled | None:
        """Tell whether a granule was quarantined or skipped before."""
        return self._index.get((collection, identity))

    def write(self, entry: Entry, failure: Failure, *, url: str, event: Mapping[str, Any]) -> None:
        """Settle a granule; durable when this returns."""
        error = failure.error
        document = {
            "format_version": FORMAT_VERSION,
            "id": entry.id,
            "collection": entry.collection,
            "url": url,
            "bucket": entry.bucket,
            "key": entry.key,
            "etag": entry.etag,
            "size": entry.size,
            "reason": failure.reason,
            "message": failure.message,
            "traceback": "".join(traceback.format_exception(error)) if error else "",
            "attempts": entry.attempts,
            "settled": (entry.settled or datetime.now(UTC)).isoformat(),
            "event": dict(event),
        }
        self._put(document_key(entry), document)
        self._index[entry.collection, entry.id] = Settled(entry.state, failure.reason)

    def write_unknown(self, name: str, body: str, reason: str) -> None:
        """Keep a message that was not understood."""
        document = {"format_version": FORMAT_VERSION, "reason": "unknown_message", "message": reason, "body": body}
        self._put(f"messages/{name}.json", document)

    def _put(self, key: str, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, indent=2, ensure_ascii=False, default=str).encode()
        self._create_or_replace(key, data)
        self._store.flush()

    def _create_or_replace(self, key: str, data: bytes) -> None:
        for _ in range(_PUT_ATTEMPTS):
            try:
                self._store.create(key, data)
            except PreconditionFailedError:
                pass  # it exists: replaced below
            else:
                return
            try:
                self._store.replace(key, data, self._store.head(key).etag)
            except (PreconditionFailedError, NotFoundError):
                continue  # another daemon with this state_url wrote or removed it meanwhile
            else:
                return
        raise ConflictError(f"{self.url}/{key} was changed by others {_PUT_ATTEMPTS} times while it was written")


def document_key(entry: Entry) -> str:
    """Where the document of a quarantined or skipped granule is, below ``state_url``."""
    return f"{_FOLDERS[entry.state]}/{entry.collection}/{entry.id}.json"


def _entry(state: State, data: bytes, *, name: str) -> Entry:
    try:
        document = json.loads(data)
        version = document["format_version"]
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{name} has format version {version}; this zcollectiond reads up to {FORMAT_VERSION}: use a newer one"
            )
        return Entry(
            id=document["id"],
            collection=document["collection"],
            bucket=document["bucket"],
            key=document["key"],
            etag=document["etag"],
            size=document["size"],
            state=state,
            reason=document["reason"],
            message=document["message"],
            attempts=document["attempts"],
            settled=datetime.fromisoformat(document["settled"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{name} does not tell of a settled granule: {error!r}; move it away, and the granule is looked at again"
        ) from error
