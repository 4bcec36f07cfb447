"""Whether a store keeps concurrent writers apart: tried, since some servers accept conditions and pass over them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from zcollection_engine.errors import InvalidInputError, NotFoundError, PreconditionFailedError, StorageError
from zcollection_engine.stores.base import ObjectStore

#: Where the probe's objects are; each probe makes a folder of its own and removes it.
FOLDER = ".zcommits/probe/"

#: What every report of a probe must say.
CAVEAT = "A probe sees only the races it happens to run: passing it is a good sign and no proof."

#: Stores that need no probe: a kernel's or this process's lock makes them exact, whatever is tried.
_EXACT = ("file://", "memory://")

#: Threads that write at the same time, over all rounds that run together.
_CROWD = 32

_REFUSED = "a write whose condition holds was refused"

_Write = Callable[[bytes], str]

#: Writers and rounds of the probe at creation: a few dozen requests.
_FEW_WRITERS = 4
_FEW_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """One promise of a store, tried.

    Attributes
    ----------
    promise
        What the store must do, in words.
    times
        How often it was tried.
    findings
        What it did instead, in words, one for each failure.
    """

    promise: str
    times: int
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found.

    Attributes
    ----------
    url
        Root of the store.
    conditional
        What the store says of itself, see `ObjectStore.conditional`.
    writers
        How many wrote at the same time.
    rounds
        How often what depends on time was tried.
    trials
        The promises.
    seconds
        How long it took.
    left
        Keys of objects that could not be removed again.
    """

    url: str
    conditional: bool
    writers: int
    rounds: int
    trials: tuple[Trial, ...]
    seconds: float
    left: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[str, ...]:
        """Why the store is not fit for several writers; empty if nothing speaks against it."""
        own = () if self.conditional else ("the way to this store has no conditional writes",)
        return (*own, *(finding for trial in self.trials for finding in trial.findings))

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against several writers."""
        return not self.findings


def probe_conditions(store: ObjectStore, *, writers: int = 8, rounds: int = 3) -> ProbeReport:
    """Try what the commit protocol needs of a store, with concurrent threads on objects of its own.

    Parameters
    ----------
    store
        Any store that may be written to.
    writers
        How many contend for one object, at least 2.
    rounds
        How often what depends on time is tried, at least once; a round takes about ``4 * writers`` requests.

    Raises
    ------
    InvalidInputError
        Too few writers or rounds.
    StorageError
        The store could not be written to or read: nothing is known then.
    """
    if writers < 2 or rounds < 1:
        raise InvalidInputError(f"a probe takes 2 writers and 1 round at least, not {writers} and {rounds}")
    start = time.monotonic()
    probe = _Probe(store, writers, rounds)
    try:
        trials = probe.run()
    finally:
        left = probe.clean()
    return ProbeReport(store.url, store.conditional, writers, rounds, trials, time.monotonic() - start, left)


def require_conditional(store: ObjectStore, *, single_writer: bool) -> None:
    """Raise `InvalidInputError` for a store without conditional writes, unless exactly one process writes.

    Parameters
    ----------
    single_writer
        The operator's word that there is no other writer.
    """
    if not (store.conditional or single_writer):
        raise InvalidInputError(
            f"writing is refused: {store.url} has no conditional writes, so that two writers could destroy each"
            " other's commits; set single_writer = true if exactly one process writes"
        )


def check_store(store: ObjectStore, *, single_writer: bool, probe: bool) -> ProbeReport | None:
    """Refuse a store that would not keep several writers apart.

    Parameters
    ----------
    store
        Root of a collection that is opened for writing.
    single_writer
        The operator's word that there is no other writer: then nothing is refused and nothing probed.
    probe
        Try it (once, when a collection is created). Files and memory are not tried.

    Returns
    -------
    ProbeReport or None
        The report, which is good; None where nothing was tried.

    Raises
    ------
    InvalidInputError
        The store has no conditional writes, or the probe saw it break them.
    StorageError
        The store could not be probed.
    """
    require_conditional(store, single_writer=single_writer)
    if single_writer or not probe or store.url.startswith(_EXACT):
        return None
    report = probe_conditions(store, writers=_FEW_WRITERS, rounds=_FEW_ROUNDS)
    if not report.ok:
        raise InvalidInputError(
            f"writing is refused: {store.url} does not keep concurrent writers apart ({'; '.join(report.findings)});"
            " set single_writer = true if exactly one process writes, or use another store"
        )
    return report


class _Probe:
    """One probe at work."""

    def __init__(self, store: ObjectStore, writers: int, rounds: int) -> None:
        self._store = store
        self._writers = writers
        self._rounds = rounds
        self._folder = f"{FOLDER}{uuid.uuid4().hex}/"
        self._keys: list[str] = []

    def run(self) -> tuple[Trial, ...]:
        return (
            self._contention("of concurrent creators of an object, one succeeds", "created", self._creation),
            self._contention("of concurrent replacers of an object, one succeeds", "replaced", self._replacement),
            self._trial("creating an object that exists is refused", 1, self._create_over),
            self._trial("replacing an object by a stale ETag is refused", 1, self._replace_stale),
            self._trial("replacing an object that does not exist is refused", 1, self._replace_missing),
            self._trial("what was written is read and listed at once", self._rounds, self._read_back),
        )

    def clean(self) -> tuple[str, ...]:
        """Remove the probe's objects and return the keys of those that stay."""
        left = []
        for key in self._keys:
            try:
                self._store.delete(key)
            except StorageError:
                left.append(key)
        return tuple(left)

    def _contention(self, promise: str, deed: str, prepare: Callable[[str], _Write]) -> Trial:
        keys = [self._key(f"{deed}-{number}") for number in range(self._rounds)]
        together = max(1, _CROWD // self._writers)
        groups = [keys[first : first + together] for first in range(0, self._rounds, together)]
        findings = [f for group in groups for f in self._contend(group, deed, prepare)]
        return Trial(promise, self._rounds, tuple(findings))

    def _contend(self, keys: Sequence[str], deed: str, prepare: Callable[[str], _Write]) -> list[str]:
        """Let all writers of some rounds write at once; return what went wrong."""
        bodies = [f"writer {number}".encode() for number in range(self._writers)]
        try:
            writes = [prepare(key) for key in keys]
        except PreconditionFailedError:
            return [_REFUSED]
        etags = _at_once([(write, body) for write in writes for body in bodies])
        outcomes = (etags[first : first + self._writers] for first in range(0, len(etags), self._writers))
        found = (
            _guarded(partial(self._judge, key, deed, bodies, each)) for key, each in zip(keys, outcomes, strict=True)
        )
        return [finding for finding in found if finding is not None]

    def _judge(self, key: str, deed: str, bodies: Sequence[bytes], etags: Sequence[str | None]) -> str | None:
        """Return what is wrong with who succeeded and with what is there then."""
        winners = [number for number, etag in enumerate(etags) if etag is not None]
        if len(winners) != 1:
            return f"{len(winners)} of {self._writers} concurrent writers {deed} the same object"
        found = self._store.get(key)
        if (found.data, found.info.etag) != (bodies[winners[0]], etags[winners[0]]):
            return f"one of {self._writers} concurrent writers {deed} an object, but something else is there"
        return None

    def _creation(self, key: str) -> _Write:
        return lambda data: self._store.create(key, data)

    def _replacement(self, key: str) -> _Write:
        etag = self._store.create(key, b"start")
        return lambda data: self._store.replace(key, data, etag)

    def _trial(self, promise: str, times: int, attempt: Callable[[str], str | None]) -> Trial:
        keys = [self._key(f"{attempt.__name__.strip('_')}-{number}") for number in range(times)]
        found = [_guarded(partial(attempt, key)) for key in keys]
        return Trial(promise, times, tuple(f for f in found if f is not None))

    def _create_over(self, key: str) -> str | None:
        etag = self._store.create(key, b"first")
        return self._refused(key, etag, "an object that exists was created again", self._store.create, key, b"second")

    def _replace_stale(self, key: str) -> str | None:
        stale = self._store.create(key, b"first")
        etag = self._store.replace(key, b"second", stale)
        if etag == stale:
            return "two versions of an object with different bytes have the same ETag"
        return self._refused(
            key, etag, "an object was replaced by a stale ETag", self._store.replace, key, b"third", stale
        )

    def _replace_missing(self, key: str) -> str | None:
        etag = self._store.create(self._key(f"{key.rpartition('/')[2]}-other"), b"other")
        if _tried(self._store.replace, key, b"first", etag) is not None:
            return "an object that does not exist was replaced"
        return "a refused replacement left an object" if self._listed(key) is not None else None

    def _refused(self, key: str, etag: str, finding: str, write: Callable[..., str], *args: str | bytes) -> str | None:
        """Return ``finding`` if a write succeeds that must fail, or what it changed though it failed."""
        if _tried(write, *args) is not None:
            return finding
        return None if self._store.head(key).etag == etag else "a refused write changed the object"

    def _read_back(self, key: str) -> str | None:
        etag = self._store.create(key, b"first")
        return self._stale_reads(key, etag, b"first") or self._stale_reads(
            key, self._store.replace(key, b"second, longer", etag), b"second, longer"
        )

    def _stale_reads(self, key: str, etag: str, data: bytes) -> str | None:
        found = self._store.get(key)
        if (found.data, found.info.etag) != (data, etag):
            return "a read after a write gave something else than was written"
        if self._listed(key) != etag:
            return "a listing after a write did not show what was written"
        return None

    def _listed(self, key: str) -> str | None:
        """Return the ETag that a listing gives an object; None for one that it does not show."""
        return next((info.etag for info in self._store.list(self._folder) if info.key == key), None)

    def _key(self, name: str) -> str:
        key = self._folder + name
        self._keys.append(key)
        return key


def _tried(write: Callable[..., str], *args: str | bytes) -> str | None:
    """Return the new ETag, or None for a write that was refused."""
    try:
        return write(*args)
    except PreconditionFailedError:
        return None


def _guarded(attempt: Callable[[], str | None]) -> str | None:
    """Return an attempt's finding; errors that only a broken promise explains are findings too."""
    try:
        return attempt()
    except PreconditionFailedError:
        return _REFUSED
    except NotFoundError:
        return "an object that was written is not found"


def _at_once(writes: Sequence[tuple[_Write, bytes]]) -> list[str | None]:
    """Carry out all writes from as many threads, let go together; None for those that were refused."""
    gate = threading.Barrier(len(writes))

    def wait_and_write(write: _Write, data: bytes) -> str | None:
        gate.wait()
        return _tried(write, data)

    with ThreadPoolExecutor(len(writes), thread_name_prefix="probe") as pool:
        return [sent.result() for sent in [pool.submit(wait_and_write, *write) for write in writes]]
