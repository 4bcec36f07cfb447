"""Answers "is it alive?" and "does it take work?" over HTTP, for Kubernetes and load balancers.

``/livez`` is about the progress of the daemon's own loops only, never about the reach of other services: a
restart does not repair those.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from daemon.errors import SettingsError

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Probes are short: nobody is kept waiting by closing their connections at once.
_SHUTDOWN_SECONDS = 1.0


class HealthProbe(Protocol):
    """What the daemon knows of itself. Both methods answer at once, without I/O."""

    def live(self) -> str | None:
        """None if the loops make progress, else the reason why a restart is needed."""

    def ready(self) -> str | None:
        """None if the daemon takes work, else why not (starting, draining, a dependency is gone)."""


class HealthServer:
    """Serves ``/livez`` and ``/readyz``: 200 or 503, with a line of JSON. An async context manager.

    Parameters
    ----------
    host
        Address to listen on.
    port
        TCP port; 0 for a free one.
    probe
        Is asked for each request.
    """

    def __init__(self, host: str, port: int, probe: HealthProbe) -> None:
        self._host = host
        self._port = port
        app = web.Application()
        app.router.add_get("/livez", _handler(probe.live))
        app.router.add_get("/readyz", _handler(probe.ready))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)

    @property
    def port(self) -> int:
        """The TCP port in use; the one asked for while the server is not running."""
        addresses = self._runner.addresses
        return int(addresses[0][1]) if addresses else self._port

    async def __aenter__(self) -> Self:
        """Listen. Raises `SettingsError` where that is not possible."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"daemon.health_host ({self._host}) and daemon.health_port ({self._port}): cannot listen there: {error}"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()


def _handler(reason: Callable[[], str | None]) -> _Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        problem = reason()
        body = {"status": "ok"} if problem is None else {"status": "unavailable", "reason": problem}
        return web.Response(
            text=f"{json.dumps(body)}\n",
            content_type="application/json",
            status=200 if problem is None else 503,
            headers={"Cache-Control": "no-store"},
        )

    return answer
