"""What an exception means for the granule it happened to."""

from __future__ import annotations

import asyncio
import concurrent.futures
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from daemon.failures import Failure, Kind, judge, spent
from zcollection_engine import errors
from zcollection_engine.errors import EngineError

#: Every error of the engine, with what the handler does and the reason it notes.
JUDGEMENTS: dict[type[EngineError], tuple[Kind, str]] = {
    errors.EngineError: (Kind.RETRY, "engine"),
    errors.ConflictError: (Kind.RETRY, "conflict"),
    errors.PreconditionFailedError: (Kind.RETRY, "precondition_failed"),
    errors.FencedError: (Kind.RETRY, "fenced"),
    errors.SchemaChangedError: (Kind.AGAIN, "schema_changed"),
    errors.BusyError: (Kind.RETRY, "busy"),
    errors.StorageError: (Kind.RETRY, "storage"),
    errors.OutcomeUnknownError: (Kind.RETRY, "outcome_unknown"),
    errors.NotFoundError: (Kind.RETRY, "missing"),
    errors.FormatError: (Kind.RETRY, "format"),
    errors.ReadOnlyError: (Kind.RETRY, "read_only"),
    errors.SnapshotExpiredError: (Kind.RETRY, "snapshot_expired"),
    errors.InvalidInputError: (Kind.QUARANTINE, "invalid_input"),
    errors.InvalidGranuleError: (Kind.QUARANTINE, "invalid_granule"),
    errors.SchemaMismatchError: (Kind.QUARANTINE, "schema_mismatch"),
    errors.EmptyGranuleError: (Kind.SKIP, "empty"),
}


def make(kind: type[EngineError]) -> EngineError:
    context = {"retry_after": 1.0} if issubclass(kind, errors.BusyError) else {}
    return kind("a.nc: it went wrong", **context)


def killed(task: str = "read_granule-7") -> KilledWorker:
    return KilledWorker(task, cast("Any", SimpleNamespace(address="tcp://127.0.0.1:1")), 0)


def test_every_error_of_the_engine_has_a_judgement() -> None:
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)}
    assert found == set(JUDGEMENTS)


@pytest.mark.parametrize("kind", JUDGEMENTS, ids=lambda kind: kind.__name__)
def test_an_error_of_the_engine_is_judged_by_its_class(kind: type[EngineError]) -> None:
    error = make(kind)
    assert judge(error) == Failure(*JUDGEMENTS[kind], "a.nc: it went wrong", error)


def test_a_granule_s_own_reason_is_kept() -> None:
    failure = judge(errors.InvalidGranuleError("a.nc: cut short", reason="truncated"))
    assert (failure.kind, failure.reason) == (Kind.QUARANTINE, "truncated")


def test_a_killed_worker_proves_nothing_against_the_granule_yet() -> None:
    failure = judge(killed())
    assert (failure.kind, failure.reason) == (Kind.RETRY, "kills_worker")
    assert "read_granule-7" in failure.message


@pytest.mark.parametrize(
    "error",
    [FutureCancelledError("read_granule-7", "scheduler-restart"), concurrent.futures.CancelledError("lost")],
    ids=["dask", "threads"],
)
def test_work_that_the_cluster_lost_is_tried_again(error: BaseException) -> None:
    failure = judge(error)
    assert (failure.kind, failure.reason) == (Kind.RETRY, "cluster_lost")
    assert str(error) in failure.message


def test_a_cancelled_task_is_no_lost_work_of_the_cluster() -> None:
    assert judge(asyncio.CancelledError()).reason == "unexpected"


def test_what_is_not_understood_is_tried_again_under_its_class_s_name() -> None:
    error = ZeroDivisionError("division by zero")
    assert judge(error) == Failure(Kind.RETRY, "unexpected", "ZeroDivisionError: division by zero", error)


@pytest.mark.parametrize("error", [make(errors.StorageError), killed()], ids=["storage", "killed worker"])
def test_a_spent_budget_ends_in_quarantine_with_reason_error_and_attempts(error: Exception) -> None:
    failure = judge(error)
    given_up = spent(failure, 6)
    assert (given_up.kind, given_up.reason, given_up.error) == (Kind.QUARANTINE, failure.reason, error)
    assert given_up.message == f"{failure.message} (given up after 6 attempts)"
