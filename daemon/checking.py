"""Whether a store is fit for several writers: what a probe finds, beside what is known of the service."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from daemon.redaction import redact_text
from daemon.rendering import make_table, printable, seconds, styled
from zcollection_engine.errors import StorageError
from zcollection_engine.probing import CAVEAT, ProbeReport, probe_conditions
from zcollection_engine.stores import credentials
from zcollection_engine.stores.known import Service, known_service, server_header
from zcollection_engine.stores.options import StorageOptions
from zcollection_engine.stores.resolve import open_store

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Check:
    """The whole report.

    Attributes
    ----------
    url
        Root that was probed, without credentials.
    probe
        What the probe found.
    service
        What is known of the service.
    server
        What the service calls itself; None where it does not say.
    """

    url: str
    probe: ProbeReport
    service: Service
    server: str | None

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against several writers."""
        return self.probe.ok and self.service.verdict != "wrong"

    @property
    def findings(self) -> tuple[str, ...]:
        """What speaks against several writers."""
        listed = (f"{self.service.name}: {self.service.note}",) if self.service.verdict == "wrong" else ()
        return (*self.probe.findings, *listed)

    def to_json(self) -> dict[str, Any]:
        """The report for machines."""
        service = self.service
        return {
            "format_version": FORMAT_VERSION,
            "url": self.url,
            "fit_for_several_writers": self.ok,
            "findings": list(self.findings),
            "conditional": self.probe.conditional,
            "writers": self.probe.writers,
            "rounds": self.probe.rounds,
            "seconds": round(self.probe.seconds, 3),
            "trials": [asdict(trial) | {"findings": list(trial.findings)} for trial in self.probe.trials],
            "left": list(self.probe.left),
            "service": {
                "name": service.name,
                "verdict": service.verdict,
                "note": service.note,
                "source": service.source,
                "server": self.server,
            },
            "caveat": CAVEAT,
        }


def check(url: str, storage: StorageOptions, *, rounds: int) -> Check:
    """Probe the store at a URL, below it in ``.zcommits/probe/``, and look the service up.

    Parameters
    ----------
    rounds
        How often the writers contend.

    Raises
    ------
    StorageError
        The store cannot be written to or read; where the service is known to be unfit, the message says so.
    """
    store = open_store(url, storage)
    address = credentials.endpoint(storage.endpoint_url) if store.url.startswith(("s3://", "s3a://")) else None
    server = server_header(address) if address else None
    service = known_service(store.url, endpoint=address, server=server)
    try:
        probe = probe_conditions(store, rounds=rounds)
    except StorageError as error:
        if service.verdict != "wrong":
            raise
        raise StorageError(f"{error}; {service.name} is not fit: {service.note} ({service.source})") from error
    return Check(redact_text(store.url), probe, service, server)


def render(found: Check, console: Console) -> None:
    """Print the report for people."""
    console.print(styled(found.url, "bold"), soft_wrap=True)
    for name, value in _summary(found):
        console.print(f"  {name:<13}{printable(value)}", soft_wrap=True)
    console.print()
    table = make_table("Probe", "What must hold", "Tried", "Failed", right=("Tried", "Failed"))
    for trial in found.probe.trials:
        table.add_row(styled(trial.promise), str(trial.times), str(len(trial.findings)))
    console.print(table)
    if found.findings:
        console.print()
        console.print(styled("Findings", "bold"))
        for finding in dict.fromkeys(found.findings):
            console.print(styled(f"  {finding}"), soft_wrap=True)
    console.print()
    console.print(styled(CAVEAT), soft_wrap=True)


def _summary(found: Check) -> list[tuple[str, str]]:
    probe, service = found.probe, found.service
    verdict = "fit for several writers" if found.ok else "NOT fit for several writers: set single_writer = true"
    lines = [
        ("verdict", verdict),
        ("probe", f"{probe.writers} writers, {probe.rounds} rounds, {seconds(probe.seconds)}"),
        ("service", service.name + (f" ({found.server})" if found.server else "")),
        ("known as", f"{service.verdict}: {service.note}"),
        ("source", service.source),
    ]
    return lines + ([("left behind", ", ".join(probe.left))] if probe.left else [])
