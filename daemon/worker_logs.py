"""Log lines of the local cluster's workers: the same form as the daemon's own."""

from __future__ import annotations

import logging
from typing import Any

from distributed import WorkerPlugin

from daemon import logs
from daemon.logs import LogFormat

_HEARTBEATS = "distributed.worker"
_LOST_SCHEDULER = "Failed to communicate with scheduler during heartbeat"


class WorkerLogs(WorkerPlugin):
    """Configures the logs of every worker process as it starts.

    Parameters
    ----------
    log_format, level
        See `daemon.logs.configure`.
    """

    name = "zcollectiond-logs"

    def __init__(self, log_format: LogFormat, level: str) -> None:
        self._format = log_format
        self._level = level

    def setup(self, worker: Any) -> None:
        """Called by the worker."""
        logs.configure(self._format, self._level)
        logging.getLogger(_HEARTBEATS).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # The scheduler lives in the daemon: a worker that misses it is about to end with the daemon, and the heartbeat that
    # happens to be under way then is no error.
    return not record.getMessage().startswith(_LOST_SCHEDULER)
