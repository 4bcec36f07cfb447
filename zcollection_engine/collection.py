"""A partitioned collection of Zarr groups that can be changed: insert, retract, drop, roll back, change the schema."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import xarray as xr

from zcollection_engine.amending import Amender, Amendment
from zcollection_engine.amendments import plan_drop, plan_rollback
from zcollection_engine.collecting import collect_garbage, survey_garbage
from zcollection_engine.commits.opening import Moment, load_state_at
from zcollection_engine.commits.state import CollectionState
from zcollection_engine.committing import Committer
from zcollection_engine.errors import BusyError, InvalidInputError, ReadOnlyError, SchemaChangedError
from zcollection_engine.garbage import GarbageReport, GarbageRules
from zcollection_engine.granules.additions import Addition
from zcollection_engine.granules.drift import DriftPolicy
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.identity import GranuleIdentity, precedence_of
from zcollection_engine.ingest import Arrival, LocalExecutor, granule_from_dataset, widened
from zcollection_engine.schema import Dimension, Variable
from zcollection_engine.schemachanges import plan_addition, plan_attributes, plan_drift, plan_removal
from zcollection_engine.sources import Source, SourceExecutor, read_source
from zcollection_engine.stores.options import StorageOptions
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
            Has the schema's variables; any order of rows, any number of partitions. Row variables that the schema does
            not have are added first if the collection's drift policy is ``new = "add"``.
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

        def arrivals() -> list[Arrival]:
            taken = granule_from_dataset(dataset, self.schema, name=name, drift=self.config.drift)
            identity = GranuleIdentity("", name, etag, taken.nbytes)
            return [Arrival(taken, identity, "", precedence_of(now) if precedence is None else (precedence,))]

        return self._merge(arrivals, LocalExecutor(self._store), timeout)

    def ingest(
        self,
        urls: Sequence[str],
        spec: GranuleSpec,
        *,
        storage: StorageOptions | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """Read granules from files, objects, archives or Zarr directories and merge them, as one transaction.

        Each has the identity that a daemon which finds it there gives it: what one of them brought in, the other one
        knows. Granules that these take rows back from are read again from their own sources, with ``spec``.

        Parameters
        ----------
        urls
            Paths or URLs: of NetCDF files, zip archives of a Zarr hierarchy, or markers of Zarr directories.
        spec
            How they are read.
        storage
            How to reach them; by default as the collection.
        timeout
            See `insert`.

        Returns
        -------
        Outcome
            All granules were held in memory together until then.

        Raises
        ------
        NotFoundError
            If there is no such object.
        InvalidGranuleError
            If one of them cannot be read or does not fit; nothing was changed.
        ReadOnlyError, BusyError, StorageError
            See `insert`.
        """
        self._writing()
        options = storage or self._ref.options
        arrivals = [read_source(Source.at(url), spec, options) for url in urls]
        return self._merge(lambda: arrivals, SourceExecutor(self, spec, options), timeout)

    def _merge(self, arrivals: Callable[[], Sequence[Arrival]], executor: Executor, timeout: float | None) -> Outcome:
        """Fit granules to the collection, and it to them if it takes in new variables; then commit them."""
        while True:
            present, taken = self.config, arrivals()
            config = widened(present, [arrival.granule for arrival in taken])
            offers = [arrival.offer(config, self.immutable) for arrival in taken]
            if config is not present:
                new = Addition.between(present.schema, config.schema)
                self.require_variables(new.variables, new.dimensions, timeout=timeout)
                continue
            with contextlib.suppress(SchemaChangedError):
                return self._wait(partial(self.commit_offers, offers, executor), timeout)

    def commit_offers(self, offers: Sequence[Offer], executor: Executor | None = None) -> Outcome:
        """Commit prepared granules; see `zcollection_engine.writer.Writer.commit`."""
        return Writer(self._writing()).commit(offers, executor or LocalExecutor(self._store))

    def retract(
        self, granules: Sequence[int | str], *, executor: Executor | None = None, timeout: float | None = None
    ) -> Outcome:
        """Take granules out, as one transaction; see `zcollection_engine.writer.Writer.retract`.

        Rows that they had taken come back if ``executor`` can read their granules again, as
        `zcollection_engine.sources.SourceExecutor` does; else those granules are in `Outcome.lost`.
        """
        retract = partial(Writer(self._writing()).retract, granules, executor or LocalExecutor(self._store))
        while True:
            with contextlib.suppress(SchemaChangedError):
                return self._wait(retract, timeout)

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

    def set_drift(self, policy: DriftPolicy, *, timeout: float | None = None) -> int:
        """Change what becomes of granules that depart from the schema, as one transaction, and return its number; see
        `schemachanges.plan_drift`.
        """
        return self._amend(lambda committer, state: plan_drift(committer, state, policy), timeout)

    def add_variables(
        self, variables: Sequence[Variable], dimensions: Sequence[Dimension] = (), *, timeout: float | None = None
    ) -> int:
        """Add variables, as one transaction, and return its number; see `schemachanges.plan_addition`."""
        return self._amend(lambda committer, state: plan_addition(committer, state, variables, dimensions), timeout)

    def require_variables(
        self, variables: Sequence[Variable], dimensions: Sequence[Dimension] = (), *, timeout: float | None = None
    ) -> None:
        """Add those of some variables that the collection does not have; what another writer adds meanwhile is fine.

        Raises
        ------
        InvalidInputError
            As `add_variables`.
        """
        while missing := [v for v in variables if v.path not in self.refresh().schema.by_path]:
            try:
                self.add_variables(missing, dimensions, timeout=timeout)
            except InvalidInputError:
                present = self.refresh().schema.by_path
                if not any(variable.path in present for variable in missing):
                    raise

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
