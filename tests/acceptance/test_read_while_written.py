"""Plain xarray and zarr in other processes read as fast as they can while a writer appends and rewrites.

``READ_SECONDS`` is how long; 10 by default. The count of reads is printed (``pytest -s`` shows it).
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.daemon_support import PATIENCE
from tests.engine_checks import check_collection
from tests.engine_processes import Actor, Crew, Order, Place, succeeded
from tests.engine_support import START, Rows
from tests.passes import PER_VERSION, Pass, overlaid, partition_of
from tests.reader_processes import OTHERS, OURS, Reader, digest, reading
from zcollection_engine import open_collection

SECONDS = float(os.environ.get("READ_SECONDS", "10"))

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(SECONDS + 180)]

DAY = partition_of(0)

#: As a user would set it: a read that takes longer may meet anything.
GRACE = 2.0

#: Rows of a pass at the end, of one that comes late, and of a chunk.
ROWS, LATE_ROWS, CHUNK_ROWS = 12, 6, 256

#: Commits within which every key space is used twice.
LEAST = 25

#: Every so many passes one is late, into rows that are there already; heights of later ones do not fit an int32.
CYCLE, MOST = 5, 2000


def deliveries() -> Iterator[Pass]:
    """Passes at the end of the day, and now and then one that is newer than what it lies between."""
    for number in range(MOST):
        if number % CYCLE == CYCLE - 1:
            yield Pass(f"{number}", (number // 2) * ROWS + 3, LATE_ROWS, version=number, step=2)
        else:
            yield Pass(f"{number}", number * ROWS, ROWS, version=number)


@dataclass(frozen=True)
class Scene:
    """Who reads and writes where."""

    place: Place
    folder: Path
    plain_python: Path

    def read(self, name: str) -> Any:
        """Read in one way for as long as a context lasts."""
        partition, folder = f"{self.place.url}/{DAY}", self.folder / name
        if self.place.is_posix:
            return reading(self.plain_python, partition, folder, kinds=[name], foreign=(*OURS, *OTHERS))
        storage = {"endpoint_url": self.place.endpoint_url}
        return reading(Path(sys.executable), partition, folder, kinds=[name], storage=storage, foreign=OURS)


def states(passes: list[Pass], ids: dict[str, int]) -> list[tuple[dict[str, str], int]]:
    """Return the digests of all variables after each commit, and the rows."""
    rows: Rows = []
    found = []
    for each in passes:
        rows = overlaid(rows, each.version, each.seconds)
        seconds, heights = np.array(rows, np.int64).T
        origins = np.array([ids[f"{number}"] for number in heights // PER_VERSION], np.uint64)
        values = {"time": START + seconds * 10**9, "height": heights.astype(np.int32), "granule": origins}
        found.append(({name: digest(column) for name, column in values.items()}, len(rows)))
    return found


def check_reads(reader: Reader, commits: list[tuple[dict[str, str], int]]) -> Counter[str]:
    """See that each read shows just one commit, none older than the one before; count them."""
    numbers = {tuple(sorted(digests.items())): number for number, (digests, _) in enumerate(commits)}
    counts: Counter[str] = Counter()
    met = [0]
    for line in reader.lines():
        if line["seconds"] > GRACE:
            counts["late"] += 1
            continue
        number = numbers.get(tuple(sorted(line["digests"].items())))
        assert number is not None, f"a read shows the content of no commit: {line}"
        assert commits[number][1] == line["rows"]
        assert number >= met[-1], "a read shows an older commit than the one before"
        met.append(number)
        counts["right"] += 1
    counts["commits met"] = len(set(met))
    return counts


def write(actor: Actor, scene: Scene) -> tuple[list[Pass], dict[str, Reader]]:
    """Write for `SECONDS` while others read; return what went in, and the readers."""
    plan = {each.name: each for each in deliveries()}
    first, *rest = plan.values()
    actor.do(Order(scene.place, "writer", [first], create=True, single_writer=True, chunk_rows=CHUNK_ROWS))
    with ExitStack() as stack:
        readers = {name: stack.enter_context(scene.read(name)) for name in ("zarr", "group")}
        for reader in readers.values():
            reader.until_it_read()
        order = Order(scene.place, "writer", rest, reader_grace=GRACE, seconds=SECONDS, at_least=LEAST)
        actor.give(order)
        answers = succeeded(actor.finish(SECONDS + PATIENCE))
    return [first, *(plan[answer["what"]] for answer in answers if answer["what"] in plan)], readers


def test_every_read_meets_the_content_of_one_commit(
    crew: Crew, place: Place, tmp_path: Path, plain_python: Path, record_property: Any
) -> None:
    with crew.hire() as actor:
        passes, readers = write(actor, Scene(place, tmp_path, plain_python))
    collection = open_collection(place.url, storage=place.options)
    commits = states(passes, {entry.identity.key: entry.id for entry in collection.granules()})
    (partition,) = collection.partitions()
    assert partition.generation > 3, "no key space was used twice"
    for name, reader in readers.items():
        counts = check_reads(reader, commits)
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        sys.stdout.write(
            f"\n{name}: {told}; {len(passes)} commits, {partition.generation} of them rewrites, in {SECONDS:g} s\n"
        )
        record_property(f"reads by {name}", counts["right"])
        assert counts["right"] > counts["late"]
        assert counts["commits met"] > 5
    check_collection(place, passes)
