"""The reader on damaged granules: each ends in a typed error, or in the values that the file holds.

Each case runs in a process of its own with the limits of `tests.fuzz.checks.LIMITS`: none hangs or takes more memory.
The netCDF and HDF5 libraries do crash on some; that stays in the process, and is counted. ``FUZZ_EXAMPLES`` and
``FUZZ_SEED`` choose how many cases, and which; ``python -m tests.fuzz --only NUMBER`` runs one again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.fuzz.campaign import Summary, run_cases
from tests.fuzz.checks import case
from tests.fuzz.hdf5 import lookup3, seal, sealed_blocks
from tests.fuzz.independent import compare
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.seeds import Seed, seeds
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.testing.sandbox import Outcome

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

#: Of how many cases the libraries may crash on one.
_CRASHES_ONE_IN = 100
#: What so many cases must have met, or they would show little.
_ENOUGH = 1000
_MET = (
    "equal",
    "refused: truncated",
    "refused: unreadable",
    "refused: not_netcdf",
    "refused: too_large",
    "refused: axis_missing",
    "refused: axis_not_finite",
    "refused: axis_undecodable",
    "refused: axis_out_of_range",
)

pytestmark = pytest.mark.timeout(300 + EXAMPLES // 4)


@pytest.fixture(scope="module")
def summary() -> Summary:
    """What became of all cases."""
    return run_cases(SEED, range(EXAMPLES))


def test_each_damaged_granule_is_refused_with_a_reason_or_read_as_it_is(summary: Summary) -> None:
    assert summary.cases == EXAMPLES
    assert not summary.violations, f"seed {SEED}: {next(iter(summary.violations.items()))}"


def test_crashes_of_the_libraries_are_contained_and_rare(summary: Summary) -> None:
    assert summary.cases - summary.counts["equal"] >= len(summary.crashes)
    assert len(summary.crashes) <= 1 + EXAMPLES // _CRASHES_ONE_IN, summary.crashes


def test_the_cases_met_what_they_are_for(summary: Summary) -> None:
    if summary.cases < _ENOUGH:
        pytest.skip(f"counts only for {_ENOUGH} cases and more")
    assert [end for end in _MET if not summary.counts[end]] == []
    assert summary.counts["equal"] >= summary.cases // 8
    assert {name for name, _ in summary.by_damage} == set(MUTATIONS)
    assert {name for name, end in summary.by_seed if end == "equal"} == {seed.name for seed in seeds()}


def test_a_summary_tells_violations_from_crashes_of_the_libraries() -> None:
    made = Summary()
    made.add(1, Outcome("crashed", status=-11, output='File "/a/netcdf.py", line 9 in read_netcdf'))
    made.add(2, Outcome("timed_out", status=-9))
    made.add(3, Outcome("out_of_memory"))
    made.add(4, Outcome("raised", error=KeyError("x")))
    made.add(5, Outcome("crashed", status=1))
    assert set(made.crashes) == {1}
    assert made.crashes[1].endswith("in netcdf.py 9 read_netcdf")
    assert set(made.violations) == {2, 3, 4, 5}


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: seed.name)
def test_a_whole_file_is_read_as_it_is(seed: Seed) -> None:
    compare(read_netcdf(seed.data, seed.spec, name=seed.name), seed.data, seed.spec)


def _with(granule: Granule, path: str, change: Callable[[Any], Any]) -> Granule:
    """A granule with other values of a variable, or without it."""
    variables = dict(granule.variables)
    found = variables.pop(path)
    values = change(found.values.copy())
    if values is not None:
        variables[path] = dataclasses.replace(found, values=values)
    return dataclasses.replace(granule, variables=variables)


def _other_last(values: Any) -> Any:
    values[-1] = values[-2] if values.dtype.kind != "O" else "other"
    return values


def _later(values: Any) -> Any:
    return values + 10_000


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        ("classic, records", "ssh", _other_last),
        ("classic, records", "ssh", lambda values: values[:-1]),
        ("classic, records", "ssh", lambda values: values.astype("i4")),
        ("classic, records", "ssh", lambda values: None),
        ("classic, records", "label", _other_last),
        ("classic, records", "time", _later),
        ("NetCDF-4 with strings", "remark", _other_last),
        ("NetCDF-4 with groups", "pass_number", lambda values: values + np.uint16(1)),
        ("NetCDF-4 compressed, unlimited", "ku/deep/swh", _other_last),
    ],
)
def test_values_that_the_file_does_not_hold_are_noticed(name: str, path: str, change: Callable[[Any], Any]) -> None:
    seed = next(seed for seed in seeds() if seed.name == name)
    wrong = _with(read_netcdf(seed.data, seed.spec, name=name), path, change)
    with pytest.raises(AssertionError):
        compare(wrong, seed.data, seed.spec)


def test_another_fill_value_than_the_files_is_noticed() -> None:
    seed = next(seed for seed in seeds() if seed.name == "classic, records")
    granule = read_netcdf(seed.data, seed.spec, name="g.nc")
    ssh: GranuleVariable = dataclasses.replace(granule.variables["ssh"], fill_value=-5)
    wrong = dataclasses.replace(granule, variables={**granule.variables, "ssh": ssh})
    with pytest.raises(AssertionError, match="fill value"):
        compare(wrong, seed.data, seed.spec)


def test_a_number_always_gives_the_same_damage() -> None:
    assert case(SEED, 7) == case(SEED, 7)
    assert len({case(SEED, number).data for number in range(20)}) > 15


def test_checksums_are_those_of_the_format() -> None:
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    seed = next(seed for seed in seeds() if seed.name == "NetCDF-4 with groups")
    blocks = sealed_blocks(seed.data)
    kinds = {seed.data[block.begin : block.begin + 4] for block in blocks}
    assert {b"\x89HDF", b"OHDR", b"OCHK", b"BTHD", b"FRHP"} <= kinds
    data = bytearray(seed.data)
    data[blocks[-1].parts[0].begin] ^= 1
    assert len(sealed_blocks(bytes(data))) == len(blocks) - 1
    seal(data, blocks[-1])
    assert len(sealed_blocks(bytes(data))) == len(blocks)
