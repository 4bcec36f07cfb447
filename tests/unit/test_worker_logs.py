"""Log lines of worker processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]

# In a process of its own, as on a worker: logging is configured for the whole process.
PROGRAM = """
import logging, warnings
from daemon.worker_logs import WorkerLogs
WorkerLogs("json", "warning").setup(None)
worker = logging.getLogger("distributed.worker")
worker.error("Failed to communicate with scheduler during heartbeat.")
worker.warning("Compute Failed")
logging.getLogger("distributed.worker.memory").warning("memory is short")
logging.getLogger("daemon.tasks").info("not heard")
warnings.warn("something is deprecated")
"""


def test_workers_log_in_the_daemon_s_form_and_do_not_complain_of_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=PROJECT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["distributed.worker", "distributed.worker.memory", "py.warnings"]
    assert lines[0]["event"] == "Compute Failed"
