"""``zcollectiond demo`` as a stranger runs it, and everything it says afterwards, done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from daemon.demo.granules import PREFIX, Kind, make_deliveries
from tests.servers import S3Server

pytestmark = pytest.mark.acceptance

PROJECT = Path(__file__).parents[2]
ROWS = sum(g.rows for g in make_deliveries() if g.kind in {Kind.GOOD, Kind.MIDNIGHT})


@dataclass(frozen=True)
class Ran:
    """A demonstration that is over."""

    cwd: Path
    env: dict[str, str]
    code: int
    output: str
    errors: str

    @property
    def folder(self) -> Path:
        return self.cwd / "demo"

    def shell(self, command: str) -> str:
        """Run a command as one types it; returns what it printed."""
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def command(self, comment: str) -> str:
        """The command that the report prints below a comment."""
        lines = self.output.splitlines()
        return lines[lines.index(f"  # {comment}") + 1].strip()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    cwd = tmp_path_factory.mktemp("stranger")
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    env["PYTHONPATH"] = str(PROJECT)
    ended = subprocess.run(
        [sys.executable, "-m", "daemon", "demo"],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ran(cwd, env, ended.returncode, ended.stdout, ended.stderr)


def opened(collection: Path, partition: str) -> xr.Dataset:
    return xr.open_zarr(collection / partition)


def partitions(collection: Path) -> list[str]:
    return sorted(str(path.relative_to(collection)) for path in collection.glob("year=*/month=*/day=*"))


def whole(collection: Path) -> xr.Dataset:
    pieces = [
        xr.open_zarr(collection / path, mask_and_scale=False, decode_times=False) for path in partitions(collection)
    ]
    return xr.concat(pieces, "time", data_vars="all", combine_attrs="override").compute()


def test_the_readme_shows_what_it_prints(ran: Ran) -> None:
    section = (PROJECT / "README.md").read_text().split("## Two commands\n", 1)[1].split("\n## ", 1)[0]
    shown = section.split("    Deliveries by outcome\n", 1)[1]
    printed = [" ".join(line.split()) for line in ran.output.splitlines()]
    lines = [" ".join(line.split()).removesuffix("...").strip() for line in shown.splitlines() if line[:4] == "    "]
    missing = [line for line in lines if line and not any(found.startswith(line) for found in printed)]
    assert lines
    assert missing == []


def test_it_ends_well_and_quietly(ran: Ran) -> None:
    assert ran.code == 0, ran.output + ran.errors
    assert ran.errors == ""
    assert "not as expected" not in ran.output
    assert "\x1b" not in ran.output


def test_the_summary_tells_what_became_of_every_delivery(ran: Ran) -> None:
    assert "40 granules, 42 deliveries" in ran.output
    for outcome, count in {"in the collection": 38, "replaced": 1, "recognised": 1, "quarantined": 2}.items():
        assert re.search(rf"^{outcome} +{count} ", ran.output, re.MULTILINE), outcome
    assert "truncated: the file has" in ran.output
    assert "variable 'ssha' has units 'cm', the collection has units 'm'" in " ".join(ran.output.split())
    assert f"{ROWS:,}" in ran.output
    assert re.search(r"^while it ran +\d+ +[\d.]+ s", ran.output, re.MULTILINE)


def test_the_proof_is_what_xarray_printed(ran: Ran) -> None:
    assert '>>> ds = xarray.open_zarr("s3://demo/collections/altimetry/year=2026/month=03/day=' in ran.output
    assert "<xarray.Dataset>" in ran.output
    assert "Nothing of zcollectiond was needed for this" in ran.output


def test_every_file_that_it_names_is_there(ran: Ran) -> None:
    names = re.findall(r"^  demo/(\S+)  ", ran.output, re.MULTILINE)
    assert {"collection/", "granules/", "settings.toml", "watch.toml", "daemon.log", "demo.png"} <= set(names)
    for name in names:
        assert (ran.folder / name).exists(), name
    assert len(list((ran.folder / "granules").iterdir())) == 40
    assert (ran.folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert (ran.folder / "demo.png").stat().st_size > 100_000


def test_the_log_is_json_without_errors(ran: Ran) -> None:
    lines = [json.loads(line) for line in (ran.folder / "daemon.log").read_text().splitlines()]
    assert not [line for line in lines if line["level"] in {"error", "critical"}]
    assert sum(line["event"] == "visible" for line in lines) == 39
    assert sum(line["event"] == "quarantined" for line in lines) == 2


def test_quarantine_keeps_reason_and_traceback(ran: Ran) -> None:
    documents = [json.loads(path.read_text()) for path in (ran.folder / "state/state/quarantine").rglob("*.json")]
    assert sorted(document["reason"] for document in documents) == ["schema_mismatch", "truncated"]
    assert all("Traceback" in document["traceback"] for document in documents)


def test_plain_xarray_opens_every_partition_of_the_copy(ran: Ran) -> None:
    days = partitions(ran.folder / "collection")
    assert [day[-2:] for day in days] == ["09", "10", "11", "12"]
    rows = 0
    for day in days:
        with opened(ran.folder / "collection", day) as dataset:
            times = dataset.time.to_numpy()
            assert (np.diff(times) > np.timedelta64(0)).all()
            assert {str(d)[8:10] for d in times.astype("datetime64[D]")} == {day[-2:]}
            assert 0.1 < float(dataset.swh.min()) < float(dataset.swh.max()) < 14.0
            rows += dataset.sizes["time"]
    assert rows == ROWS


def test_the_changed_granule_is_in_with_its_new_values(ran: Ran) -> None:
    (changed,) = (g for g in make_deliveries() if g.kind is Kind.CHANGED)
    with netCDF4.Dataset("granule.nc", memory=changed.data) as file:
        file.set_auto_maskandscale(False)
        expected = {name: file[name][:] for name in ("ssha", "altitude", "swh")}
        number = int(file.pass_number)
    collection = whole(ran.folder / "collection")
    mine = collection.pass_number.to_numpy() == number
    assert mine.sum() == changed.rows
    for name, values in expected.items():
        np.testing.assert_array_equal(collection[name].to_numpy()[mine], values)


def test_the_commands_that_it_recommends_work(ran: Ran) -> None:
    assert f"{ROWS:,} in 4 partitions" in ran.shell(ran.command("what the collection holds"))
    assert "swh" in ran.shell(ran.command("the highest waves of a day, in metres"))
    ran.shell(ran.command("the same granules through a watched folder, with neither server nor queue"))
    status = ran.shell(ran.command("what became of them"))
    assert re.search(r"altimetry +38 +0 +2 +0 +0", status)
    events, watched = whole(ran.folder / "collection"), whole(ran.folder / "watched/collection")
    assert set(events.variables) == set(watched.variables)
    for name in set(events.variables) - {"granule"}:  # which tells the objects apart, and these are others
        np.testing.assert_array_equal(events[name].to_numpy(), watched[name].to_numpy(), err_msg=str(name))


def test_its_settings_serve_another_bucket(ran: Ran, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    queue_url, bucket = _own_bucket(moto_server, list((ran.folder / "granules").glob("*_10[1-6]_*.nc")))
    text = (ran.folder / "settings.toml").read_text()
    text = re.sub(r'^endpoint_url = "[^"]+"', f'endpoint_url = "{moto_server.endpoint_url}"', text, flags=re.MULTILINE)
    text = re.sub(r'^queue_url = "[^"]+"', f'queue_url = "{queue_url}"', text, flags=re.MULTILINE)
    text = text.replace("s3://demo/", f"s3://{bucket}/").replace('state_dir = "state"', 'state_dir = "own-state"')
    (ran.folder / "own.toml").write_text(text)
    credentials = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    own = Ran(ran.cwd, {**ran.env, **credentials}, 0, "", "")
    program = ran.command("what became of them").partition(" status")[0]
    own.shell(f"{program} run --config demo/own.toml --until-idle")
    assert re.search(r"altimetry +3 +0 +0 +0 +0", own.shell(f"{program} status --config demo/own.toml"))


def _own_bucket(server: S3Server, granules: list[Path]) -> tuple[str, str]:
    """Make a bucket that announces granules to a queue, and deliver some."""
    assert len(granules) == 3
    bucket = server.new_bucket()
    with server.client("s3") as s3, server.client("sqs") as sqs:
        queue_url: str = sqs.create_queue(QueueName=f"{bucket}-granules")["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        rule: dict[str, Any] = {
            "QueueArn": found["Attributes"]["QueueArn"],
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": PREFIX}]}},
        }
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
        )
        for path in granules:
            s3.put_object(Bucket=bucket, Key=f"{PREFIX}{path.name}", Body=path.read_bytes())
    return queue_url, bucket


def test_running_it_again_replaces_its_folder_but_never_another(ran: Ran) -> None:
    (ran.cwd / "mine").mkdir()
    (ran.cwd / "mine" / "thesis.tex").write_text("mine")
    ended = subprocess.run(
        [sys.executable, "-m", "daemon", "demo", "mine"],
        cwd=ran.cwd,
        env=ran.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert "was not made by a demonstration" in ended.stderr
    assert (ran.cwd / "mine" / "thesis.tex").read_text() == "mine"
