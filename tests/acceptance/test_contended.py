"""Several processes write one collection at the same time: nothing fails, and every row is there once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.engine_checks import check_collection
from tests.engine_processes import Crew, Order, Place, succeeded
from tests.passes import DAY, Pass

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(280)]

ROWS = 10
INSERTS = 24


def write_side_by_side(crew: Crew, place: Place, shares: list[list[Pass]]) -> None:
    """Let one process for each share insert it, from the creation of the collection on; see that nothing fails."""
    with ExitStack() as stack:
        actors = [stack.enter_context(crew.hire()) for _ in shares]
        for number, (actor, share) in enumerate(zip(actors, shares, strict=True)):
            actor.give(Order(place, f"writer {number}", share, create=True, chunk_rows=64, checkpoint_records=20))
        for actor, share in zip(actors, shares, strict=True):
            answers = succeeded(actor.finish(240.0))
            assert [answer["what"] for answer in answers if "commit" in answer] == [each.name for each in share]
    check_collection(place, [each for share in shares for each in share])


def test_three_processes_insert_into_one_partition(crew: Crew, place: Place) -> None:
    passes = [Pass(f"pass {number}", number * ROWS, ROWS) for number in range(3 * INSERTS)]
    write_side_by_side(crew, place, [passes[first::3] for first in range(3)])


def test_three_processes_lay_their_rows_over_each_other(crew: Crew, place: Place) -> None:
    passes = [Pass(f"pass {number}", (number * 7 % 72) * 5, ROWS, version=number) for number in range(3 * INSERTS)]
    write_side_by_side(crew, place, [passes[first::3] for first in range(3)])


def test_four_processes_insert_into_partitions_of_their_own(crew: Crew, place: Place) -> None:
    shares = [
        [Pass(f"pass {day}/{number}", day * DAY + number * ROWS, ROWS) for number in range(INSERTS // 2)]
        for day in range(4)
    ]
    write_side_by_side(crew, place, shares)
