"""Who a granule is, and which of two granules wins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zcollection_engine.merging import Share

Rank = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GranuleIdentity:
    """One version of one object; the same from an event, a HEAD and a listing.

    Attributes
    ----------
    bucket
        Bucket or container; empty for stores that have none.
    key
        The decoded key.
    etag
        Unquoted.
    size
        Bytes.
    """

    bucket: str
    key: str
    etag: str
    size: int

    @property
    def id(self) -> int:
        """The granule's number in the row variable ``granule``: 8 bytes of the SHA-256 of the identity."""
        text = "\0".join((self.bucket, self.key, self.etag, str(self.size)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class GranuleEntry:
    """What the ledger keeps of a granule.

    Attributes
    ----------
    identity
        Which object it was.
    url
        Where the object can be read again; empty when it cannot.
    precedence
        Decides between granules that claim the same rows: the greater one wins. By default the time of the object in
        microseconds since 1970. Fixed when the granule is first committed.
    shares
        What the granule has in each partition, before other granules took rows from it.
    """

    identity: GranuleIdentity
    url: str
    precedence: tuple[int, ...]
    shares: Mapping[str, Share] = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.identity.id

    @property
    def rows(self) -> int:
        return sum(share.rows for share in self.shares.values())

    @property
    def rank(self) -> Rank:
        """A total order: precedence, then key, bucket, ETag and size."""
        i = self.identity
        return (self.precedence, i.key, i.bucket, i.etag, i.size)

    def to_json(self) -> dict[str, Any]:
        i = self.identity
        return {
            "id": str(self.id),
            "bucket": i.bucket,
            "key": i.key,
            "etag": i.etag,
            "size": i.size,
            "url": self.url,
            "precedence": list(self.precedence),
            "partitions": {path: share.to_json() for path, share in self.shares.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GranuleEntry:
        return cls(
            GranuleIdentity(data["bucket"], data["key"], data["etag"], data["size"]),
            data["url"],
            tuple(data["precedence"]),
            {path: Share.from_json(share) for path, share in data["partitions"].items()},
        )


def precedence_of(modified: datetime) -> tuple[int, ...]:
    """Precedence by the time of the object: microseconds since 1970, so that the newer one wins."""
    return (round(modified.timestamp() * 1_000_000),)
