"""A writer stopped with SIGSTOP until its grant has run out, in every phase: another one goes on, nothing is damaged.

Whatever the phase, the writer that wakes up ends well: what it had committed stays, else it finds that its grant was
taken over, merges again behind the other's commit and commits under a new grant.

On local files a stopped writer that holds the lock of a partition blocks it: the other one says for whom it waits.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.engine_checks import check_collection, plain_view
from tests.engine_processes import Actor, Crew, Order, Place, succeeded
from tests.passes import DAY, Pass, expected_rows
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.records import Grant

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

D16, D17 = "year=2023/month=12/day=16", "year=2023/month=12/day=17"

#: Seconds that a grant lives, and that a writer waits for one who blocks it.
GRANT, TIMEOUT = 1.0, 4.0

#: Life of a grant whose first renewal, a record too, must not come before the commit.
LONG_GRANT = 3.0

BASE = (Pass("first day", 0, 10), Pass("second day", DAY, 10))

#: Each has a row in both days: behind all others, or between them.
APPENDED, INSERTED = Pass("paused", 1000, 2, step=DAY), Pass("paused", 5, 2, version=1, step=DAY)
OTHER = Pass("other", 500, 2, step=DAY)


@dataclass(frozen=True)
class Phase:
    """Where a writer is stopped.

    Attributes
    ----------
    operation
        As `parse_fault` reads it, "before" or "after" included.
    paused
        What it is about to insert.
    committed
        Whether its commit is in the log by then.
    on_files
        What another writer does on local files: it goes on, or it waits for the lock of a partition. Untold is it where
        one thread of several is stopped in the act of replacing a document: the lock for just that may be held or not.
    grant_seconds
        Life of its grant.
    """

    operation: str
    paused: Pass = APPENDED
    committed: bool = False
    on_files: Literal["goes on", "waits", "untold"] = "goes on"
    grant_seconds: float = GRANT


PHASES = {
    "before the grant": Phase("before create .zcommits/0* 1"),
    "after the grant": Phase("after create .zcommits/0* 1"),
    "after the ETags": Phase(f"after get {D16}/height/c/1 1", on_files="waits"),
    "between chunks": Phase(f"after replace {D16}/height/c/1 1", on_files="waits"),
    "between partitions": Phase(f"before replace {D17}/height/c/1 1", on_files="waits"),
    "after the ETags of a rewrite": Phase(f"after list {D16}/ 1", INSERTED, on_files="waits"),
    "between chunks of a rewrite": Phase(f"after create {D16}/height/c.0 1", INSERTED, on_files="waits"),
    "before the commit": Phase("before create .zcommits/0* 2", grant_seconds=LONG_GRANT),
    "before the commit of a rewrite": Phase("before create .zcommits/0* 2", INSERTED, grant_seconds=LONG_GRANT),
    "after the commit": Phase("after create .zcommits/0* 2", committed=True, grant_seconds=LONG_GRANT),
    "between the flips": Phase(f"after replace {D17}/zarr.json 1", committed=True, on_files="untold"),
    "between the flips of a rewrite": Phase(
        f"after replace {D17}/zarr.json 1", INSERTED, committed=True, on_files="untold"
    ),
    "before the root": Phase("before replace zarr.json 1", committed=True),
}


@contextmanager
def paused_writer(crew: Crew, place: Place, phase: Phase) -> Iterator[Actor]:
    """Bring a writer into a phase and stop it there."""
    with crew.hire() as actor:
        actor.do(Order(place, "first", BASE, create=True, single_writer=True))
        faults, seconds = [f"stop {phase.operation}"], phase.grant_seconds
        actor.give(Order(place, "first", [phase.paused], faults=faults, grant_seconds=seconds))
        actor.until_stopped()
        yield actor


def commit_of(answers: list[dict[str, Any]], each: Pass) -> int:
    """Return the number of the commit that a pass went in with."""
    (commit,) = (answer["commit"] for answer in answers if answer["what"] == each.name)
    return int(commit)


def grants(place: Place, after: int) -> list[str]:
    """Return who took a grant since a record."""
    return [record.owner for _, record in CommitLog(place.store()).follow(after) if isinstance(record, Grant)]


def points(*on_files: str) -> list[Any]:
    """Return phases by what happens in them on local files."""
    return [pytest.param(phase, id=name) for name, phase in PHASES.items() if phase.on_files in on_files]


def check_readers(actor: Actor, place: Place, passes: tuple[Pass, ...], last: Pass) -> None:
    """See that readers meet whole commits for as long as an actor is at work that ends with the last pass."""
    commits = [expected_rows(passes), expected_rows((*passes, last))]
    finished = False
    while not finished:
        finished = actor.is_finished()
        for path, rows in plain_view(place, (D16, D17)).items():
            assert rows in [commit[path] for commit in commits]


def check_overtaken(crew: Crew, place: Place, phase: Phase) -> None:
    """See that another writer goes on while one is paused, and that the paused one ends well when it wakes up."""
    with paused_writer(crew, place, phase) as first, crew.hire() as second:
        other = commit_of(second.do(Order(place, "second", [OTHER])), OTHER)
        behind = (*BASE, phase.paused) if phase.committed else BASE
        assert plain_view(place, (D16, D17)) == expected_rows((*behind, OTHER))
        first.resume()
        check_readers(first, place, (*behind, OTHER), phase.paused)
        answers = succeeded(first.finish())
        if phase.committed:
            assert commit_of(answers, phase.paused) < other
        else:
            assert commit_of(answers, phase.paused) > other
            # Its grant was taken over, so that it needed another one; a plan without a grant is only made again.
            assert grants(place, other) == ["first"]
    check_collection(place, (*BASE, phase.paused, OTHER))


@pytest.mark.parametrize("phase", points("goes on"))
def test_another_writer_goes_on_and_the_paused_one_merges_again(crew: Crew, place: Place, phase: Phase) -> None:
    check_overtaken(crew, place, phase)


@pytest.mark.parametrize("place", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("phase", points("waits", "untold"))
def test_another_writer_goes_on_amid_the_requests_of_a_paused_one(crew: Crew, place: Place, phase: Phase) -> None:
    check_overtaken(crew, place, phase)


@pytest.mark.parametrize("place", ["files"], indirect=True)
@pytest.mark.parametrize("phase", points("waits"))
def test_on_local_files_another_writer_waits_and_says_for_whom(crew: Crew, place: Place, phase: Phase) -> None:
    with paused_writer(crew, place, phase) as first, crew.hire() as second:
        second.give(Order(place, "second", [OTHER], timeout=TIMEOUT))
        (refused, _) = second.finish()
        assert refused["error"] == "BusyError"
        assert f"process {first.pid} on host {socket.gethostname()!r}" in refused["message"]
        assert plain_view(place, (D16, D17)) == expected_rows(BASE)
        first.resume()
        succeeded(first.finish())
        second.do(Order(place, "second", [OTHER]))
    check_collection(place, (*BASE, phase.paused, OTHER))
