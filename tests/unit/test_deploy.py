"""What deploy/ promises, held against systemd, the Kubernetes schemas and the daemon's own settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from daemon.settings import ENVIRONMENT_PREFIX, Settings, load_settings

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"

#: An older Kubernetes that many clusters still run, and the newest that the schemas cover.
KUBERNETES_VERSIONS = ("1.34", "1.37")


def unit_values(text: str) -> dict[str, str]:
    """Directives of a unit file that occur once, by name."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def seconds(span: str) -> float:
    match = re.fullmatch(r"(\d+)(s|min)", span)
    assert match is not None, f"{span!r} is not a time in the form that this test reads"
    return float(match[1]) * {"s": 1, "min": 60}[match[2]]


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    return unit_values((DEPLOY / "zcollectiond.service").read_text())


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def pod_settings(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(manifests["ConfigMap"]["data"]["settings.toml"])
    return load_settings(path, environ={})


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def final_stage(instructions: list[tuple[str, str]]) -> dict[str, str]:
    last_from = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return dict(instructions[last_from:])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "zcollectiond.service").read_text()
    installed = tmp_path / "zcollectiond.service"
    # The program's path exists on an installed machine only, and systemd-analyze insists on it.
    installed.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )

    # A misspelt directive is only warned of, with exit code 0.
    assert "zcollectiond.service" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_the_unit_starts_the_daemon_with_notification_and_watchdog(unit: dict[str, str]) -> None:
    assert unit["Type"] == "notify"
    assert unit["NotifyAccess"] == "main"
    assert seconds(unit["WatchdogSec"]) > 0
    assert unit["ExecStart"].endswith("/zcollectiond run --config /etc/zcollectiond/settings.toml")


def test_the_unit_is_not_started_again_on_wrong_settings(unit: dict[str, str]) -> None:
    assert unit["Restart"] == "on-failure"
    assert unit["RestartPreventExitStatus"] == "2"


def test_systemd_waits_longer_for_a_stop_than_the_daemon_takes(unit: dict[str, str]) -> None:
    assert unit["KillMode"] == "mixed"
    assert seconds(unit["TimeoutStopSec"]) >= Settings().daemon.shutdown_grace_seconds + 15


def test_the_unit_names_the_journal_by_a_variable_that_the_settings_know(unit: dict[str, str]) -> None:
    name, value = unit["Environment"].split("=", 1)
    assert value == f"%S/{unit['StateDirectory']}"
    settings = load_settings(None, environ={name: value.replace("%S", "/var/lib")})
    assert settings.daemon.state_dir == Path("/var/lib/zcollectiond")


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str, manifests: dict[str, dict[str, Any]]) -> None:
    assert set(manifests) == {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Deployment"}
    for document in manifests.values():
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_schemas_of_kubernetes_refuse_a_misspelt_key(manifests: dict[str, dict[str, Any]]) -> None:
    claim = manifests["PersistentVolumeClaim"]
    misspelt = {**claim, "spec": {**claim["spec"], "accessMode": "ReadWriteOnce"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="accessMode"):
        kubernetes_validate.validate(misspelt, KUBERNETES_VERSIONS[-1], strict=True)


def test_the_config_map_holds_settings_that_the_daemon_loads(pod_settings: Settings) -> None:
    assert [source.type for source in pod_settings.sources] == ["sqs"]
    assert [collection.name for collection in pod_settings.collections] == ["altimetry"]
    assert pod_settings.daemon.state_url.startswith("s3://")


def test_probes_ask_where_the_daemon_listens(container: dict[str, Any], pod_settings: Settings) -> None:
    (port,) = container["ports"]
    assert port["containerPort"] == pod_settings.daemon.health_port
    assert pod_settings.daemon.health_host == "0.0.0.0"  # noqa: S104
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in asked.values()} == {port["name"]}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


def test_kubernetes_waits_longer_for_a_stop_than_the_daemon_takes(pod: dict[str, Any], pod_settings: Settings) -> None:
    assert pod["terminationGracePeriodSeconds"] >= pod_settings.daemon.shutdown_grace_seconds + 15


def test_services_of_the_cluster_add_nothing_to_the_environment(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False


def test_the_journal_lies_on_a_volume_that_one_pod_has_at_a_time(
    manifests: dict[str, dict[str, Any]],
    pod: dict[str, Any],
    container: dict[str, Any],
    pod_settings: Settings,
) -> None:
    deployment = manifests["Deployment"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    journal = volumes[mounts[pod_settings.daemon.state_dir]]
    assert journal["persistentVolumeClaim"]["claimName"] == manifests["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_pod_runs_without_root_as_the_user_of_the_image(
    pod: dict[str, Any], container: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert final_stage(instructions)["USER"] == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_image_is_stopped_by_sigterm(instructions: list[tuple[str, str]]) -> None:
    stage = final_stage(instructions)
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["ENTRYPOINT"] == '["zcollectiond"]'


def test_the_image_keeps_its_journal_on_a_volume(instructions: list[tuple[str, str]]) -> None:
    stage = final_stage(instructions)
    assignments = (word.split("=", 1) for word in stage["ENV"].split())
    environ = {name: value for name, value in assignments if name.startswith(ENVIRONMENT_PREFIX)}
    assert load_settings(None, environ=environ).daemon.state_dir == Path(stage["VOLUME"])


def test_the_image_installs_the_locked_dependencies_before_it_copies_the_code(
    instructions: list[tuple[str, str]],
) -> None:
    copies_code = next(i for i, (word, rest) in enumerate(instructions) if word == "COPY" and "daemon" in rest)
    installs = next(
        i
        for i, (word, rest) in enumerate(instructions)
        if word == "RUN" and "--constraint ci.txt --requirement" in rest
    )
    assert installs < copies_code


def test_all_that_the_image_copies_passes_the_ignore_file(instructions: list[tuple[str, str]]) -> None:
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == kept


def test_the_lock_covers_every_dependency_and_names_no_host() -> None:
    lock = (PROJECT / "requirements" / "ci.txt").read_text()
    locked = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(p for extra in project["optional-dependencies"].values() for p in extra),
    ]
    names = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in asked}
    assert names - {project["name"]} <= locked
    assert "://" not in lock
