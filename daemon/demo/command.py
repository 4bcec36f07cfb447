"""``zcollectiond demo``: from granules in a bucket to a collection that plain xarray opens, in under a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from rich.console import Console

from daemon import app, logs
from daemon.demo import report
from daemon.demo.delivery import BACKLOG, Deliverer
from daemon.demo.folder import COLLECTION_PREFIX, COLLECTION_URL, DemoFolder
from daemon.demo.granules import PREFIX, DemoGranule, Kind, make_deliveries
from daemon.demo.progress import Watcher, display
from daemon.demo.results import Results
from daemon.demo.server import EmbeddedAws, check_installed, embedded_aws
from daemon.rendering import make_console, seconds
from daemon.settings import load_settings
from zcollection_engine.collection import Collection, open_collection

#: Requests under way when the collection is copied.
_COPIES = 4

_UNEXPECTED = 1


def demo(folder: Path = Path("demo"), *, console: Console | None = None) -> int:
    """Run the demonstration in a folder, which is replaced if it is a former demonstration's.

    Returns
    -------
    int
        Exit code: 0 if all came out as it had to, 1 if not (the report ends with what did not).

    Raises
    ------
    DemoUnavailableError
        If moto or matplotlib is not installed.
    FolderInUseError
        If the folder holds something else.
    """
    console = console or make_console()
    check_installed()
    place = DemoFolder(folder)
    place.prepare()
    began = time.monotonic()
    console.print(
        "zcollectiond demo: granules land in an object store, one collection of Zarr stays current\n", style="bold"
    )
    deliveries = make_deliveries()
    report.announce(console, deliveries, time.monotonic() - began)
    place.write_granules(deliveries)
    with _log_to(place.log), embedded_aws(PREFIX) as aws:
        results = _ingest(console, place, aws, deliveries)
        partition = results.partitions[len(results.partitions) // 2].path
        proof = report.prove(f"{COLLECTION_URL}/{partition}", aws.endpoint_url)
    from daemon.demo import plot

    plot.draw(place.plot, _rows(open_collection(str(place.collection))), results)
    surprises = results.surprises()
    report.summarise(console, results)
    report.show_proof(console, proof)
    report.show_rest(console, place, partition, surprises)
    console.print(f"\nDone in {seconds(time.monotonic() - began)}.", style="bold")
    return _UNEXPECTED if surprises else 0


def _ingest(console: Console, place: DemoFolder, aws: EmbeddedAws, deliveries: Sequence[DemoGranule]) -> Results:
    """Run the daemon until every delivery is settled; copies the collection out of the bucket."""
    place.write_settings(endpoint_url=aws.endpoint_url, queue_url=aws.queue_url)
    settings = load_settings(place.settings, environ={})
    deliverer = Deliverer(aws, deliveries)
    total = sum(granule.kind is not Kind.REPEATED for granule in deliveries)
    console.print(
        f"\nS3 and SQS listen on {aws.endpoint_url}. {BACKLOG} deliveries wait there before the daemon starts, the"
        " others come while it runs.",
        soft_wrap=True,
    )
    with display(console, total) as show:
        watcher = Watcher(show, deliverer.settled)
        deliverer.start()
        try:
            asyncio.run(app.run(settings, until_idle=True, observer=watcher))
        finally:
            deliverer.finish()
    objects = _copy(aws, place)
    collection = open_collection(COLLECTION_URL, storage=app.storage_options(settings))
    return Results(
        len(deliveries), tuple(deliverer.delivered), BACKLOG, watcher.entries, collection.partitions(), objects
    )


def _copy(aws: EmbeddedAws, place: DemoFolder) -> dict[str, int]:
    """Copy the collection into the folder; returns the objects' sizes by key relative to its root."""
    root = f"{COLLECTION_PREFIX}/"
    sizes = {key.removeprefix(root): size for key, size in aws.list(root).items()}
    with ThreadPoolExecutor(_COPIES) as pool:
        contents = pool.map(lambda key: aws.get(root + key), sizes)
        place.write_collection(zip(sizes, contents, strict=True))
    return sizes


def _rows(collection: Collection) -> xr.Dataset:
    loaded = collection.load(variables=["longitude", "latitude", "ssha"])
    return loaded.to_dataset() if isinstance(loaded, xr.DataTree) else loaded


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send log lines to a file as JSON while the context lasts, then to standard error again."""
    with path.open("w", encoding="utf-8") as stream:
        logs.configure("json", "info", stream)
        try:
            yield
        finally:
            logs.configure()
