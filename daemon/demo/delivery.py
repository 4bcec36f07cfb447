"""Delivers the granules: a backlog before the daemon starts, the others while it runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.demo.granules import DemoGranule
from daemon.demo.server import EmbeddedAws
from daemon.journal import Entry

#: Deliveries that wait in the bucket before the daemon starts.
BACKLOG = 28

#: Seconds between two deliveries after that.
PACE_SECONDS = 0.5

#: Seconds between two versions of an object at least, since stores tell its time in whole seconds (HTTP) and the newer
#: version wins.
_BETWEEN_VERSIONS = 1.1


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery that was made.

    Attributes
    ----------
    at
        When the object was complete in the bucket.
    """

    granule: DemoGranule
    etag: str
    at: datetime


class Deliverer:
    """Puts granules into the bucket, on a thread of its own. It is the daemon's observer, too.

    A key that was delivered before waits until the daemon has settled what came first; otherwise the daemon might see
    only the second version.

    Parameters
    ----------
    aws
        Where to.
    deliveries
        In their order.
    """

    def __init__(self, aws: EmbeddedAws, deliveries: Sequence[DemoGranule]) -> None:
        self._aws = aws
        self._deliveries = deliveries
        self._changed = threading.Condition()
        self._settled: set[str] = set()
        self._stopped = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="deliverer", daemon=True)
        self.delivered: list[Delivered] = []

    def start(self) -> None:
        """Deliver the backlog, then go on in the background when the daemon has settled it."""
        self._receipt = self._aws.hold()
        for granule in self._deliveries[:BACKLOG]:
            self._deliver(granule)
        self._thread.start()

    def settled(self, entry: Entry) -> None:
        """See `daemon.pipeline.Observer`."""
        with self._changed:
            self._settled.add(entry.key)
            self._changed.notify_all()

    def finish(self) -> None:
        """Stop, and wait for the end; raises what went wrong in the background."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._wait_for({granule.key for granule in self._deliveries[:BACKLOG]})
            for granule in self._deliveries[BACKLOG:]:
                if self._wait_for_turn(granule):
                    return
                self._deliver(granule)
        except Exception as error:  # noqa: BLE001 - raised again by `finish`, in the thread that waits
            self._failure = error
        finally:
            self._aws.let_go(self._receipt)

    def _wait_for_turn(self, granule: DemoGranule) -> bool:
        """Wait until it is time for a delivery; returns whether we were stopped."""
        pause = PACE_SECONDS
        if any(earlier.granule.key == granule.key for earlier in self.delivered):
            self._wait_for({granule.key})
            pause = _BETWEEN_VERSIONS
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, pause)

    def _wait_for(self, keys: set[str]) -> None:
        """Wait until all these keys are settled."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or keys <= self._settled)

    def _deliver(self, granule: DemoGranule) -> None:
        etag = self._aws.put(granule.key, granule.data)
        self.delivered.append(Delivered(granule, etag, datetime.now(UTC)))
