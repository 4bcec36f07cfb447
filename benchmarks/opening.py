"""What opening a large collection costs: requests, bytes, seconds, memory; and looking granules up in its ledger.

    python benchmarks/opening.py [PARTITIONS] [GRANULES_PER_PARTITION]

Builds a collection on local files whose log says that it has so many partitions and granules (10,000 and 100 by
default), with a checkpoint and some records behind it, and opens it in fresh processes. The partitions have no data:
opening reads none.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zcollection_engine import Collection, SequencePartitioning, create_collection, open_collection
from zcollection_engine.chunking import provenance_variable
from zcollection_engine.commits.checkpoints import Checkpoints
from zcollection_engine.commits.log import CommitLog
from zcollection_engine.commits.opening import load_state
from zcollection_engine.commits.records import Commit, PartitionChange
from zcollection_engine.identity import GranuleEntry, GranuleIdentity
from zcollection_engine.merging import Share
from zcollection_engine.schema import Dimension, Schema, Variable
from zcollection_engine.stores.posix import PosixStore
from zcollection_engine.testing.stores import CountingStore
from zcollection_engine.transaction import WriterOptions

ROUNDS = 5
PARTITIONS_A_COMMIT = 100
TAIL = 50


def entry(partition: int, number: int) -> GranuleEntry:
    key = f"S6A/2022/{partition:05d}/S6A_P4_2__LR_STD__NR_{partition:05d}_{number:03d}_F06.nc"
    identity = GranuleIdentity("products", key, f"{partition:016x}{number:016x}", 200_000 + number)
    first = (partition * 1000 + number) * 10**9
    return GranuleEntry(
        identity,
        f"s3://products/{key}",
        (1_640_995_200_000_000 + number,),
        {f"cycle={partition}": Share(3000, ((first, first + 10**9 - 1),))},
    )


def build(url: str, partitions: int, granules: int) -> None:
    """Write the log of a large collection: commits of many granules, each with a checkpoint behind it."""
    numbers = (Variable(name, "<i8", ("time",), (4096,)) for name in ("time", "cycle"))
    schema = Schema("time", "time", (Dimension("time", None),), (*numbers, provenance_variable("time", 4096)))
    create_collection(url, schema, SequencePartitioning(("cycle",)))
    store = PosixStore(url)
    log, checkpoints, state = CommitLog(store), Checkpoints(store), load_state(store)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for start in range(0, partitions, PARTITIONS_A_COMMIT):
        chosen = range(start, min(start + PARTITIONS_A_COMMIT, partitions))
        changes = {f"cycle={p}": PartitionChange(3000 * granules, 0, (p * 10**12, (p + 1) * 10**12)) for p in chosen}
        entries = tuple(entry(p, n) for p in chosen for n in range(granules))
        number = state.number + 1
        commit = Commit(f"{number:032x}", now, 0, changes, entries, published=number)
        log.append(number, commit)
        state.apply(number, commit)
        checkpoints.write(state)
    for number in range(state.number + 1, state.number + 1 + TAIL):
        log.append(number, Commit(f"{number:032x}", now, 0, {}, (entry(0, granules + number),), published=number))


def measure(url: str, mode: str, partitions: int, granules: int) -> dict[str, Any]:
    """Open the collection in this process, look granules up, and tell what it took."""
    store = CountingStore(PosixStore(url))
    before = resident_mb()
    started = time.perf_counter()
    collection = open_collection(store, mode=mode, writer=WriterOptions(owner="benchmark"))  # type: ignore[arg-type]
    opened = time.perf_counter() - started
    requests, received = sum(store.requests.values()), store.bytes_received
    if len(collection.partitions()) != partitions or len(collection.state.ledger) < partitions * granules:
        raise SystemExit("the collection is not what was built")
    memory = resident_mb()
    return {
        "open_s": opened,
        "requests": requests,
        "received_mb": received / 1e6,
        "rss_before_mb": before,
        "rss_mb": memory,
        **look_up(collection, store, partitions, granules),
    }


def look_up(collection: Collection, store: CountingStore, partitions: int, granules: int) -> dict[str, Any]:
    """The first lookup reads the index; the others a table each."""
    ledger = collection.state.ledger
    known = entry(partitions // 2, granules // 2)
    store.reset()
    started = time.perf_counter()
    if known.id not in ledger:
        raise SystemExit("a granule is missing")
    first = time.perf_counter() - started
    started = time.perf_counter()
    if ledger.latest("products", known.identity.key) != known:
        raise SystemExit("a granule differs")
    latest = time.perf_counter() - started
    started = time.perf_counter()
    for number in range(10_000):
        _ = number in ledger
    each = (time.perf_counter() - started) / 10_000
    return {
        "first_lookup_s": first,
        "latest_s": latest,
        "known_us": each * 1e6,
        "lookup_requests": sum(store.requests.values()),
        "rss_after_mb": resident_mb(),
    }


def resident_mb() -> float:
    """Memory of this process now; its maximum would be the parent's."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    if len(sys.argv) == 6 and sys.argv[1] == "measure":
        url, mode = sys.argv[2], sys.argv[3]
        print(json.dumps(measure(url, mode, int(sys.argv[4]), int(sys.argv[5]))))
        return
    partitions, granules = (int(a) for a in (sys.argv[1:] + ["10000", "100"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "large")
        started = time.perf_counter()
        build(url, partitions, granules)
        took = time.perf_counter() - started
        print(f"{partitions:,} partitions, {partitions * granules:,} granules, built in {took:.0f} s")
        for mode in ("r", "w"):
            command = [sys.executable, __file__, "measure", url, mode, str(partitions), str(granules)]
            runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(ROUNDS)]
            print(f'\nmode="{mode}", median of {ROUNDS} processes')
            for name in runs[0]:
                print(f"  {name:<18}{statistics.median(run[name] for run in runs):10.2f}")


if __name__ == "__main__":
    main()
