"""What is told of a store's fitness for several writers, to machines and to people."""

from __future__ import annotations

import io
import json
import socket
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from daemon import checking
from daemon.checking import Check, check, render
from daemon.rendering import json_text
from zcollection_engine.errors import StorageError
from zcollection_engine.probing import CAVEAT, ProbeReport, Trial
from zcollection_engine.stores.known import known_service
from zcollection_engine.stores.memory import MemoryStore
from zcollection_engine.stores.options import StorageOptions

PROBE = ProbeReport("s3://b/c", True, 8, 3, (Trial("it holds", 3, ()), Trial("it keeps", 1, ())), 1.25)
BROKEN = replace(PROBE, trials=(Trial("it holds", 3, ("it did not", "it did not")),), left=("x",))
SEAWEED = known_service("s3://b", endpoint="http://127.0.0.1:1", server="SeaweedFS 4")
SPACES = known_service("s3://b", endpoint="https://ams3.digitaloceanspaces.com")


def printed(found: Check, width: int = 100) -> str:
    stream = io.StringIO()
    render(found, Console(file=stream, width=width, markup=False, highlight=False, emoji=False))
    return stream.getvalue()


def test_a_folder_is_probed_looked_up_and_left_as_it_was(tmp_path: Path) -> None:
    found = check(str(tmp_path / "new"), StorageOptions(), rounds=2)
    assert found.ok
    assert found.url == f"file://{tmp_path}/new"
    assert found.probe.rounds == 2
    assert found.service.verdict in {"right", "depends"}
    assert [path for path in (tmp_path / "new").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_machines_get_everything_in_stable_names() -> None:
    assert json.loads(json_text(Check("s3://b/c", BROKEN, SEAWEED, "SeaweedFS 4").to_json())) == {
        "format_version": 1,
        "url": "s3://b/c",
        "fit_for_several_writers": False,
        "findings": ["it did not", "it did not"],
        "conditional": True,
        "writers": 8,
        "rounds": 3,
        "seconds": 1.25,
        "trials": [{"promise": "it holds", "times": 3, "findings": ["it did not", "it did not"]}],
        "left": ["x"],
        "service": {
            "name": "SeaweedFS",
            "verdict": "depends",
            "note": SEAWEED.note,
            "source": SEAWEED.source,
            "server": "SeaweedFS 4",
        },
        "caveat": CAVEAT,
    }


def test_people_read_verdict_service_trials_and_caveat() -> None:
    text = printed(Check("s3://b/c", PROBE, SEAWEED, "SeaweedFS 4"))
    assert text.startswith(
        "s3://b/c\n  verdict      fit for several writers\n  probe        8 writers, 3 rounds, 1.25 s"
    )
    assert "service      SeaweedFS (SeaweedFS 4)" in text
    assert "known as     depends: create-if-absent since" in text
    assert "Findings" not in text
    assert "left behind" not in text
    assert text.endswith(f"{CAVEAT}\n")


def test_people_read_each_finding_once_and_what_to_set() -> None:
    text = printed(Check("s3://b/c", BROKEN, SEAWEED, None))
    assert "NOT fit for several writers: set single_writer = true" in text
    assert text.count("it did not") == 1
    assert "left behind  x" in text
    assert "it holds" in text


def test_a_service_known_to_be_wrong_is_not_fit_although_the_probe_passed() -> None:
    found = Check("s3://b/c", PROBE, SPACES, None)
    assert not found.ok
    assert found.findings == (f"DigitalOcean Spaces: {SPACES.note}",)
    assert "NOT fit" in printed(found)


def test_what_servers_say_cannot_control_the_terminal() -> None:
    assert "\x1b" not in printed(Check("s3://b/c", PROBE, SEAWEED, "Evil\x1b[2J"))


def test_a_file_system_without_conditions_is_not_fit(tmp_path: Path) -> None:
    found = check(f"local://{tmp_path}/new", StorageOptions(), rounds=1)
    assert not found.ok
    assert found.service.name == "file system of fsspec"
    assert found.findings[0] == "the way to this store has no conditional writes"


@pytest.mark.parametrize(("endpoint", "known"), [("https://s3.us-east-005.backblazeb2.com", True), (None, False)])
def test_a_refused_condition_is_explained_where_the_service_is_known_for_it(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, known: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageError("501 NotImplemented")

    monkeypatch.setattr(checking, "probe_conditions", refuse)
    monkeypatch.setattr(checking, "server_header", lambda _: None)
    monkeypatch.setattr(checking, "open_store", lambda *_: _as_s3(MemoryStore(f"memory://{uuid.uuid4().hex}")))
    with pytest.raises(StorageError, match="501 NotImplemented") as caught:
        check("s3://b/c", StorageOptions(endpoint), rounds=1)
    assert ("Backblaze B2 is not fit" in str(caught.value)) is known


def test_only_a_service_of_ones_own_is_asked_for_its_name(
    monkeypatch: pytest.MonkeyPatch, aws_environment: None
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(checking, "server_header", asked.append)
    monkeypatch.setattr(checking, "open_store", lambda *_: _as_s3(MemoryStore(f"memory://{uuid.uuid4().hex}")))
    check("s3://b/c", StorageOptions(), rounds=1)
    assert asked == []
    check("s3://b/c", StorageOptions("http://127.0.0.1:1"), rounds=1)
    assert asked == ["http://127.0.0.1:1"]


def test_a_service_that_is_not_there_is_an_error_of_the_storage(aws_environment: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StorageError, match="s3://b/c"):
        check("s3://b/c", StorageOptions(f"http://127.0.0.1:{port}"), rounds=1)


def _as_s3(store: MemoryStore) -> MemoryStore:
    store._url = "s3://b/c"
    return store
