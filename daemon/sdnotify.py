"""Tells systemd how the service is doing (``Type=notify``): datagrams to the socket that NOTIFY_SOCKET names.

Protocol: sd_notify(3), sd_watchdog_enabled(3). Without the variable nothing is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

_log = structlog.get_logger(__name__)

# A full socket buffer must not hold up the event loop for long.
_SEND_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends states of the service.

    Parameters
    ----------
    address
        Path of a datagram socket, or "@" and the name of an abstract one. Empty: every method does nothing.
    """

    address: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """Notify the manager that started this process, if it asked for it."""
        return cls((os.environ if environ is None else environ).get("NOTIFY_SOCKET", ""))

    def ready(self) -> bool:
        """The service has started."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """Show a text in ``systemctl status``; line breaks become spaces."""
        return self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> bool:
        """The service is ending."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """The service makes progress."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for this long until the next sign of life, while the service starts or stops."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, state: str) -> bool:
        """Return whether the state was sent; a failure is logged, since it must not end the service."""
        if not self.address:
            return False
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_SEND_TIMEOUT_SECONDS)
                channel.connect(address)
                channel.sendall(state.encode())
        except OSError as error:
            _log.warning("service manager not notified", state=state, socket=self.address, error=error)
            return False
        return True


def watchdog_interval(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> float | None:
    """Seconds between two `Notifier.watchdog`: half of what systemd allows. None if it does not watch this
    process.

    ``pid`` is this process's by default.
    """
    environ = os.environ if environ is None else environ
    pid = os.getpid() if pid is None else pid
    limit, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or watched not in {"", str(pid)}:
        return None
    return int(limit) / 2e6
