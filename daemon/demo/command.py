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
from daemon.demo.delivery import BACKLOG, Delivered, Deliverer
from daemon.demo.folder import COLLECTION_URL, DemoFolder
from daemon.demo.granules import PREFIX, DemoGranule, Kind, make_deliveries
from daemon.demo.progress import Watcher, display
from daemon.demo.results import Results
from daemon.demo.server import EmbeddedAws, check_installed, embedded_aws
from daemon.errors import DaemonError
from daemon.journal import Entry
from daemon.rendering import make_console, seconds
from daemon.settings import Settings, load_settings
from zcollection_engine.opening import open_collection
from zcollection_engine.stores.base import ObjectStore
from zcollection_engine.stores.resolve import open_store

#: Requests under way when the collection is copied.
_COPIES = 4

_UNEXPECTED = 1


class InterruptedDemoError(DaemonError):
    """A signal ended the demonstration; its folder stays as it is."""

    exit_code = 130


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
    InterruptedDemoError
        If a signal ended it.
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
        settings = _settings(place, aws)
        delivered, entries = _ingest(console, settings, aws, deliveries)
        store = open_store(COLLECTION_URL, settings.storage_options)
        partitions = open_collection(COLLECTION_URL, storage=settings.storage_options).partitions()
        partition = partitions[len(partitions) // 2].path
        with ThreadPoolExecutor(1) as pool:
            proving = pool.submit(report.prove, f"{COLLECTION_URL}/{partition}", aws.endpoint_url)
            results = Results(delivered, BACKLOG, entries, partitions, _copy(store, place))
            _draw(place, results)
            proof = proving.result()
    surprises = results.surprises()
    report.summarise(console, results)
    report.show_proof(console, proof)
    report.show_rest(console, place, partition, surprises)
    console.print(f"\nDone in {seconds(time.monotonic() - began)}.", style="bold")
    return _UNEXPECTED if surprises else 0


def _settings(place: DemoFolder, aws: EmbeddedAws) -> Settings:
    place.write_settings(endpoint_url=aws.endpoint_url, queue_url=aws.queue_url)
    return load_settings(place.settings, environ={})


def _ingest(
    console: Console, settings: Settings, aws: EmbeddedAws, deliveries: Sequence[DemoGranule]
) -> tuple[Sequence[Delivered], Sequence[Entry]]:
    """Run the daemon until every delivery is settled; returns what was delivered, and what the daemon reported."""
    deliverer = Deliverer(aws, deliveries)
    total = sum(granule.kind is not Kind.REPEATED for granule in deliveries)
    console.print(
        f"\nS3 and SQS listen on {aws.endpoint_url}. {BACKLOG} deliveries wait there when the daemon starts; the"
        " others come one by one when it has caught up.",
        soft_wrap=True,
    )
    with display(console, total) as show:
        watcher = Watcher(show, deliverer.settled)
        deliverer.start()
        try:
            asyncio.run(app.run(settings, until_idle=True, observer=watcher))
        finally:
            deliverer.finish()
    if len(deliverer.delivered) < len(deliveries):
        raise InterruptedDemoError(f"interrupted after {len(deliverer.delivered)} of {len(deliveries)} deliveries")
    return deliverer.delivered, watcher.entries


def _copy(store: ObjectStore, place: DemoFolder) -> dict[str, int]:
    """Copy the collection into the folder; returns the objects' sizes by key."""
    sizes = {info.key: info.size for info in store.list()}
    with ThreadPoolExecutor(_COPIES) as pool:
        contents = pool.map(lambda key: store.get(key).data, sizes)
        place.write_collection(zip(sizes, contents, strict=True))
    return sizes


def _draw(place: DemoFolder, results: Results) -> None:
    from daemon.demo import plot

    rows = open_collection(str(place.collection)).load(variables=["longitude", "latitude", "ssha"])
    plot.draw(place.plot, rows.to_dataset() if isinstance(rows, xr.DataTree) else rows, results)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send log lines to a file as JSON while the context lasts, then to standard error again."""
    with path.open("w", encoding="utf-8") as stream:
        logs.configure("json", "info", stream)
        try:
            yield
        finally:
            logs.configure()
