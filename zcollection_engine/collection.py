"""A partitioned collection of Zarr groups that can be changed: insert, retract, drop, roll back, change the schema."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import xarray as xr

from zcollection_engine.amending import Amender, Amendment
from zcollection_engine.amendments import plan_drop, plan_rollback
from zcollection_engine.collecting import collect_garbage, survey_garbage
from zcollection_engine.commits.opening import Moment, load_state_at
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.committing import Committer
from zcollection_engine.errors import BusyError, ReadOnlyError, SchemaChangedError
from zcollection_engine.garbage import GarbageReport, GarbageRules
from zcollection_engine.identity import GranuleIdentity, precedence_of
from zcollection_engine.ingest import LocalExecutor, granule_from_dataset, prepare
from zcollection_engine.schema import Dimension, Variable
from zcollection_engine.schemachanges import plan_addition, plan_attributes, plan_removal
from zcollection_engine.transaction import Executor, Offer, Outcome, WriterOptions
from zcollection_engine.view import CollectionView
from zcollection_engine.writer import Writer

T = TypeVar("T")


class Collection(CollectionView):
    """A collection. Use `create_collection` or `open_collection`."""

    def insert(
        self,
        dataset: xr.Dataset | xr.DataTree,
        *,
        granule: str | None = None,
        precedence: int | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Merge a dataset into the collection, as one transaction; it counts as one granule.

        Parameters
        ----------
        dataset
            Has the schema's variables; any order of rows, any number of partitions.
        granule
            Name of the granule. Inserting the same name again replaces what it gave before. By default a new name.
        precedence
            Decides against other granules that claim the same rows; by default the present time in microseconds since
            1970, so that the newest insert wins.
        timeout
            Seconds to wait for another writer, or for a free key space; None waits for ever.

        Raises
        ------
        ReadOnlyError
            If the collection was opened for reading.
        SchemaMismatchError, EmptyGranuleError, InvalidGranuleError
            If the dataset does not fit; nothing was changed.
        BusyError
            If the timeout passed.
        """
        name = granule or f"insert/{uuid.uuid4().hex}"
        now = self._clock.now()
        etag = uuid.uuid4().hex

        def offer() -> Offer:
            taken = granule_from_dataset(dataset, self.schema, name=name)
            entry, conformed = prepare(
                taken,
                self.config,
                identity=GranuleIdentity("", name, etag, taken.nbytes),
                url="",
                precedence=precedence_of(now) if precedence is None else (precedence,),
                immutable=self.immutable,
            )
            return Offer(entry, conformed)

        while True:
            with contextlib.suppress(SchemaChangedError):
                return self._commit(offer(), timeout)

    def _commit(self, offer: Offer, timeout: float | None) -> Outcome:
        return self._wait(lambda: self.commit_offers([offer]), timeout)

    def commit_offers(self, offers: Sequence[Offer], executor: Executor | None = None) -> Outcome:
        """Commit prepared granules; see `zcollection_engine.writer.Writer.commit`."""
        return Writer(self._writing()).commit(offers, executor or LocalExecutor(self._store))

    def retract(
        self, granules: Sequence[int | str], *, executor: Executor | None = None, timeout: float | None = None
    ) -> Outcome:
        """Take granules out, as one transaction; see `zcollection_engine.writer.Writer.retract`."""
        writer = Writer(self._writing())
        return self._wait(lambda: writer.retract(granules, executor or LocalExecutor(self._store)), timeout)

    def drop_partitions(self, paths: Sequence[str], *, timeout: float | None = None) -> int:
        """Empty partitions, as one transaction, and return its number; see `amendments.plan_drop`."""
        return self._amend(lambda committer, state: plan_drop(committer, state, paths), timeout)

    def rollback(self, to: Moment, *, timeout: float | None = None) -> int:
        """Give the collection the content it had, as one transaction, and return its number; see
        `amendments.plan_rollback`.
        """
        target = load_state_at(self._store, to, self._clock)
        return self._amend(lambda committer, state: plan_rollback(committer, state, target), timeout)

    def set_attributes(
        self, attributes: Mapping[str, Any], *, variable: str | None = None, timeout: float | None = None
    ) -> int:
        """Change attributes, as one transaction, and return its number; see `schemachanges.plan_attributes`."""
        return self._amend(lambda committer, state: plan_attributes(committer, state, attributes, variable), timeout)

    def add_variables(
        self, variables: Sequence[Variable], dimensions: Sequence[Dimension] = (), *, timeout: float | None = None
    ) -> int:
        """Add variables, as one transaction, and return its number; see `schemachanges.plan_addition`."""
        return self._amend(lambda committer, state: plan_addition(committer, state, variables, dimensions), timeout)

    def drop_variables(self, paths: Sequence[str], *, timeout: float | None = None) -> int:
        """Drop variables, as one transaction, and return its number; see `schemachanges.plan_removal`."""
        return self._amend(lambda committer, state: plan_removal(committer, state, paths), timeout)

    def roll_forward(self) -> None:
        """Complete the publication of every commit that a crashed writer left behind."""
        self._writing().roll_forward()

    def publish_arrays(self) -> None:
        """Bring documents of single arrays up to date that appends left behind."""
        committer = self._writing()
        committer.publish(committer.unpublished(), arrays=True)

    def collect_garbage(
        self,
        *,
        dry_run: bool = True,
        min_age: timedelta = timedelta(hours=24),
        retention: timedelta = timedelta(days=7),
    ) -> GarbageReport:
        """Remove what nothing can reach any more; see `zcollection_engine.collecting.collect_garbage`.

        Parameters
        ----------
        dry_run
            Only tell what would be removed now: writes nothing, so a collection opened for reading will do.
        min_age, retention
            See `zcollection_engine.garbage.GarbageRules`.

        Raises
        ------
        ReadOnlyError
            If something shall be removed from a collection opened for reading.
        """
        rules = GarbageRules(min_age, retention)
        if not dry_run:
            return collect_garbage(self._writing(), rules)
        options = self._committer.options if self._committer is not None else WriterOptions(owner="onlooker")
        return survey_garbage(self._store, self.ref, rules, options=options, clock=self._clock)

    def checkpoint(self) -> None:
        """Write a checkpoint of the log now, so that opening the collection need not read the records before it."""
        committer = self._writing()
        committer.refresh()
        committer.checkpoint()

    def _amend(self, plan: Callable[[Committer, CollectionState], Amendment], timeout: float | None) -> int:
        amender = Amender(self._writing())
        return self._wait(lambda: amender.run(plan, LocalExecutor(self._store)), timeout)

    def _writing(self) -> Committer:
        if self._committer is None:
            raise ReadOnlyError(f'{self.url} was opened for reading; use open_collection(url, mode="w")')
        return self._committer

    def _wait(self, attempt: Callable[[], T], timeout: float | None) -> T:
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while True:
            try:
                return attempt()
            except BusyError as error:
                if deadline is not None and self._clock.monotonic() + error.retry_after > deadline:
                    raise
                self._clock.sleep(error.retry_after)
