"""Readers of other makers: where they run, and how what they find is held against what is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests import environments
from tests.acceptance.interop.exchange import Answer, plain
from tests.acceptance.interop.scenes import Scene, Values
from tests.environments import Environment

_FOLDER = Path(__file__).parent
_PATIENCE = 240


@dataclass(frozen=True)
class Reader:
    """One way to read a collection with nothing of ours.

    Attributes
    ----------
    name
        Short, for the names of tests.
    title, opens
        What it is, and what it opens, in the words of the table.
    script
        In this folder.
    environment
        Where the script runs.
    ways
        First parts of the names in its answers.
    options
        Added to its task.
    strict
        Whether any warning is an error.
    """

    name: str
    title: str
    opens: str
    script: str
    environment: Environment
    ways: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = True


_XARRAY = ("dataset", "tree", "decoded")
_ZARR = ("group", "array")
_ZCOLLECTION = ("lazy", "eager")
_GROUPS = "partitions with their groups, single arrays"

READERS = (
    Reader("xarray-old", "xarray", "partitions with their groups", "read_xarray.py", environments.ZARR_OLD, _XARRAY),
    Reader("xarray-new", "xarray", "partitions with their groups", "read_xarray.py", environments.ZARR_NEW, _XARRAY),
    Reader("zarr-old", "zarr-python", _GROUPS, "read_zarr.py", environments.ZARR_OLD, _ZARR),
    Reader("zarr-new", "zarr-python", _GROUPS, "read_zarr.py", environments.ZARR_NEW, _ZARR),
    Reader(
        "zarrs",
        "zarr-python with the codec pipeline of zarrs",
        _GROUPS,
        "read_zarr.py",
        environments.ZARRS,
        _ZARR,
        {"pipeline": "zarrs.ZarrsCodecPipeline"},
    ),
    Reader("tensorstore", "TensorStore", "single arrays", "read_tensorstore.py", environments.TENSORSTORE, ("array",)),
    Reader("gdal", "GDAL, in rasterio", "single arrays", "read_gdal.py", environments.GDAL, ("array",)),
    Reader(
        "zcollection-2024",
        "zcollection",
        "the whole collection",
        "read_zcollection.py",
        environments.ZCOLLECTION_2024,
        _ZCOLLECTION,
        strict=False,
    ),
    Reader(
        "zcollection-2026",
        "zcollection",
        "the whole collection",
        "read_zcollection.py",
        environments.ZCOLLECTION_2026,
        _ZCOLLECTION,
        strict=False,
    ),
)


def run(python: Path, script: str, task: Mapping[str, Any], folder: Path, *, strict: bool = False) -> Answer:
    """Run a script of this folder in another environment; raises `AssertionError` with what it says if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.json").write_text(json.dumps(task), "utf-8")
    command = [str(python), *(("-W", "error") if strict else ()), str(_FOLDER / script)]
    arguments = [str(folder / "task.json"), str(folder / "answer.npz")]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Answer.load(folder / "answer.npz")


def read(reader: Reader, python: Path, scene: Scene, folder: Path) -> Answer:
    """Let a reader read a scene."""
    return run(python, reader.script, {**scene.task(), **reader.options}, folder, strict=reader.strict)


def wanted(reader: Reader, scene: Scene) -> dict[str, Values]:
    """All that a reader must hand back, or refuse."""
    stored = scene.arrays()
    contents = {
        "dataset": scene.arrays(nested=False),
        "decoded": {"/".join(name): values for name, values in scene.decoded.items()},
        "lazy": scene.loads(),
        "eager": scene.loads(),
    }
    return {f"{way}/{name}": values for way in reader.ways for name, values in contents.get(way, stored).items()}


def differences(found: Mapping[str, Values], expected: Mapping[str, Values]) -> list[str]:
    """What is not as it must be, in words."""
    told = []
    for name, values in expected.items():
        if name not in found:
            told.append(f"{name} is missing")
        elif not same(found[name], values):
            told.append(f"{name} is {_plain(found[name])!r} instead of {_plain(values)!r}")
    return told


def same(found: Values, expected: Values) -> bool:
    """Tell whether two arrays have the same shape, type and values; times are the same however they are kept."""
    one, other = _plain(found), _plain(expected)
    if one.dtype.kind != other.dtype.kind or (one.dtype.kind != "U" and one.dtype != other.dtype):
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _plain(values: Values) -> Values:
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype(np.int64)
    text_or_numbers: Values = plain(values)
    return text_or_numbers


def kind(name: str, values: Values, scene: Scene) -> str:
    """What sort of array a reader may be unable to read, in the words of the table."""
    if values.dtype.kind in "OTU":
        return "text"
    if scene.format == 2 and name.endswith("/time"):
        return "times"
    return f"{values.dtype.name}" if values.shape[0] else "partitions without rows"
