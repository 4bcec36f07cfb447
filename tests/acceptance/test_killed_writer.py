"""SIGKILL at every named step of a writer: nothing committed is lost, nothing is there twice, and work goes on.

A point is a scenario, a step of it, and whether the process dies right before or right after it. A new step is one more
line in the table of its scenario.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from tests.engine_checks import check_collection, engine_view, plain_view
from tests.engine_processes import Crew, Order, Place
from tests.engine_support import Rows
from tests.passes import DAY, Pass, expected_rows
from zcollection_engine import open_collection
from zcollection_engine.errors import NotFoundError
from zcollection_engine.verification.verifying import verify

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

D16, D17, D24 = (f"year=2023/month=12/day={day}" for day in (16, 17, 24))
NEW_YEAR = "year=2024/month=01/day=01"

GRANT = "create .zcommits/0* 1"
COMMIT = "create .zcommits/0* 2"
FLIP = f"replace {D16}/zarr.json 1"
ROOT = "replace zarr.json 1"

#: Seconds of the first writer's grant where a second one has to take it over, and of all others.
SHORT, LONG = 0.5, 60.0


@dataclass(frozen=True)
class Scenario:
    """A transaction that is killed.

    Attributes
    ----------
    steps
        Where: by name, "before" or "after" and the operation, as `parse_fault` reads them.
    base
        Passes that are in before.
    killed
        What the process was about to insert; nothing means that it only opened the collection.
    predecessor
        A pass whose writer, of another owner, was killed before at this operation.
    create
        The killed process creates the collection, too.
    calls
        What the killed process was about to call.
    zarr_format
        Of the collection.
    """

    steps: dict[str, tuple[str, str]]
    base: tuple[Pass, ...] = ()
    killed: tuple[Pass, ...] = ()
    predecessor: tuple[Pass, str] | None = None
    create: bool = False
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    zarr_format: int = 3

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All, in the order in which they went in."""
        return (*self.base, *self._first, *self.killed)

    @property
    def commits(self) -> list[dict[str, Rows]]:
        """What the collection may hold when all writers are dead."""
        tried = [(), self._first, self.killed, (*self._first, *self.killed)]
        return [expected_rows((*self.base, *more)) for more in tried]

    @property
    def _first(self) -> tuple[Pass, ...]:
        return (self.predecessor[0],) if self.predecessor else ()


FIRST = Pass("first", 0, 10)
NEXT = Pass("next", 10, 10)
LATE = Pass("late", 5, 12, version=1)
LATER = Pass("later", 3, 8, version=2)
LATEST = Pass("latest", 8, 20, version=3)
OVER_MIDNIGHT = Pass("over midnight", DAY - 9, 20)
OVER_NEW_YEAR = Pass("over new year", 1000, 3, step=8 * DAY)
AFTERWARDS = Pass("afterwards", 2000, 5)

SCENARIOS = {
    "append": Scenario(
        {
            "before the grant": ("before", GRANT),
            "after the grant": ("after", GRANT),
            "after reading the last chunk": ("after", f"get {D16}/height/c/1 1"),
            "before filling the last chunk": ("before", f"replace {D16}/height/c/1 1"),
            "after filling the last chunk": ("after", f"replace {D16}/height/c/1 1"),
            "after a new chunk": ("after", f"create {D16}/time/c/2 1"),
            "after the flush": ("after", "flush * 1"),
            "after the commit": ("after", COMMIT),
            "after the flip": ("after", FLIP),
            "after the document of height": ("after", f"replace {D16}/height/zarr.json 1"),
            "after the document of time": ("after", f"replace {D16}/time/zarr.json 1"),
            "after the document of granule": ("after", f"replace {D16}/granule/zarr.json 1"),
            "before the root": ("before", ROOT),
            "after the root": ("after", ROOT),
        },
        base=(FIRST,),
        killed=(NEXT,),
    ),
    "rewrite": Scenario(
        {
            "after the grant": ("after", GRANT),
            "after the listing": ("after", f"list {D16}/ 1"),
            "before the first chunk": ("before", f"create {D16}/*/c.0 1"),
            "after the first chunk": ("after", f"create {D16}/*/c.0 1"),
            "after the last chunk": ("after", f"create {D16}/granule/c.2 1"),
            "before the commit": ("before", COMMIT),
            "after the commit": ("after", COMMIT),
            "after the flip": ("after", FLIP),
            "before the document of height": ("before", f"replace {D16}/height/zarr.json 1"),
            "after the document of height": ("after", f"replace {D16}/height/zarr.json 1"),
            "after the document of granule": ("after", f"replace {D16}/granule/zarr.json 1"),
            "after the root": ("after", ROOT),
        },
        base=(FIRST, NEXT),
        killed=(LATE,),
    ),
    "rewrite-into-a-used-key-space": Scenario(
        {
            "after the listing": ("after", f"list {D16}/ 1"),
            "before a leftover is replaced": ("before", f"replace {D16}/height/c/0 1"),
            "after a leftover is replaced": ("after", f"replace {D16}/height/c/0 1"),
            "after a new chunk": ("after", f"create {D16}/time/c/2 1"),
            "after the commit": ("after", COMMIT),
            "after the flip": ("after", FLIP),
        },
        base=(FIRST, LATE, LATER),
        killed=(LATEST,),
    ),
    "several-partitions": Scenario(
        {
            "after the grant": ("after", GRANT),
            "after a chunk of the first": ("after", f"replace {D16}/height/c/1 1"),
            "after a chunk of the second": ("after", f"create {D24}/height/c/0 1"),
            "before a chunk of the last": ("before", f"create {NEW_YEAR}/height/c/0 1"),
            "before the commit": ("before", COMMIT),
            "after the commit": ("after", COMMIT),
            "after the document of an array that is new": ("after", f"create {D24}/height/zarr.json 1"),
            "after the flip of the first": ("after", FLIP),
            "before the flip of the second": ("before", f"create {D24}/zarr.json 1"),
            "after the flip of the second": ("after", f"create {D24}/zarr.json 1"),
            "after the group of a new year": ("after", "create year=2024/zarr.json 1"),
            "after the flip of the last": ("after", f"create {NEW_YEAR}/zarr.json 1"),
            "before the root": ("before", ROOT),
        },
        base=(FIRST,),
        killed=(OVER_NEW_YEAR,),
    ),
    "take-over": Scenario(
        {
            "before the grant": ("before", GRANT),
            "after the grant": ("after", GRANT),
            "after reading the last chunk": ("after", f"get {D16}/height/c/1 1"),
            "after filling the last chunk": ("after", f"replace {D16}/height/c/1 1"),
            "after replacing what the first one left": ("after", f"replace {D16}/height/c/2 1"),
            "after the commit": ("after", COMMIT),
            "after the flip": ("after", FLIP),
        },
        base=(FIRST,),
        predecessor=(NEXT, "kill after flush * 1"),
        killed=(Pass("taken over", 100, 10),),
    ),
    "roll-forward": Scenario(
        {
            "before the flip of the first": ("before", FLIP),
            "after the flip of the first": ("after", FLIP),
            "after the flip of the second": ("after", f"create {D17}/zarr.json 1"),
            "after the document of height": ("after", f"replace {D16}/height/zarr.json 1"),
            "after the root": ("after", ROOT),
        },
        base=(FIRST,),
        predecessor=(OVER_MIDNIGHT, f"kill after {COMMIT}"),
    ),
    "checkpoint": Scenario(
        {
            "before the tables": ("before", "create .zcommits/ledger/* 1"),
            "after the first table": ("after", "create .zcommits/ledger/*.json.gz 1"),
            "after the index": ("after", "create .zcommits/ledger/*.npy 1"),
            "before the checkpoint": ("before", "create .zcommits/checkpoints/* 1"),
            "after the checkpoint": ("after", "create .zcommits/checkpoints/* 1"),
        },
        base=(FIRST, LATE, OVER_NEW_YEAR),
        calls=(("checkpoint", {}),),
    ),
    "garbage": Scenario(
        {
            "before the first record goes": ("before", "delete .zcommits/0* 1"),
            "after the first record went": ("after", "delete .zcommits/0* 1"),
            "after another record went": ("after", "delete .zcommits/0* 4"),
            "after the grant": ("after", GRANT),
            "before a chunk goes": ("before", f"* {D16}/height/c.0 1"),
            "after a chunk went": ("after", f"* {D16}/height/c.0 1"),
            "before the release": ("before", COMMIT),
            "after the release": ("after", COMMIT),
        },
        base=(FIRST, LATE, LATER),
        calls=(("checkpoint", {}), ("collect_garbage", {"dry_run": False, "min_age": 0, "retention": 0})),
    ),
    "creation": Scenario(
        {
            "before the values without rows are staged": ("before", "create .zcommits/staged/* 1"),
            "after the values without rows are staged": ("after", "create .zcommits/staged/* 1"),
            "after the staged configuration": ("after", "create .zcommits/configs/* 1"),
            "before the record": ("before", GRANT),
            "after the record": ("after", GRANT),
            "after the configuration": ("after", "create _zcollection.json 1"),
            "after the values without rows": ("after", "create _immutable/band/c/0 1"),
            "after their group": ("after", "create _immutable/zarr.json 1"),
            "after the root": ("after", "create zarr.json 1"),
        },
        killed=(FIRST,),
        create=True,
    ),
}

#: In Zarr v2 plain readers may meet the copy of a rewrite half-way, so what they see counts behind the next writer.
SCENARIOS_V2 = {
    "zarr2-first-rewrite": Scenario(
        {
            "before the commit": ("before", COMMIT),
            "between commit and copy": ("before", f"list {D16}/ 2"),
            "before the first copy": ("before", f"replace {D16}/*/? 1"),
            "in the middle of the copy": ("after", f"replace {D16}/*/? 4"),
            "after the last copy": ("before", "flush * 2"),
            "between copy and flip": ("before", f"replace {D16}/.zmetadata 1"),
            "after the flip": ("after", f"replace {D16}/.zmetadata 1"),
            "after the document of height": ("after", f"replace {D16}/height/.zarray 1"),
        },
        base=(FIRST, NEXT),
        killed=(LATE,),
        zarr_format=2,
    ),
    "zarr2-later-rewrite": Scenario(
        {
            "in the middle of the copy": ("after", f"replace {D16}/*/? 5"),
            "between copy and flip": ("before", f"replace {D16}/.zmetadata 1"),
        },
        base=(FIRST, LATE, LATER),
        killed=(LATEST,),
        zarr_format=2,
    ),
    "zarr2-append-to-a-rewrite": Scenario(
        {
            "after filling the last private chunk": ("after", f"replace {D16}/.generations/1/height/2 1"),
            "in the middle of the copy": ("after", f"replace {D16}/*/2 2"),
            "between copy and flip": ("before", f"replace {D16}/.zmetadata 1"),
        },
        base=(FIRST, LATE),
        killed=(Pass("behind", 30, 10),),
        zarr_format=2,
    ),
    "zarr2-new-partition": Scenario(
        {
            "after it was announced": ("after", f"create {D17}/.zmetadata 1"),
            "after a chunk": ("after", f"create {D17}/height/0 1"),
            "before the flip": ("before", f"replace {D17}/.zmetadata 1"),
        },
        base=(FIRST,),
        killed=(OVER_MIDNIGHT,),
        zarr_format=2,
    ),
}

POINTS = [
    (f"{name}: {step}", scenario, when, operation)
    for name, scenario in SCENARIOS.items()
    for step, (when, operation) in scenario.steps.items()
]

#: All points on files; on SeaweedFS, which is slower, every second one unless ALL_POINTS is set.
ON_SEAWEEDFS = POINTS if os.environ.get("ALL_POINTS") else POINTS[::2]
CASES = [
    pytest.param(store, *rest, id=f"{store}, {name}")
    for store, points in (("files", POINTS), ("seaweedfs", ON_SEAWEEDFS))
    for name, *rest in points
]


def kill(crew: Crew, scenario: Scenario, place: Place, fault: str) -> None:
    """Bring a collection to the moment at which the writer dies."""
    if scenario.predecessor:
        each, operation = scenario.predecessor
        first = Order(place, "another", [each], faults=[operation], grant_seconds=SHORT)
        _expect_death(crew, first, prepare=Order(place, "another", scenario.base, create=True, single_writer=True))
        _expect_death(crew, Order(place, "writer", scenario.killed, faults=[fault], calls=scenario.calls))
        return
    base = Order(place, "writer", scenario.base, create=True, single_writer=True, zarr_format=scenario.zarr_format)
    prepare = None if scenario.create else base
    dying = Order(place, "writer", scenario.killed, faults=[fault], create=scenario.create, calls=scenario.calls)
    _expect_death(crew, dying, prepare=prepare)


def _expect_death(crew: Crew, order: Order, prepare: Order | None = None) -> None:
    with crew.hire() as actor:
        if prepare is not None:
            actor.do(prepare)
        actor.give(order)
        assert actor.until_ended() == -signal.SIGKILL


def check_readers(scenario: Scenario, place: Place) -> dict[str, Rows]:
    """See that readers meet whole commits after the crash; return what is committed."""
    shown = plain_view(place, expected_rows(scenario.passes))
    for path, rows in shown.items():
        assert rows in [commit[path] for commit in scenario.commits if path in commit], path
    try:
        committed = engine_view(open_collection(place.url, storage=place.options))
    except NotFoundError:
        assert scenario.create
        return {}
    assert committed in scenario.commits
    report = verify(open_collection(place.url, storage=place.options))
    assert report.ok, report.faults
    return committed


@pytest.mark.parametrize(("place", "scenario", "when", "operation"), CASES, indirect=["place"])
def test_a_killed_writer_loses_and_doubles_nothing(
    crew: Crew, place: Place, scenario: Scenario, when: str, operation: str
) -> None:
    kill(crew, scenario, place, f"kill {when} {operation}")
    committed = check_readers(scenario, place)
    with crew.hire() as actor:
        actor.do(Order(place, "writer", create=scenario.create))
        assert engine_view(open_collection(place.url, storage=place.options)) == committed
        assert plain_view(place, committed) == committed
        actor.do(Order(place, "writer", (*scenario.passes, AFTERWARDS)))
    check_collection(place, (*scenario.passes, AFTERWARDS))


def test_there_are_thirty_points_at_least() -> None:
    assert len(ON_SEAWEEDFS) >= 30


POINTS_V2 = [
    (f"{name}: {step}", scenario, when, operation)
    for name, scenario in SCENARIOS_V2.items()
    for step, (when, operation) in scenario.steps.items()
]
ON_SEAWEEDFS_V2 = POINTS_V2 if os.environ.get("ALL_POINTS") else POINTS_V2[::2]
CASES_V2 = [
    pytest.param(store, *rest, id=f"{store}, {name}")
    for store, points in (("files", POINTS_V2), ("seaweedfs", ON_SEAWEEDFS_V2))
    for name, *rest in points
]


@pytest.mark.parametrize(("place", "scenario", "when", "operation"), CASES_V2, indirect=["place"])
def test_a_killed_writer_of_zarr_v2_loses_and_doubles_nothing(
    crew: Crew, place: Place, scenario: Scenario, when: str, operation: str
) -> None:
    kill(crew, scenario, place, f"kill {when} {operation}")
    left = open_collection(place.url, storage=place.options)
    committed = engine_view(left)
    assert committed in scenario.commits
    report = verify(left)
    assert report.ok, report.faults
    with crew.hire() as actor:
        actor.do(Order(place, "writer"))
        assert engine_view(open_collection(place.url, storage=place.options)) == committed
        assert plain_view(place, committed) == committed
        actor.do(Order(place, "writer", (*scenario.passes, AFTERWARDS)))
    check_collection(place, (*scenario.passes, AFTERWARDS))
