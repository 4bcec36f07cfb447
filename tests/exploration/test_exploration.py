"""The engine's own code under many schedules: nothing committed is ever damaged, and every read is one commit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.exploration.actors import ACTIONS
from tests.exploration.explore import Summary, run_many, run_schedule, run_zarr2
from tests.exploration.rules import RULES, SLEEPY, UnconditionalChunks
from zcollection_engine.testing.inline import tasks_for_threads

SCHEDULES = 160
_BATCH = 20

#: What the schedules must have met, or they would show little.
_MET = (
    *ACTIONS,
    "deaths",
    "presumed dead",
    "take-overs",
    "withdrawn",
    "collected: chunk",
    "collected: record",
    "commits: rollback",
    "commits: drop",
    "commits: retract",
    "records: renew",
    "records: release",
    "plain reads",
    "engine reads",
    "committed",
    "known",
    "superseded",
)


@pytest.fixture(autouse=True)
def _in_steps() -> Iterator[None]:
    with tasks_for_threads():
        yield


@pytest.fixture(scope="module")
def total() -> Summary:
    return Summary()


@pytest.mark.parametrize("first", range(0, SCHEDULES, _BATCH))
def test_no_schedule_damages_anything(first: int, total: Summary) -> None:
    summary = run_many(range(first, first + _BATCH))
    total.add(summary)
    assert not summary.violations, next(iter(summary.violations.values()))


def test_the_schedules_met_what_they_are_for(total: Summary) -> None:
    if total.schedules < SCHEDULES:
        pytest.skip("counts only when all schedules were run")
    assert [what for what in _MET if not total.counts[what]] == []


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_no_schedule_in_zarr_v2_damages_anything(first: int) -> None:
    summary = run_zarr2(range(first, first + 10))
    assert not summary.violations, next(iter(summary.violations.values()))
    assert summary.counts["generations shown"]
    assert summary.counts["deaths"]


def test_a_copy_without_conditions_is_noticed_in_zarr_v2() -> None:
    settings = replace(SLEEPY, zarr_format=2, plain_readers=0, actions=4, weights={**SLEEPY.weights, "late": 20})
    for seed in range(200):
        violations = run_many(range(seed, seed + 1), settings, UnconditionalChunks).violations
        if violations and re.search(r"\.zmetadata.* holds", violations[seed].splitlines()[0]):
            return
    pytest.fail("200 schedules with unconditional copies, and nothing was noticed")


def test_some_snapshot_expires() -> None:
    summary = Summary()
    for seed in range(2, 2000, 5):  # those without reader_grace, see `settings_for`
        summary.add(run_many([seed]))
        if summary.counts["snapshots that expired"]:
            return
    pytest.fail(f"none did in {summary.schedules} schedules")


def test_a_seed_always_gives_the_same_schedule() -> None:
    first, again, other = (run_schedule(seed).schedule for seed in (1, 1, 5))
    assert first.digest == again.digest
    assert first.steps == again.steps
    assert other.digest != first.digest


def test_a_seed_gives_the_same_schedule_in_another_process() -> None:
    program = (
        "from tests.exploration.explore import run_schedule\n"
        "from zcollection_engine.testing.inline import tasks_for_threads\n"
        "with tasks_for_threads():\n"
        "    print(run_schedule(1).schedule.digest)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == run_schedule(1).schedule.digest


@pytest.mark.parametrize("name", RULES)
def test_a_rule_left_out_is_noticed(name: str) -> None:
    rule = RULES[name]
    with rule.off():
        for seed in range(300):
            violations = run_many(range(seed, seed + 1), rule.settings, rule.store).violations
            if violations and rule.shows.search(violations[seed].splitlines()[0]):
                return
    pytest.fail(f"300 schedules without {name}, and nothing was noticed")


def test_with_all_rules_the_same_schedules_are_good() -> None:
    summary = run_many(range(10), SLEEPY)
    assert not summary.violations, next(iter(summary.violations.values()))
