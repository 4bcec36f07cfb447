"""The smallest Dask cluster that zcollection runs on: threads of this very process, no dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dask.distributed import Client, LocalCluster


@contextmanager
def small_cluster() -> Iterator[None]:
    """Be the default client while the context lasts."""
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        yield
