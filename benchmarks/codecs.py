"""What each chain of codecs costs and gains, by kind of variable.

    python benchmarks/codecs.py [folder with granules]

Chunks of 32768 rows, the last one of each variable filled up as Zarr does it, are encoded and decoded by the codecs
that Zarr uses; times are CPU seconds of one thread, the best of three. The granules are real ones where their folder is
there, and synthetic altimetry where it is not. The kinds marked with a star are made here and are not in the total.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numcodecs
import numpy as np
import numpy.typing as npt

from daemon.demo.granules import Kind, make_granules
from zcollection_engine.codecs import Wanted, parse_codecs, v2_codecs
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import Granule, GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.schema import PROVENANCE, TEXT, Variable

FOLDER = Path(__file__).parents[1] / ".." / "shared" / "granules"
SPECS = {
    "sentinel6": GranuleSpec("/data_01/time"),
    "sentinel3-wave": GranuleSpec("/time"),
    "gsfc-ssh": GranuleSpec("/time"),
}
ROWS = 32_768
REPEATS = 3
TOTAL = "total"


def _blosc(cname: str, clevel: int, shuffle: str) -> Wanted:
    return [{"name": "blosc", "configuration": {"cname": cname, "clevel": clevel, "shuffle": shuffle}}]


def _zstd(level: int) -> Wanted:
    return [{"name": "zstd", "configuration": {"level": level}}]


CHAINS: Mapping[str, Wanted] = {
    "zstd 3": _zstd(3),
    "zstd 1": _zstd(1),
    "zstd 9": _zstd(9),
    "zstd-2 shuffle": _blosc("zstd", 2, "shuffle"),
    "zstd-3 shuffle": _blosc("zstd", 3, "shuffle"),
    "zstd-5 shuffle": _blosc("zstd", 5, "shuffle"),
    "zstd-3 bitshuffle": _blosc("zstd", 3, "bitshuffle"),
    "lz4-5 shuffle": _blosc("lz4", 5, "shuffle"),
}
PROFILES: Mapping[str, Wanted] = {name: name for name in ("zstd", "default", "blosc", "fast", "small")}


class Cost(NamedTuple):
    """Bytes encoded; seconds to encode and to decode; bytes decoded."""

    size: float = 0
    encode: float = 0
    decode: float = 0
    raw: float = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def relative_to(self, other: Cost) -> str:
        return f"{self.size / other.size:.2f} ({self.encode / other.encode:.1f}, {self.decode / other.decode:.1f})"


def main(folder: Path) -> None:
    numcodecs.blosc.use_threads = False
    columns = [*real(folder), *made()] if folder.is_dir() else [*synthetic(), *made()]
    print("relative to zstd 3: size (CPU seconds to encode, to decode); those that shuffle are blosc, with its level\n")
    for chains in (CHAINS, PROFILES):
        table(columns, chains)
        print()


def real(folder: Path) -> Iterator[tuple[str, Variable, npt.NDArray[Any]]]:
    for name, spec in SPECS.items():
        granules = [
            read_netcdf(path.read_bytes(), spec, name=path.name) for path in sorted((folder / name).glob("*.nc"))
        ]
        yield from columns_of(granules)


def synthetic() -> Iterator[tuple[str, Variable, npt.NDArray[Any]]]:
    good = sorted((g for g in make_granules() if g.kind is Kind.GOOD), key=lambda g: g.key)[:24]
    yield from columns_of([read_netcdf(g.data, GranuleSpec("/time"), name=g.key) for g in good])


def columns_of(granules: list[Granule]) -> Iterator[tuple[str, Variable, npt.NDArray[Any]]]:
    """Yield kind, variable and values of all granules, one behind the other."""
    for variable in infer_schema(granules[0]).row_variables:
        if variable.path == PROVENANCE:
            parts = [np.full(g.rows, identifier(g.name)) for g in granules]
        else:
            parts = [g.variables[variable.path].values for g in granules]
        yield kind_of(variable, granules[0].axis), variable, np.concatenate(parts)


def identifier(name: str) -> np.uint64:
    return np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], "<u8")[0]


def kind_of(variable: Variable, axis: str) -> str:
    if variable.path == PROVENANCE:
        return "granule (uint64)"
    if variable.path == axis:
        return f"time axis ({variable.numpy_dtype})"
    packed = "packed " if "scale_factor" in variable.attributes and variable.numpy_dtype.kind != "f" else ""
    return f"{packed}{variable.dtype if variable.is_text else variable.numpy_dtype}"


def made() -> Iterator[tuple[str, Variable, npt.NDArray[Any]]]:
    """Kinds that the granules do not have."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, ROWS).astype("<f4")
    yield "noise (float32) *", Variable("noise", "<f4", ("time",), (ROWS,)), noise
    words = np.array(
        [f"pass {number // 300:04d} {'ascending' if number % 2 else 'descending'}" for number in range(ROWS)]
    )
    yield "text *", Variable("text", TEXT, ("time",), (ROWS,), ""), words.astype(object)


def chunks(variable: Variable, values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    fill = variable.fill_value if variable.fill_value is not None else {"O": "", "f": np.nan}.get(values.dtype.kind, 0)
    for start in range(0, len(values), ROWS):
        chunk = np.full((ROWS, *values.shape[1:]), fill, values.dtype)
        part = values[start : start + ROWS]
        chunk[: len(part)] = part
        yield chunk


def cost(variable: Variable, chunk: npt.NDArray[Any], wanted: Wanted) -> Cost:
    coded = Variable(
        variable.path, variable.dtype, variable.dimensions, variable.chunks, codecs=parse_codecs(wanted, variable)
    )
    filters, compressor = v2_codecs(coded)
    chain = [numcodecs.get_codec(dict(config)) for config in (*(filters or ()), compressor)]
    encode, decode = [], []
    for _ in range(REPEATS):
        start = time.thread_time()
        data: Any = chunk
        for codec in chain:
            data = codec.encode(data)
        encode.append(time.thread_time() - start)
        start = time.thread_time()
        back: Any = data
        for codec in reversed(chain):
            back = codec.decode(back)
        decode.append(time.thread_time() - start)
    raw = sum(map(len, chunk)) if variable.is_text else chunk.nbytes
    return Cost(len(data), min(encode), min(decode), raw)


def table(columns: list[tuple[str, Variable, npt.NDArray[Any]]], chains: Mapping[str, Wanted]) -> None:
    totals: dict[str, dict[str, Cost]] = defaultdict(lambda: defaultdict(Cost))
    for kind, found in groupby(sorted(columns, key=lambda c: c[0]), key=lambda c: c[0]):
        for _, variable, values in found:
            for chunk in chunks(variable, values):
                for name, wanted in chains.items():
                    spent = cost(variable, chunk, wanted)
                    for row in (kind,) if kind.endswith("*") else (kind, TOTAL):
                        totals[row][name] = totals[row][name].plus(spent)
    print(f"| kind | raw kB | zstd 3 kB | {' | '.join(list(chains)[1:])} |")
    print(f"|---|---:|---:|{'---:|' * (len(chains) - 1)}")
    for row in sorted(totals, key=lambda kind: (kind.endswith("*"), kind == TOTAL, kind)):
        base, *others = totals[row].values()
        cells = " | ".join(other.relative_to(base) for other in others)
        print(f"| {row} | {base.raw / 1e3:.0f} | {base.size / 1e3:.1f} | {cells} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
