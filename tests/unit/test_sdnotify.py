"""What systemd is told, over real sockets."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.sdnotify import Notifier, watchdog_interval


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        yield listener


@pytest.fixture
def address(manager: socket.socket, tmp_path: Path) -> str:
    path = str(tmp_path / "notify")
    manager.bind(path)
    return path


def test_each_state_is_one_datagram(manager: socket.socket, address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    sent = [
        notifier.ready(),
        notifier.status("3 granules in flight"),
        notifier.watchdog(),
        notifier.extend_timeout(1.5),
        notifier.stopping(),
    ]
    assert sent == [True] * 5
    assert [manager.recv(1024) for _ in sent] == [
        b"READY=1",
        b"STATUS=3 granules in flight",
        b"WATCHDOG=1",
        b"EXTEND_TIMEOUT_USEC=1500000",
        b"STOPPING=1",
    ]


def test_a_status_cannot_smuggle_in_another_state(manager: socket.socket, address: str) -> None:
    assert Notifier(address).status("bad\nSTOPPING=1\r\n")
    assert manager.recv(1024) == b"STATUS=bad STOPPING=1"


def test_an_abstract_socket_is_reached(manager: socket.socket) -> None:
    name = f"zcollectiond-test-{secrets.token_hex(8)}"
    manager.bind(f"\0{name}")
    assert Notifier(f"@{name}").ready()
    assert manager.recv(1024) == b"READY=1"


def test_without_a_socket_nothing_is_sent() -> None:
    with capture_logs() as lines:
        assert not Notifier.from_environment({}).ready()
    assert lines == []


def test_the_environment_of_the_process_is_the_default(
    manager: socket.socket, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert Notifier.from_environment().ready()
    assert manager.recv(1024) == b"READY=1"


def test_a_socket_that_is_gone_is_logged_and_ends_nothing(tmp_path: Path) -> None:
    with capture_logs() as lines:
        assert not Notifier(str(tmp_path / "gone")).ready()
    (line,) = lines
    assert (line["log_level"], line["event"], line["state"]) == (
        "warning",
        "service manager not notified",
        "READY=1",
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "42"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval(environ, pid=42) == expected
