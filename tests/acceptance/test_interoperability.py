"""Readers and writers of other makers, in environments of their own, on our collections; and we on what they wrote."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.interop import table
from tests.acceptance.interop.exchange import Answer
from tests.acceptance.interop.readers import READERS, Reader, differences, read, run, wanted
from tests.acceptance.interop.scenes import FORMATS, IMMUTABLE, Scene, Values, foreign_scene, stored
from tests.acceptance.interop.table import Results
from tests.daemon_support import PROJECT
from tests.environments import ZCOLLECTION_2024, ZCOLLECTION_2026, Environment, EnvironmentMissingError
from zcollection_engine import open_collection

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

Pythons = Callable[[Environment], Path]

DOCUMENTATION = PROJECT / "README.md"
HOUR = np.timedelta64(1, "h")

ZCOLLECTIONS = pytest.mark.parametrize(
    "released", [ZCOLLECTION_2024, ZCOLLECTION_2026], ids=lambda environment: environment.name
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("interoperability"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, python_for: Pythons) -> Scene:
    """What both releases of zcollection wrote, with a commit log of ours beside it."""
    scenes = {}
    for released in (ZCOLLECTION_2024, ZCOLLECTION_2026):
        folder = tmp_path_factory.mktemp(released.name)
        written = run(python_for(released), "write_zcollection.py", {"folder": str(folder)}, folder)
        scenes[released.name] = foreign_scene(folder, written)
    scene = joined(scenes)
    for root in scene.roots.values():
        record = root / ".zcommits" / f"{0:020d}.json"
        record.parent.mkdir()
        record.write_text("{}")
    return scene


def joined(scenes: dict[str, Scene]) -> Scene:
    """One scene of several; the collections get the names of theirs in front."""
    first, *_ = scenes.values()
    return replace(
        first,
        roots={f"{s}-{name}": root for s, scene in scenes.items() for name, root in scene.roots.items()},
        partitions={f"{s}-{name}": found for s, scene in scenes.items() for name, found in scene.partitions.items()},
        values={(f"{s}-{n}", *rest): v for s, scene in scenes.items() for (n, *rest), v in scene.values.items()},
        filters={f"{s}-{name}": found for s, scene in scenes.items() for name, found in scene.filters.items()},
    )


def found_by(reader: Reader, results: Results, zarr_format: int) -> Answer:
    try:
        return results.answer(reader, zarr_format)
    except EnvironmentMissingError as error:
        pytest.skip(str(error))


def check(reader: Reader, answer: Answer, scene: Scene) -> None:
    """See that a reader found everything as it is, but for what it says it cannot read."""
    expected = wanted(reader, scene)
    assert answer.refused.keys() <= expected.keys()
    # Our own load decodes no partition without rows.
    assert {name.partition("/")[0] for name in answer.values.keys() - expected.keys()} <= {"decoded"}
    assert differences(answer.values, {n: v for n, v in expected.items() if n not in answer.refused}) == []
    assert len(answer.values) > len(expected) / 2, answer.refused
    if "pipeline" in reader.options:
        assert answer.facts["pipelines"] == [reader.options["pipeline"].rpartition(".")[2]]
    for name, partitions in answer.facts.get("partitions", {}).items():
        assert partitions == scene.partitions[name]


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_finds_what_our_own_load_finds(reader: Reader, zarr_format: int, results: Results) -> None:
    answer = found_by(reader, results, zarr_format)
    if reader.script == "read_zcollection.py" and zarr_format == 3:
        assert "collection not found" in answer.facts["error"]
    else:
        check(reader, answer, results.scene(zarr_format))


def test_the_documented_table_is_what_readers_really_read(results: Results) -> None:
    lines = DOCUMENTATION.read_text("utf-8").splitlines()
    documented = list(itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(table.head()[0]) :]))
    assert documented[:2] == table.head()
    assert len(documented) == 2 + len(READERS)
    for reader, line in zip(READERS, documented[2:], strict=True):
        try:
            assert line == table.row(reader, results)
        except EnvironmentMissingError as error:
            pytest.skip(f"the other rows are right, but {error}")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_finds_in_a_tree_of_zcollection_what_was_written(
    reader: Reader, foreign: Scene, python_for: Pythons, tmp_path: Path
) -> None:
    """The readers' scripts can read Zarr v2, and a folder ``.zcommits`` disturbs none of them."""
    check(reader, read(reader, python_for(reader.environment), foreign, tmp_path), foreign)


@dataclass(frozen=True)
class Insertion:
    """A tree that a released zcollection inserted into, and all rows that it has then, in the order of their times."""

    root: Path
    rows: dict[str, Values]
    found: Answer


def inserted(released: Environment, python: Path, scene: Scene, name: str, folder: Path) -> Insertion:
    """Insert into a copy: a later partition, and three rows in place of three of the first partition.

    The rows are those of the first partition, of a later time and cycle or with other numbers.
    """
    root = shutil.copytree(scene.roots[name], folder / "copy")
    first, *_ = (p for p in scene.partitions[name] if len(scene.values[name, p, "time"]))
    all_rows = {path: v for (n, g, path), v in scene.values.items() if (n, g) == (name, first)}
    whole = {path: scene.loads()[f"{name}/whole/{path}"] for path in all_rows}
    whole |= {"time": whole["time"].astype("datetime64[ns]")}
    fixed = {path: v for (n, g, path), v in scene.values.items() if (n, g) == (name, IMMUTABLE[2])}
    times = all_rows["time"].astype("datetime64[ns]")
    later = all_rows | {"time": times + 24 * 400 * HOUR}
    later |= {path: v + v.dtype.type(100) for path, v in all_rows.items() if path == "cycle"}
    again = {path: v[1:4] for path, v in all_rows.items()} | {"time": times[1:4], "height": all_rows["height"][1:4] + 7}
    steps = []
    for label, rows, merge in (("later", later, False), ("again", again, True)):
        path = folder / f"{label}.npz"
        np.savez(path, **{n: v.astype(str) if v.dtype.kind in "OT" else v for n, v in {**rows, **fixed}.items()})
        steps.append({"rows": str(path), "merge": merge})
    found = run(python, "insert_zcollection.py", {"root": str(root), "steps": steps}, folder)
    changed = whole | {"height": np.concatenate([whole["height"][:1], again["height"], whole["height"][4:]])}
    return Insertion(root, {p: np.concatenate([changed[p], later[p]]) for p in whole} | fixed, found)


@ZCOLLECTIONS
def test_zcollection_inserts_into_a_copy_of_its_own_tree(
    released: Environment, foreign: Scene, python_for: Pythons, tmp_path: Path
) -> None:
    insertion = inserted(released, python_for(released), foreign, f"{released.name}-date", tmp_path)
    assert differences(insertion.found.values, insertion.rows) == []


@ZCOLLECTIONS
def test_zcollection_inserts_into_a_copy_of_ours(
    released: Environment, results: Results, python_for: Pythons, tmp_path: Path
) -> None:
    insertion = inserted(released, python_for(released), results.scene(2), "passes", tmp_path)
    assert differences(insertion.found.values, insertion.rows) == []


@pytest.mark.parametrize("into", ["nothing", "date"])
@ZCOLLECTIONS
def test_we_take_over_what_zcollection_wrote(
    released: Environment, into: str, foreign: Scene, python_for: Pythons, tmp_path: Path
) -> None:
    """As it was created, and after a merge into it."""
    if into == "date":
        insertion = inserted(released, python_for(released), foreign, f"{released.name}-date", tmp_path)
        trees = {insertion.root: insertion.rows}
    else:
        names = [name for name in foreign.roots if name.startswith(released.name)]
        trees = {shutil.copytree(foreign.roots[n], tmp_path / n): whole(foreign, n) for n in names}
    for root, expected in trees.items():
        shutil.rmtree(root / ".zcommits")
        command = [sys.executable, "-m", "daemon", "import", str(root)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = stored(open_collection(str(root)).load(decode=False))
        assert differences(found, expected) == []


def whole(scene: Scene, name: str) -> dict[str, Values]:
    prefix = f"{name}/whole/"
    return {label.removeprefix(prefix): v for label, v in scene.loads().items() if label.startswith(prefix)}
