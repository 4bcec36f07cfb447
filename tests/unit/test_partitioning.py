"""Partitioning: every row has one partition, every partition one spelling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zcollection_engine.errors import FormatError, InvalidInputError
from zcollection_engine.partitioning import (
    RESOLUTIONS,
    DatePartitioning,
    Partitioning,
    SequencePartitioning,
    partitioning_from_json,
)

NS_MIN, NS_MAX = -(2**63) + 1, 2**63 - 1  # -2**63 itself is NaT

instants = st.one_of(
    st.integers(NS_MIN, NS_MAX),
    st.integers(-2 * 86_400 * 10**9, 2 * 86_400 * 10**9),
    st.sampled_from([NS_MIN, -1, 0, 1, NS_MAX]),
)


def calendar_path(nanoseconds: int, resolution: str) -> str:
    """The path by Python's own calendar."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)
    names = list(RESOLUTIONS)[: list(RESOLUTIONS).index(resolution) + 1]
    return "/".join(f"{n}={getattr(moment, n):0{4 if n == 'year' else 2}d}" for n in names)


def moment(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def covered_once(found: dict[str, Any], rows: int) -> bool:
    every = np.concatenate([np.empty(0, np.intp), *found.values()])
    return sorted(every.tolist()) == list(range(rows))


@settings(max_examples=200)
@given(st.lists(instants, max_size=30), st.sampled_from(list(RESOLUTIONS)))
def test_a_split_by_date_gives_each_row_once_to_the_partition_of_its_calendar_date(
    values: list[int], resolution: str
) -> None:
    rule = DatePartitioning("time", resolution)
    found = rule.split({"time": np.array(values, np.int64)})
    assert covered_once(found, len(values))
    for path, rows in found.items():
        assert {calendar_path(values[row], resolution) for row in rows} == {path}
        assert rows.tolist() == sorted(rows.tolist())


@given(st.lists(instants, min_size=1, max_size=10), st.sampled_from(list(RESOLUTIONS)))
def test_partitions_by_date_come_in_the_order_of_time_and_their_keys_sort_alike(
    values: list[int], resolution: str
) -> None:
    rule = DatePartitioning("time", resolution)
    paths = list(rule.split({"time": np.array(values, np.int64)}))
    assert paths == sorted(paths, key=rule.keys)
    firsts = [min(values[row] for row in rows) for rows in rule.split({"time": np.array(values, np.int64)}).values()]
    assert firsts == sorted(firsts)


@given(instants, st.sampled_from(list(RESOLUTIONS)))
def test_a_path_by_date_is_parsed_to_the_numbers_it_was_made_of(value: int, resolution: str) -> None:
    rule = DatePartitioning("time", resolution)
    (path,) = rule.split({"time": np.array([value])})
    keys = rule.keys(path)
    assert tuple(name for name, _ in keys) == rule.parts
    assert "/".join(f"{n}={v:0{4 if n == 'year' else 2}d}" for n, v in keys) == path


@given(st.integers(moment("1678-01-01"), moment("2261-12-31")), st.sampled_from(list(RESOLUTIONS)))
def test_a_period_holds_the_instants_of_its_partition_and_no_others(value: int, resolution: str) -> None:
    rule = DatePartitioning("time", resolution)
    (path,) = rule.split({"time": np.array([value])})
    first, end = (int(t.astype(np.int64)) for t in rule.period(path))
    assert first <= value < end
    assert list(rule.split({"time": np.array([first, end - 1])})) == [path]
    assert path not in rule.split({"time": np.array([first - 1, end])})


@pytest.mark.parametrize(
    ("instant", "path"),
    [
        ("1969-12-31T23:59:59.999999999", "year=1969/month=12/day=31"),
        ("1970-01-01T00:00:00.000000000", "year=1970/month=01/day=01"),
        ("1999-12-31T23:59:59.999999999", "year=1999/month=12/day=31"),
        ("2000-01-01T00:00:00.000000000", "year=2000/month=01/day=01"),
        ("2000-02-29T12:00:00.000000000", "year=2000/month=02/day=29"),
        ("2024-02-29T23:59:59.999999999", "year=2024/month=02/day=29"),
        ("1900-02-28T23:59:59.999999999", "year=1900/month=02/day=28"),
        ("1900-03-01T00:00:00.000000000", "year=1900/month=03/day=01"),
        ("1677-09-21T00:12:43.145224193", "year=1677/month=09/day=21"),
        ("2262-04-11T23:47:16.854775807", "year=2262/month=04/day=11"),
    ],
)
def test_the_edges_of_the_calendar_fall_into_their_own_day(instant: str, path: str) -> None:
    assert list(DatePartitioning("time", "day").split({"time": np.array([moment(instant)])})) == [path]


def test_a_period_that_nanoseconds_cannot_hold_is_refused_instead_of_wrapping_around() -> None:
    rule = DatePartitioning("time", "day")
    with pytest.raises(InvalidInputError, match="year=2262/month=04/day=11"):
        rule.period("year=2262/month=04/day=11")
    with pytest.raises(InvalidInputError, match="year=1677/month=09/day=21"):
        rule.period("year=1677/month=09/day=21")
    first, end = rule.period("year=2262/month=04/day=10")
    assert (str(first)[:10], str(end)[:10]) == ("2262-04-10", "2262-04-11")


def test_a_time_that_is_not_a_time_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"'time'.*NaT"):
        DatePartitioning("time", "day").split({"time": np.array([0, -(2**63)])})


@pytest.mark.parametrize(
    "path",
    [
        "",
        "year=2023",
        "year=2023/month=12",
        "year=2023/month=12/day=16/hour=00",
        "year=2023/month=12/day=16/",
        "/year=2023/month=12/day=16",
        "year=2023/month=1/day=16",
        "year=2023/month=012/day=16",
        "year=23/month=12/day=16",
        "year=02023/month=12/day=16",
        "year=2023/month=13/day=01",
        "year=2023/month=00/day=01",
        "year=2023/month=02/day=29",
        "year=2023/month=12/day=32",
        "year=2023/month=12/day=-1",
        "year=2023/month=12/day=1\uff16",
        "year=2023/month=12/day=16\n",
        "year=2023/month=12/day= 6",
        "year=2023/month=12/day=+6",
        "year=2023/day=16/month=12",
        "Year=2023/month=12/day=16",
        "year=2023/month=12/day",
        "_immutable",
        ".zcommits/grants",
    ],
)
def test_a_name_that_is_no_day_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError):
        DatePartitioning("time", "day").keys(path)


@pytest.mark.parametrize(
    ("resolution", "path"),
    [
        ("year", "year=2023"),
        ("hour", "year=2023/month=12/day=16/hour=23"),
        ("minute", "year=2023/month=12/day=16/hour=23/minute=00"),
        ("second", "year=2023/month=12/day=16/hour=23/minute=00/second=59"),
    ],
)
def test_every_resolution_reads_its_own_paths(resolution: str, path: str) -> None:
    rule = DatePartitioning("time", resolution)
    assert rule.keys(path)[-1] == (resolution, int(path[-4:] if resolution == "year" else path[-2:]))


@pytest.mark.parametrize("path", ["year=2023/month=12/day=16/hour=24", "year=2023/month=12/day=16/hour=7"])
def test_a_name_that_is_no_hour_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError):
        DatePartitioning("time", "hour").keys(path)


def test_an_unknown_resolution_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"'week'.*year, month, day, hour, minute, second"):
        DatePartitioning("time", "week")


numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 12))


@given(st.lists(st.tuples(numbers, st.integers(0, 3)), max_size=30))
def test_a_split_by_sequence_gives_each_row_once_to_the_partition_of_its_numbers(pairs: list[tuple[int, int]]) -> None:
    rule = SequencePartitioning(("cycle", "ku/pass"))
    columns = {
        "cycle": np.array([cycle for cycle, _ in pairs], np.int64),
        "ku/pass": np.array([number for _, number in pairs], np.uint8),
    }
    found = rule.split(columns)
    assert covered_once(found, len(pairs))
    for path, rows in found.items():
        assert {f"cycle={pairs[row][0]}/pass={pairs[row][1]}" for row in rows} == {path}
        assert rule.keys(path) == (("cycle", pairs[rows[0]][0]), ("pass", pairs[rows[0]][1]))


def test_sequences_are_ordered_as_numbers_not_as_text() -> None:
    rule = SequencePartitioning(("cycle",))
    paths = list(rule.split({"cycle": np.array([100, 9, -1, 10, 0], np.int16)}))
    assert paths == ["cycle=-1", "cycle=0", "cycle=9", "cycle=10", "cycle=100"]
    assert paths == sorted(paths, key=rule.keys)


@pytest.mark.parametrize(
    "path",
    [
        "cycle=007/pass=1",
        "cycle=7/pass=01",
        "cycle=-0/pass=1",
        "cycle=+7/pass=1",
        "cycle=7",
        "pass=1/cycle=7",
        "cycle=7/pass=1/x=2",
        "cycle=7/pass=",
        "cycle=7/pass=1.0",
        "cycle=7/pass=٣",
        "cycle=7/pass=1\n",
        "year=2023/month=12",
    ],
)
def test_a_name_that_is_no_sequence_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError):
        SequencePartitioning(("cycle", "pass")).keys(path)


def test_numbers_beyond_64_signed_bits_are_refused_instead_of_becoming_negative() -> None:
    with pytest.raises(InvalidInputError, match=f"'cycle'.*{2**64 - 1}"):
        SequencePartitioning(("cycle",)).split({"cycle": np.array([1, 2**64 - 1], np.uint64)})


def test_a_sequence_of_numbers_that_are_not_whole_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"'cycle'.*float64"):
        SequencePartitioning(("cycle",)).split({"cycle": np.array([1.0])})


def test_a_sequence_without_variables_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        SequencePartitioning(())


@pytest.mark.parametrize(
    "rule",
    [*(DatePartitioning("ku/time", name) for name in RESOLUTIONS), SequencePartitioning(("cycle_number", "pass"))],
    ids=str,
)
def test_a_rule_survives_json(rule: Partitioning) -> None:
    assert partitioning_from_json(rule.to_json()) == rule


def test_an_unknown_rule_is_refused_as_a_newer_format() -> None:
    with pytest.raises(FormatError, match="'tile'"):
        partitioning_from_json({"name": "tile"})


@pytest.mark.parametrize("data", [{"name": "date"}, {"name": "date", "variable": "time", "resolution": "W"}])
def test_a_damaged_rule_is_refused_as_a_format_error(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        partitioning_from_json(data)
