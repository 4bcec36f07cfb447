"""Writes the golden collections of this version, which every later one opens.

    python -m tests.golden.make     # before a release, and while its format still changes

Below ``tests/golden/<version>`` there is an archive for each history and format, which keeps the files' times, and
beside it a file ``.npz`` with the rows that the collection must have. Those are put together here from the granules,
not read back from the collection. The folders of other versions are never touched.
"""

from __future__ import annotations

import itertools
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.acceptance.interop.exchange import plain
from tests.acceptance.interop.readers import differences
from tests.acceptance.interop.scenes import BANDS, FORMATS, Values, rows, schema, stored
from tests.daemon_support import PROJECT
from tests.engine_support import FakeClock
from zcollection_engine import Collection, DatePartitioning, SequencePartitioning, WriterOptions, create_collection
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.partitioning import Partitioning

FOLDER = Path(__file__).parent

#: Seconds of a day, and what goes into the values of the rows there.
Rows = Sequence[tuple[Sequence[int], int]]


@dataclass(frozen=True)
class History:
    """What happens to a collection, and which rows are left then.

    Attributes
    ----------
    partitioning
        Of the collection.
    live
        Does everything; the insert of so many seconds of some days, with a salt, is given.
    left
        Number of the day behind each partition, and its rows in the order of time.
    """

    partitioning: Partitioning
    live: Callable[[Collection, Callable[[Sequence[int], Sequence[int], int], None]], None]
    left: Mapping[str, tuple[int, Rows]]


def live_by_day(collection: Collection, insert: Callable[[Sequence[int], Sequence[int], int], None]) -> None:
    """Append to one day, rewrite another, drop the third; roll a bad granule back; go on behind a checkpoint."""
    insert([0, 1, 2], range(6), 0)
    insert([0], [8, 9], 10)
    insert([1], [2, 3], 20)
    collection.drop_partitions(["year=2023/month=12/day=18"])
    if collection.schema.zarr_format == 3:  # Zarr v2 keeps no rows of the first generation behind a rewrite
        good = collection.commit
        insert([0, 1], [0, 1], 30)
        collection.rollback(good)
    collection.checkpoint()
    insert([1], [12, 13], 40)


def live_by_pass(collection: Collection, insert: Callable[[Sequence[int], Sequence[int], int], None]) -> None:
    """Append to one pass, rewrite another twice and append to it; no checkpoint."""
    insert([0, 1, 2], range(6), 0)
    insert([1], [8, 9], 10)
    insert([2], [2, 3], 20)
    insert([2], [3, 4], 30)
    insert([2], [8, 9], 40)


HISTORIES = {
    "date": History(
        DatePartitioning("time", "day"),
        live_by_day,
        {
            "year=2023/month=12/day=16": (0, [(range(6), 0), ([8, 9], 10)]),
            "year=2023/month=12/day=17": (1, [([0, 1], 0), ([2, 3], 20), ([4, 5], 0), ([12, 13], 40)]),
        },
    ),
    "sequence": History(
        SequencePartitioning(("cycle", "pass")),
        live_by_pass,
        {
            "cycle=1/pass=1": (0, [(range(6), 0)]),
            "cycle=1/pass=10": (1, [(range(6), 0), ([8, 9], 10)]),
            "cycle=2/pass=1": (2, [([0, 1], 0), ([2], 20), ([3, 4], 30), ([5], 0), ([8, 9], 40)]),
        },
    ),
}


def this_version() -> str:
    """The version of the project, which names the folder."""
    project: str = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return project


def make(folder: Path, history: History, zarr_format: int) -> Collection:
    """Write one collection."""
    bands = Granule("bands", "time", "time", {"band": GranuleVariable(("band",), BANDS, {"units": "Hz"})})
    collection = create_collection(
        str(folder),
        schema(zarr_format),
        history.partitioning,
        immutable=bands,
        writer=WriterOptions(owner="golden"),
        clock=FakeClock(),
    )

    def insert(days: Sequence[int], seconds: Sequence[int], salt: int) -> None:
        collection.insert(rows(days, seconds, salt, zarr_format), granule=f"granule {salt}")

    history.live(collection, insert)
    shutil.rmtree(folder / ".zcommits" / "locks")
    return collection


def pack(folder: Path, archive: Path) -> None:
    """Put a collection into an archive; nothing of its maker comes along."""

    def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, ".", filter=nobodys)


def unpack(archive: Path, folder: Path) -> None:
    """Take it out again."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def expected(history: History, zarr_format: int) -> dict[str, Values]:
    """What each partition must hold, by its path and that of the variable; all but ``granule``."""
    found = {}
    for partition, (day, parts) in history.left.items():
        pieces = [stored(rows([day], seconds, salt, zarr_format)) for seconds, salt in parts]
        for variable in schema(zarr_format).row_variables:
            if variable.path in pieces[0]:
                found[f"{partition}/{variable.path}"] = np.concatenate([piece[variable.path] for piece in pieces])
    return found | {"band": BANDS}


def found_in(collection: Collection) -> dict[str, Values]:
    """The same as a collection has it."""
    fixed = [v.path for v in collection.schema.immutable_variables]
    values = {path: stored(collection.load(decode=False))[path] for path in fixed}
    for partition in collection.partitions():
        for path, column in stored(collection.load([partition.path], decode=False)).items():
            if path not in (*fixed, "granule"):
                values[f"{partition.path}/{path}"] = column
    return values


def main() -> None:
    """Write all golden collections of this version."""
    folder = FOLDER / this_version()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for (name, history), zarr_format in itertools.product(HISTORIES.items(), FORMATS):
        label, rows_left = f"{name}-v{zarr_format}", expected(history, zarr_format)
        with tempfile.TemporaryDirectory() as place:
            collection = make(Path(place) / label, history, zarr_format)
            if wrong := differences(found_in(collection), rows_left):
                raise AssertionError("\n".join(wrong))
            pack(Path(place) / label, folder / f"{label}.tar.gz")
        np.savez_compressed(folder / f"{label}.npz", **{path: plain(v) for path, v in rows_left.items()})


if __name__ == "__main__":
    main()
