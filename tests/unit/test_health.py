"""The health endpoint, asked over a real connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from daemon.errors import SettingsError
from daemon.health import HealthServer


@dataclass
class Probe:
    not_live: str | None = None
    not_ready: str | None = None

    def live(self) -> str | None:
        return self.not_live

    def ready(self) -> str | None:
        return self.not_ready


async def ask(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        assert response.content_type == "application/json"
        assert (await response.text()).count("\n") == 1
        return response.status, await response.json()


async def test_a_good_daemon_is_alive_and_ready() -> None:
    async with HealthServer("127.0.0.1", 0, Probe()) as server:
        assert await ask(server.port, "/livez") == (200, {"status": "ok"})
        assert await ask(server.port, "/readyz") == (200, {"status": "ok"})


async def test_each_answer_follows_the_probe_and_gives_its_reason() -> None:
    probe = Probe(not_ready="starting")
    async with HealthServer("127.0.0.1", 0, probe) as server:
        assert await ask(server.port, "/readyz") == (503, {"status": "unavailable", "reason": "starting"})
        assert await ask(server.port, "/livez") == (200, {"status": "ok"})
        probe.not_ready, probe.not_live = None, "no progress\nfor 90 s"
        assert await ask(server.port, "/readyz") == (200, {"status": "ok"})
        assert await ask(server.port, "/livez") == (
            503,
            {"status": "unavailable", "reason": "no progress\nfor 90 s"},
        )


async def test_any_other_path_is_not_found() -> None:
    async with (
        HealthServer("127.0.0.1", 0, Probe()) as server,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}/") as response,
    ):
        assert response.status == 404


async def test_nobody_listens_after_the_end() -> None:
    async with HealthServer("127.0.0.1", 0, Probe()) as server:
        port = server.port
        assert port != 0
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(port, "/livez")


async def test_a_port_in_use_is_refused_by_the_names_of_the_settings() -> None:
    async with HealthServer("127.0.0.1", 0, Probe()) as first:
        second = HealthServer("127.0.0.1", first.port, Probe())
        with pytest.raises(SettingsError, match=rf"daemon.health_port \({first.port}\): cannot listen"):
            await second.__aenter__()
        assert await ask(first.port, "/livez") == (200, {"status": "ok"})
