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
from typing import Any

from daemon.failures import Failure
from daemon.journal import Entry, State
from zcollection_engine.errors import PreconditionFailedError
from zcollection_engine.stores.base import ObjectStore

FORMAT_VERSION = 1
_FOLDERS = {State.QUARANTINED: "quarantine", State.SKIPPED: "skipped"}


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
        """Read all documents into the index; returns them as journal lines."""
        entries = []
        for state, folder in _FOLDERS.items():
            for info in self._store.list(f"{folder}/"):
                entry = _entry(state, json.loads(self._store.get(info.key).data))
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
        self._put(f"{_FOLDERS[entry.state]}/{entry.collection}/{entry.id}.json", document)
        self._index[entry.collection, entry.id] = Settled(entry.state, failure.reason)

    def write_unknown(self, name: str, body: str, reason: str) -> None:
        """Keep a message that was not understood."""
        document = {"format_version": FORMAT_VERSION, "reason": "unknown_message", "message": reason, "body": body}
        self._put(f"messages/{name}.json", document)

    def _put(self, key: str, document: Mapping[str, Any]) -> None:
        data = json.dumps(document, indent=2, ensure_ascii=False, default=str).encode()
        try:
            self._store.create(key, data)
        except PreconditionFailedError:
            self._store.replace(key, data, self._store.head(key).etag)
        self._store.flush()


def _entry(state: State, document: Mapping[str, Any]) -> Entry:
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
