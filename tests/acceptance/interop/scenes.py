"""Collections for foreign readers, and what each array in them holds: ours in each format, and zcollection's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from tests.acceptance.interop.exchange import Answer
from tests.engine_support import DAY, START, time_variable
from zcollection_engine import Collection, DatePartitioning, SequencePartitioning, WriterOptions, create_collection
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.granules.model import Granule, GranuleVariable
from zcollection_engine.partitioning import Partitioning
from zcollection_engine.schema import Dimension, Schema, Variable

Values = npt.NDArray[Any]

#: Collection, group below it, path below that.
Name = tuple[str, str, str]

BANDS = np.array([1.5, 2.5, 3.5])
CHUNK_ROWS = 4
IMMUTABLE = {2: ".immutable", 3: "_immutable"}
FORMATS = (3, 2)

#: Formats that the engine writes.


@dataclass(frozen=True)
class Scene:
    """Collections of one format.

    Attributes
    ----------
    format
        Of Zarr.
    roots
        Folder of each collection.
    partitions
        Of each collection, in numeric order, those without rows included.
    values
        What is stored in each array; times as int64 nanoseconds since 1970.
    decoded
        The same as CF decoding makes it, as far as it is of interest.
    filters
        By collection and name: an expression in the words of zcollection, and the partitions that it lets pass.
    """

    format: int
    roots: Mapping[str, Path]
    partitions: Mapping[str, Sequence[str]]
    values: Mapping[Name, Values]
    decoded: Mapping[Name, Values]
    filters: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]]

    def task(self) -> dict[str, Any]:
        """What readers are told."""
        collections = {
            name: {
                "root": str(root),
                "groups": sorted({group for found, group, _ in self.values if found == name}),
                "arrays": [f"{group}/{path}" for found, group, path in self.values if found == name],
                "filters": {label: text for label, (text, _) in self.filters.get(name, {}).items()},
            }
            for name, root in self.roots.items()
        }
        lines = ["/".join(name) for name, values in self.values.items() if values.ndim == 1]
        return {"format": self.format, "collections": collections, "lines": lines}

    def arrays(self, *, nested: bool = True) -> dict[str, Values]:
        """Stored values by array; those in nested groups can be left out."""
        return {"/".join(name): values for name, values in self.values.items() if nested or "/" not in name[2]}

    def loads(self) -> dict[str, Values]:
        """What zcollection loads: rows of several partitions, one behind the other, and the immutable variables."""
        found: dict[str, Values] = {}
        for name, partitions in self.partitions.items():
            chosen = {"whole": partitions}
            chosen |= {label: passed for label, (_, passed) in self.filters.get(name, {}).items()}
            chosen |= {path: [path] for path in partitions}
            chosen |= {f"expression/{path}": [path] for path in partitions if "pass=" not in path}
            for way, paths in chosen.items():
                found |= {f"{name}/{way}/{path}": values for path, values in self._joined(name, paths).items()}
        return found

    def _joined(self, name: str, partitions: Sequence[str]) -> dict[str, Values]:
        if not partitions:
            return {}
        rows = [path for found, group, path in self.values if (found, group) == (name, partitions[0])]
        joined = {path: np.concatenate([self.values[name, group, path] for group in partitions]) for path in rows}
        fixed = IMMUTABLE[self.format]
        return joined | {path: v for (found, group, path), v in self.values.items() if (found, group) == (name, fixed)}


def schema(zarr_format: int, *, text: bool = True) -> Schema:
    """Packed integers of one and two dimensions, a float, a flag, text, values without rows; groups where there may be.

    Zarr v2 is for readers that know no groups in a partition, so names are flat there.
    """
    join = "/" if zarr_format == 3 else "_"

    def rows(path: str, dtype: str, fill: float | None = None, **attributes: Any) -> Variable:
        return Variable(path.replace("/", join), dtype, ("time",), (CHUNK_ROWS,), fill, attributes)

    packed = {"scale_factor": 0.01, "add_offset": -10.0, "units": "m"}
    return Schema(
        "time",
        "time",
        (Dimension("time", None), Dimension("band", BANDS.size)),
        (
            time_variable(chunk_rows=CHUNK_ROWS),
            rows("height", "<i4", 2**31 - 1, scale_factor=0.001, units="m"),
            rows("wave", "<f4", float("nan"), units="m"),
            rows("flag", "|u1"),
            rows("cycle", "<i2"),
            rows("pass", "<i2"),
            Variable("profile", "<i2", ("time", "band"), (CHUNK_ROWS, 2), -(2**15), packed),
            rows("ku/range", "<i4", 2**31 - 1),
            *([rows("ku/label", "string")] if text else []),
            rows("ku/fine/sigma", "<f8"),
            Variable("band", "<f8", ("band",), (2,), attributes={"units": "Hz"}),
            provenance_variable("time", CHUNK_ROWS),
        ),
        {"title": "for foreign readers"},
        zarr_format,
    )


def rows(days: Sequence[int], seconds: Sequence[int], salt: int, zarr_format: int) -> xr.DataTree:
    """Rows for `schema`, so many seconds after the start of each day; ``salt`` goes into the values."""
    points = np.array([day * DAY // 10**9 + second for day in days for second in seconds])
    height = (points % 1000 + salt).astype("i4")
    height[points % 7 == 3] = 2**31 - 1
    wave = (points % 100 / 8 + salt).astype("f4")
    wave[points % 5 == 2] = np.nan
    profile = (points[:, None] % 50 * 10 + np.arange(BANDS.size) + salt).astype("i2")
    profile[points % 6 == 1, 1] = -(2**15)
    day = points * 10**9 // DAY
    columns = {
        "height": height,
        "wave": wave,
        "flag": (points % 3 + salt % 7).astype("u1"),
        "cycle": (day // 2 + 1).astype("i2"),
        "pass": (day % 2 * 9 + 1).astype("i2"),
        "ku/range": (height // 2).astype("i4"),
        "ku/label": np.array([f"rangée {p % 100} {'x' * (p % 4)}" for p in points], dtype=object),
        "ku/fine/sigma": np.sqrt(points % 1000 + salt),
    }
    columns |= {"profile": profile, "band": BANDS}
    groups: dict[str, dict[str, Any]] = {}
    known = schema(zarr_format)
    for path, values in columns.items():
        variable = known[path if zarr_format == 3 else path.replace("/", "_")]
        fill = {} if variable.fill_value is None else {"_FillValue": variable.fill_value}
        column = (variable.dimensions, values, {**variable.attributes, **fill})
        groups.setdefault(variable.group, {})[variable.name] = column
    groups[""]["time"] = ("time", (START + points * 10**9).astype("datetime64[ns]"))
    return xr.DataTree.from_dict({f"/{group}": xr.Dataset(variables) for group, variables in groups.items()})


def our_scene(folder: Path, zarr_format: int) -> Scene:
    """Collections by day and by cycle and pass, with every kind of life a partition can have had."""
    days = _create(folder / "days", DatePartitioning("time", "day"), schema(zarr_format))
    _live(days, zarr_format)
    empty = days.partitions()[-1].path
    days.drop_partitions([empty])
    # Released zcollection reads text but cannot write it, and it is to write into one of them.
    sequence = SequencePartitioning(("cycle", "pass"))
    passes = _create(folder / "passes", sequence, schema(zarr_format, text=zarr_format != 2))
    _live(passes, zarr_format)
    assert [p.generation for p in days.partitions()] == [0, 1, 2, 3]
    assert [p.path for p in passes.partitions()][-1] == "cycle=3/pass=1"
    collections = {"days": days, "passes": passes}
    partitions = {name: [p.path for p in c.partitions()] for name, c in collections.items()}
    partitions["days"].append(empty)
    return Scene(
        zarr_format,
        {name: folder / name for name in collections},
        partitions,
        {key: v for name, c in collections.items() for key, v in _arrays_of(name, c, partitions[name], zarr_format)},
        {key: v for name, c in collections.items() for key, v in _decoded(name, c)},
        {
            "days": {"late": ("year == 2023 and day in range(18, 20)", partitions["days"][2:4])},
            "passes": {"second": ("cycle == 2", partitions["passes"][2:4]), "none": ("cycle == 7", [])},
        },
    )


def _create(folder: Path, partitioning: Partitioning, chosen_schema: Schema) -> Collection:
    bands = Granule("bands", "time", "time", {"band": GranuleVariable(("band",), BANDS, {"units": "Hz"})})
    return create_collection(
        str(folder),
        chosen_schema,
        partitioning,
        immutable=bands,
        writer=WriterOptions(owner="interoperability"),
    )


def _live(collection: Collection, zarr_format: int) -> None:
    """Five days: all are appended to, then the second is rewritten once, the third twice, the fourth three times."""
    steps = [
        (range(5), range(9)),
        (range(5), range(20, 26)),
        ([1, 2, 3], [3, 4]),
        ([2, 3], [4, 5, 6]),
        ([3], range(2)),
        ([2, 3], range(40, 43)),
    ]
    for salt, (days, seconds) in enumerate(steps):
        collection.insert(rows(list(days), list(seconds), salt * 10, zarr_format), granule=f"granule {salt}")


def _arrays_of(
    name: str, collection: Collection, partitions: Sequence[str], zarr_format: int
) -> Iterator[tuple[Name, Values]]:
    full = {p.path for p in collection.partitions()}
    known = collection.schema
    for partition in partitions:
        found = stored(collection.load([partition], decode=False)) if partition in full else {}
        for variable in known.row_variables:
            shape = (0, *(known.sizes[d] or 0 for d in variable.dimensions[1:]))
            values = found.get(variable.path, np.empty(shape, variable.numpy_dtype))
            yield (name, partition, variable.path), values
    everything = stored(collection.load(decode=False))
    for variable in known.immutable_variables:
        yield (name, IMMUTABLE[zarr_format], variable.path), everything[variable.path]


def _decoded(name: str, collection: Collection) -> Iterator[tuple[Name, Values]]:
    paths = [v.path for v in collection.schema.row_variables]
    for partition in collection.partitions():
        for path, values in stored(collection.load([partition.path])).items():
            if path in paths:
                yield (name, partition.path, path), values


def stored(loaded: xr.Dataset | xr.DataTree) -> dict[str, Values]:
    """Values of all variables by path."""
    if isinstance(loaded, xr.Dataset):
        return {str(name): np.asarray(variable.values) for name, variable in loaded.variables.items()}
    return {
        f"{node.path}/{name}".strip("/"): np.asarray(variable.values)
        for node in loaded.subtree
        for name, variable in node.to_dataset(inherit=False).variables.items()
    }


def foreign_scene(folder: Path, written: Answer) -> Scene:
    """What ``write_zcollection.py`` wrote into a folder."""
    columns = {tuple(name.split("/")): values for name, values in written.values.items()}
    months = columns["date", "time"].astype("datetime64[M]").astype(int) % 12 + 1
    keys = {
        "date": [f"year={2023 if m == 12 else 2024}/month={m:02d}" for m in months],
        "sequence": [
            f"cycle={c}/pass={p}"
            for c, p in zip(columns["sequence", "cycle"], columns["sequence", "pass"], strict=True)
        ],
    }
    partitions = {name: list(dict.fromkeys(found)) for name, found in keys.items()}
    values = {
        (name, partition, path): column[np.array(keys[name]) == partition]
        for (name, path), column in columns.items()
        if path != "band"
        for partition in partitions[name]
    }
    fixed = {(name, IMMUTABLE[2], path): column for (name, path), column in columns.items() if path == "band"}
    filters = {
        "date": {"late": ("year == 2024", partitions["date"][1:])},
        "sequence": {"tenth": ("cycle == 10", partitions["sequence"][2:]), "none": ("cycle == 7", [])},
    }
    return Scene(2, {name: folder / name for name in keys}, partitions, values | fixed, {}, filters)
