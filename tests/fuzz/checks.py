"""One damaged file through the reader: it is refused with a typed error, or read as it is. Runs in a sandbox."""

from __future__ import annotations

import contextlib
import resource
from random import Random
from typing import NamedTuple

import netCDF4

from tests.fuzz.independent import compare
from tests.fuzz.mutations import MAX_FILE_NBYTES, damaged
from tests.fuzz.seeds import MAX_NBYTES, Seed, seeds
from zcollection_engine.errors import InvalidGranuleError
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.testing.sandbox import Limits

#: What the reader promises for `MAX_NBYTES`: twice that, besides the file (and the library's copy) and the library's
#: own needs, for which 64 MiB are allowed.
LIMITS = Limits(2 * MAX_NBYTES + 2 * MAX_FILE_NBYTES + (64 << 20), cpu_seconds=10.0, wall_seconds=120.0)

#: For the library alone, to see how much it takes where nothing holds it back.
ALONE = Limits(4 << 30, cpu_seconds=10.0, wall_seconds=120.0)

_TO_COMPARE_NBYTES = 1 << 28


class Case(NamedTuple):
    """A damaged file: of which seed, with which damages."""

    seed: Seed
    damages: tuple[str, ...]
    data: bytes


class Verdict(NamedTuple):
    """How a case ended well.

    Attributes
    ----------
    seed, damages
        What was read.
    end
        "equal", or "refused" with the error's code.
    """

    seed: str
    damages: tuple[str, ...]
    end: str


def case(seed: int, number: int) -> Case:
    """Return one of the cases of a seed; the same with the same netCDF library."""
    random = Random(f"{seed}:{number}")  # noqa: S311 - repeatable, no secret
    whole = random.choice(seeds())
    data, damages = damaged(whole.data, random.choice(seeds()).data, random)
    return Case(whole, damages, data)


def check(seed: int, number: int) -> Verdict:
    """Read a case; raises whatever is neither a typed refusal nor what the file holds."""
    whole, damages, data = case(seed, number)
    try:
        granule = read_netcdf(data, whole.spec, name="damaged.nc")
    except InvalidGranuleError as error:
        return Verdict(whole.name, damages, f"refused: {error.code}")
    raise_memory_limit()
    compare(granule, data, whole.spec)
    return Verdict(whole.name, damages, "equal")


def open_alone(seed: int, number: int) -> None:
    """Do nothing but open a case with the netCDF library."""
    with contextlib.suppress(Exception):
        netCDF4.Dataset("alone", memory=case(seed, number).data).close()


def raise_memory_limit() -> None:
    """Let this process take more memory than the case may: what is held against the granule counts extra."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (soft + _TO_COMPARE_NBYTES, hard))
