"""What the number of rows in a chunk costs and gains: appends of one granule at a time, then one read of everything.

    python benchmarks/chunk_rows.py [granules]

Zarr encodes a partly filled chunk at its full size, for every variable, on every append, so small chunks make appends
cheap and reads dear. For each choice the same synthetic altimetry granules (about 20 variables and 3300 rows) go one by
one into one monthly partition on local files; columns are medians over the appends.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from daemon.demo.granules import Kind, make_granules
from zcollection_engine import DatePartitioning, create_collection, open_collection
from zcollection_engine.granules.infer import infer_schema
from zcollection_engine.granules.model import GranuleSpec
from zcollection_engine.granules.netcdf import read_netcdf
from zcollection_engine.identity import GranuleIdentity
from zcollection_engine.ingest import prepare
from zcollection_engine.stores.resolve import open_store
from zcollection_engine.testing.stores import CountingStore
from zcollection_engine.transaction import Offer

GOOD = (Kind.GOOD, Kind.MIDNIGHT)


def main(count: int) -> None:
    spec = GranuleSpec("/time", attributes={"cycle_number": "uint16", "pass_number": "uint16"})
    deliveries = sorted((g for g in make_granules() if g.kind in GOOD), key=lambda g: g.key)[:count]
    granules = [read_netcdf(g.data, spec, name=g.key) for g in deliveries]
    size = median(len(g.data) for g in deliveries)
    rows = round(median(g.rows for g in granules))
    decoded = granules[0].nbytes
    print(f"{len(granules)} granules of {rows} rows, {size / 1e3:.0f} kB as objects, {decoded / 1e3:.0f} kB decoded\n")
    print("| chunk rows | granules a chunk | append ms | written / object size | chunks in all | read all ms |")
    print("|---:|---:|---:|---:|---:|---:|")
    for exponent in range(9, 19):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), granules, chunk_rows=2**exponent, rows=rows, size=size))


def measure(folder: Path, granules: list, *, chunk_rows: int, rows: int, size: float) -> str:  # type: ignore[type-arg]
    store = CountingStore(open_store(str(folder)))
    collection = create_collection(
        store, infer_schema(granules[0], chunk_rows=chunk_rows), DatePartitioning("time", "month")
    )
    seconds, written = [], []
    for number, granule in enumerate(granules):
        entry, fitted = prepare(
            granule,
            collection.config,
            identity=GranuleIdentity("", granule.name, str(number), 1),
            url="",
            precedence=(number,),
            immutable={},
        )
        store.reset()
        start = time.perf_counter()
        collection.commit_offers([Offer(entry, fitted)])
        seconds.append(time.perf_counter() - start)
        written.append(store.bytes_sent)
    chunks = sum(1 for i in store.list() if i.key.startswith("year=") and not i.key.endswith(".json"))
    start = time.perf_counter()
    open_collection(str(folder)).load(decode=False).load()
    reading = time.perf_counter() - start
    return (
        f"| {chunk_rows} | {chunk_rows / rows:.2g} | {median(seconds) * 1e3:.0f} | {median(written) / size:.2f}"
        f" | {chunks} | {reading * 1e3:.0f} |"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
