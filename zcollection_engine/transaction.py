"""What goes into a transaction and what comes out of it; `zcollection_engine.writer` runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from zcollection_engine.commits.state import PartitionState
from zcollection_engine.errors import InvalidInputError
from zcollection_engine.identity import GranuleEntry
from zcollection_engine.jobs import DEFAULT_BLOCK_NBYTES, JobResult, PartitionJob
from zcollection_engine.planning import Verdict


class Executor(Protocol):
    """Runs the jobs of a transaction somewhere: here, on threads, on a cluster.

    A payload stands for a granule's rows; only the executor knows what it is.
    """

    def run(self, jobs: Sequence[PartitionJob], payloads: Mapping[int, Any]) -> list[JobResult]:
        """Run all jobs to their end and return their results in order; raises the first failure."""

    def reread(self, entries: Sequence[GranuleEntry]) -> Mapping[int, Any]:
        """Return payloads of committed granules, by id, as far as their sources still have just that version."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A granule offered for a commit."""

    entry: GranuleEntry
    payload: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction came to; all of it is committed and visible.

    Attributes
    ----------
    commit
        Number of the commit; None if there was nothing to commit.
    verdicts
        By granule id.
    partitions
        Changed partitions.
    lost
        Granules whose rows should have come back but whose source is gone.
    """

    commit: int | None
    verdicts: Mapping[int, Verdict]
    partitions: tuple[PartitionState, ...] = ()
    lost: tuple[GranuleEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a writer behaves.

    Attributes
    ----------
    owner
        Stable name of the writer; a grant of the same owner from an earlier run is taken over at once. Two writers
        that run at the same time must differ in it.
    grant_seconds
        Time to live of a grant without a sign of life.
    reader_grace
        How long a reader may go on with the generation it opened, counted from the flip that retired it.
    eager_arrays
        Publish the documents of single arrays with every commit; else they wait for `Collection.publish_arrays`.
    checkpoint_records
        Records of the log between two checkpoints: so many are read one by one, at most, when the collection is opened.
    single_writer
        The operator's word that no other process writes: a store without conditional writes is accepted then.
    block_nbytes
        Bytes of a partition's rows that a rewrite holds at a time, about; besides those, for each row, its axis value,
        its granule and what else the strategy compares.
    """

    owner: str
    grant_seconds: float = 60.0
    reader_grace: timedelta = timedelta(0)
    eager_arrays: bool = True
    checkpoint_records: int = 100
    single_writer: bool = False
    block_nbytes: int = DEFAULT_BLOCK_NBYTES

    def __post_init__(self) -> None:
        if self.grant_seconds <= 0:
            raise InvalidInputError(f"grant_seconds is {self.grant_seconds:g}; a grant must live longer than 0 s")
        if self.checkpoint_records < 1:
            raise InvalidInputError(f"checkpoint_records is {self.checkpoint_records}; it must be 1 or more")
        if self.block_nbytes < 1:
            raise InvalidInputError(f"block_nbytes is {self.block_nbytes}; it must be 1 or more")
