"""docs/merging.md is true: its drawings are what the strategies keep, its settings load, its ranks are found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from daemon.rules import precedence_of, strategy_of
from daemon.settings_rules import MergeSettings, PrecedenceSettings
from tests import merge_oracles
from tests.merge_oracles import Given
from zcollection_engine.merging import (
    Candidates,
    Concat,
    Custom,
    Replace,
    Strategy,
    TimeSeries,
    Upsert,
    select,
)

GUIDE = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")

# A column of a drawing is an instant, a letter a row of that granule.

GRANULES = {"A": (1, [0, 5, 10, 15, 20, 25, 30]), "B": (2, [9, 12, 15, 27]), "C": (3, [3, 12])}
DRAWN = {name: Given(name, (rank,), [(v,) for v in values]) for name, (rank, values) in GRANULES.items()}
DRAWINGS: dict[str, list[tuple[str, int]]] = {
    "replace": merge_oracles.replace(DRAWN.values()),
    "concat": merge_oracles.concat(DRAWN.values()),
    "time_series": merge_oracles.time_series(DRAWN.values()),
    "time_series, tolerance 8": merge_oracles.time_series(DRAWN.values(), 8),
    "upsert": merge_oracles.upsert(DRAWN.values()),
    "upsert, within 3": merge_oracles.upsert_within(DRAWN.values(), 3),
}


def lines(label: str, kept: Sequence[tuple[str, int]]) -> list[str]:
    """The drawing of rows; a second row at an instant stands below the first one."""
    drawn = [["."] * 32]
    for name, place in kept:
        column = DRAWN[name].rows[place][0]
        if drawn[0][column] != ".":
            drawn.append([" "] * 32)
        drawn[-1 if drawn[0][column] != "." else 0][column] = name
    below = ["".join(cells) for cells in drawn[1:]]
    merged = "".join(max(cells) for cells in zip(*below, strict=True))
    return [f"{label:<26}{''.join(drawn[0])}", *([f"{'':<26}{merged}".rstrip()] if below else [])]


@pytest.mark.parametrize("label", [*GRANULES, *DRAWINGS])
def test_the_guide_draws_what_is_kept(label: str) -> None:
    kept = DRAWINGS.get(label) or [(label, place) for place in range(len(DRAWN[label].rows))]
    guide = GUIDE.splitlines()
    drawing = lines(label, kept)
    place = [line.strip() for line in guide].index(drawing[0])
    assert [line.removeprefix("    ") for line in guide[place : place + len(drawing)]] == drawing


@pytest.mark.parametrize(
    ("strategy", "label"),
    [
        (Replace(), "replace"),
        (Concat(), "concat"),
        (TimeSeries(), "time_series"),
        (TimeSeries(8), "time_series, tolerance 8"),
        (Upsert(axis="time"), "upsert"),
        (Upsert(within=3, axis="time"), "upsert, within 3"),
    ],
)
def test_the_strategies_keep_what_the_guide_draws(strategy: Strategy, label: str) -> None:
    names = list(GRANULES)
    granules = [np.array(GRANULES[name][1]) for name in names]
    origin = np.concatenate([np.full(axis.size, number + 1, np.uint64) for number, axis in enumerate(granules)])
    places = np.concatenate([np.arange(axis.size) for axis in granules])
    owners = [(number + 1, strategy.intervals(axis)) for number, axis in enumerate(granules)]
    take = select(strategy, Candidates(np.concatenate(granules), origin, 0), owners).take
    assert [(names[origin[i] - 1], places[i]) for i in take] == DRAWINGS[label]


def blocks(section: str) -> list[dict[str, Any]]:
    """What the indented settings of the guide say in one section of a collection."""
    found = re.findall(rf"^    \[collections\.{section}\]\n(?:    .*\n)+", GUIDE, re.MULTILINE)
    return [tomllib.loads(re.sub("^    ", "", text, flags=re.MULTILINE))["collections"][section] for text in found]


def test_the_settings_of_the_guide_load() -> None:
    strategies = [strategy_of(SimpleNamespace(merge=MergeSettings(**block))) for block in blocks("merge")]  # type: ignore[arg-type]
    assert strategies == [
        TimeSeries(10 * 10**9),
        Replace(),
        Concat(),
        Upsert(("station", "time")),
        Custom("my_package.merging:both"),
    ]


def test_the_ranks_of_the_guide_are_found_by_its_rule() -> None:
    (block,) = blocks("precedence")
    rule = precedence_of(SimpleNamespace(precedence=PrecedenceSettings(**block)))  # type: ignore[arg-type]
    told = re.findall(r"^    (S6A\S+) +\((\d+), (\d+), time\)", GUIDE, re.MULTILINE)
    ranks = [rule.of(key, {}) for key, *_ in told]
    assert ranks == [(int(first), int(second)) for _, first, second in told]
    assert ranks == sorted(ranks)
    assert len(ranks) == 4
