"""The summary that a demonstration ends with."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from daemon.demo.folder import COLLECTION_URL, DemoFolder
from daemon.demo.granules import DemoGranule, Kind
from daemon.demo.results import Outcome, Results
from daemon.errors import DaemonError
from daemon.rendering import make_table, seconds, styled

_MEANINGS = {
    Outcome.IN: "committed and visible to readers",
    Outcome.REPLACED: "was in; then the same key came with other values, and they took its place",
    Outcome.RECOGNISED: "delivered a second time, the same ETag: nothing to do, nothing doubled",
    Outcome.QUARANTINED: "refused, with the reason kept; no other granule was held up",
    Outcome.SKIPPED: "left alone",
    Outcome.LOST: "the daemon did not come to it",
}
_STYLES = {Outcome.IN: "green", Outcome.QUARANTINED: "yellow", Outcome.LOST: "red"}
_REASONS = {"truncated": "the file is not whole", "schema_mismatch": "it does not fit the collection"}
_UNITS = ((1e6, "MB"), (1e3, "kB"), (1, "B"))


class ProofError(DaemonError):
    """xarray could not open what the daemon wrote."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A program without zcollectiond, and what it printed."""

    code: str
    output: str


def prove(url: str, endpoint_url: str) -> Proof:
    """Open a partition with xarray, in a Python process of its own.

    Raises
    ------
    ProofError
        If that fails, or if it needed a module of this project.
    """
    code = (
        "import xarray\n"
        f'ds = xarray.open_zarr("{url}",\n'
        f'                      storage_options={{"endpoint_url": "{endpoint_url}"}})\n'
        "print(ds)"
    )
    check = "import sys; sys.exit(bool({'daemon', 'zcollection_engine'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if ended.returncode != 0:
        raise ProofError(f"xarray.open_zarr({url!r}) failed in a Python of its own: {ended.stderr or 'not alone'}")
    return Proof(code, ended.stdout.rstrip())


def announce(console: Console, deliveries: Sequence[DemoGranule], seconds_taken: float) -> None:
    """Say what is going to be delivered."""
    objects = {granule.key for granule in deliveries}
    size = sum(len(granule.data) for granule in deliveries)
    console.print(
        f"{len(objects)} granules, {len(deliveries)} deliveries ({_size(size)} of NetCDF-4, made in "
        f"{seconds(seconds_taken)}), out of order."
    )
    console.print("Among them:")
    for granule in deliveries:
        if granule.kind is not Kind.GOOD:
            console.print(f"  {_name(granule.key)}  {granule.note}")


def summarise(console: Console, results: Results) -> None:
    """Show what became of the granules, and what the collection holds."""
    _outcomes(console, results)
    _quarantine(console, results)
    _partitions(console, results)
    _store(console, results.objects)
    _latency(console, results)


def show_proof(console: Console, proof: Proof) -> None:
    """Show the program and its output."""
    _heading(console, "One partition, opened by plain xarray")
    for line in proof.code.splitlines():
        console.print(f"  >>> {line}" if not line.startswith(" ") else f"  ... {line}", style="cyan", soft_wrap=True)
    for line in proof.output.splitlines():
        console.print(f"  {line}", soft_wrap=True)
    console.print("\n  Nothing of zcollectiond was needed for this: it ran in a Python of its own.", style="bold")


def show_rest(console: Console, folder: DemoFolder, partition: str, surprises: Sequence[str]) -> None:
    """Say what stays, and what to try next."""
    _heading(console, "What stays")
    root = _relative(folder.root)
    for name, meaning in {
        folder.collection.name + "/": "the collection, copied from the bucket (which lived in memory and is gone now)",
        folder.granules.name + "/": "the granules, as they were in the bucket at the end",
        folder.settings.name: "the settings that the daemon ran with",
        folder.watch_settings.name: "settings for the same granules in a watched folder",
        folder.log.name: "every line that the daemon logged, JSON",
        folder.plot.name: "a map of the result, and how fast it came",
        _relative(folder.quarantine, folder.root) + "/": "why granules were refused, with the traceback, JSON",
    }.items():
        console.print(Text.assemble(f"  {root}/", (name, "bold"), f"  {meaning}"))
    _heading(console, "What to try next")
    for comment, command in next_commands(folder, partition).items():
        console.print(f"  # {comment}", style="dim")
        console.print(f"  {command}", style="cyan", soft_wrap=True)
    console.print(
        f"\n  For your own bucket: copy {_relative(folder.settings)}, change the lines marked with <--, and run\n"
        f"  {_program()} run --config YOUR.toml",
        soft_wrap=True,
    )
    for line in surprises:
        console.print(f"  not as expected: {line}", style="red")


def next_commands(folder: DemoFolder, partition: str) -> dict[str, str]:
    """Commands that work when the demonstration is over, by what they do."""
    program = _program()
    collection, settings = _quoted(folder.collection), _quoted(folder.watch_settings)
    day = json.dumps(_relative(folder.collection / partition))
    opened = f"import xarray; print(xarray.open_zarr({day}).swh.max().compute())"
    return {
        "what the collection holds": f"{program} inspect {collection}",
        "the highest waves of a day, in metres": f"{_quoted(Path(sys.executable))} -c {shlex.quote(opened)}",
        "the same granules through a watched folder, with neither server nor queue": (
            f"{program} run --config {settings} --until-idle"
        ),
        "what became of them": f"{program} status --config {settings}",
    }


def _outcomes(console: Console, results: Results) -> None:
    table = make_table("Deliveries by outcome", "outcome", "deliveries", "what that means", right=("deliveries",))
    for outcome in Outcome:
        found = results.with_outcome(outcome)
        if found:
            names = "" if len(found) > 3 else ": " + ", ".join(_name(j.granule.key) for j in found)
            table.add_row(
                Text(outcome, style=_STYLES.get(outcome, "")), str(len(found)), styled(_MEANINGS[outcome] + names)
            )
    table.add_section()
    keys = {judged.granule.key for judged in results.judged}
    table.add_row("together", str(len(results.judged)), f"of {len(keys)} granules")
    console.print()
    console.print(table)
    console.print()


def _quarantine(console: Console, results: Results) -> None:
    found = [j for o in (Outcome.QUARANTINED, Outcome.SKIPPED) for j in results.with_outcome(o)]
    if not found:
        return
    table = make_table("Refused", "granule", "reason", "what the daemon says")
    for judged in found:
        if judged.entry is not None:
            reason = _REASONS.get(judged.entry.reason, judged.entry.reason)
            message = judged.entry.message.rpartition(f"{judged.granule.key}: ")[2]
            table.add_row(styled(_name(judged.granule.key)), styled(reason), styled(message))
    console.print(table)
    console.print()


def _partitions(console: Console, results: Results) -> None:
    right = ("rows", "granules", "rewritten", "commit")
    table = make_table("Partitions", "partition", "rows", "first row", "last row", *right[1:], right=right)
    for p in results.partitions:
        period = (np.datetime_as_string(np.datetime64(at, "ns"), unit="s") for at in (p.first, p.last))
        numbers = (str(n) for n in (p.granules, p.generation, p.commit))
        table.add_row(p.path, f"{p.rows:,}", *period, *numbers)
    table.add_section()
    table.add_row("together", f"{results.rows:,}")
    console.print(table)
    console.print()


def _store(console: Console, objects: Mapping[str, int]) -> None:
    tree = Tree(Text(COLLECTION_URL, style="bold"))
    branches = {"": tree}
    folders = {_folder(key) for key in objects if "/" in key}
    for path in sorted({"/".join(f.split("/")[:n]) for f in folders for n in range(1, f.count("/") + 2)}):
        above, _, name = path.rpartition("/")
        inside = {key: size for key, size in objects.items() if key.startswith(f"{path}/")}
        is_last = not any(folder.startswith(f"{path}/") for folder in folders)
        branches[path] = branches[above].add(f"{name}/  {_content(inside)}" if is_last else f"{name}/")
    for key in sorted(key for key in objects if "/" not in key):
        tree.add(f"{key}  {_size(objects[key])}")
    console.print(Text("On the store", style="bold"))
    console.print(tree)
    console.print(f"{len(objects)} objects, {_size(sum(objects.values()))}\n")


def _folder(key: str) -> str:
    """The folder under which an object is counted: its partition, or the first one."""
    parts = key.split("/")[:-1]
    hive = [part for part in parts if "=" in part]
    return "/".join(hive or parts[:1])


def _content(objects: Mapping[str, int]) -> str:
    documents = sum(key.endswith("/zarr.json") for key in objects)
    size = _size(sum(objects.values()))
    if not documents:
        return f"{len(objects)} records, {size}"
    return f"{documents - 1} arrays, {len(objects) - documents} chunks, {size}"


def _latency(console: Console, results: Results) -> None:
    right = ("granules", "p50", "p95", "longest")
    table = make_table("From event to visible", "arrived", *right, right=right)
    for label, backlog in (("before the daemon started (its start is in it)", True), ("while it ran", False)):
        found = results.latencies(backlog=backlog)
        if found:
            quantiles = (seconds(float(np.quantile(found, q))) for q in (0.5, 0.95, 1.0))
            table.add_row(label, str(len(found)), *quantiles)
    console.print(table)


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _size(nbytes: float) -> str:
    limit, unit = next((limit, unit) for limit, unit in (*_UNITS, (0, "B")) if nbytes >= limit)
    return f"{nbytes / max(limit, 1):.3g} {unit}"


def _relative(path: Path, start: Path | None = None) -> str:
    """A path as one would type it: relative where it lies below ``start``, the current folder by default."""
    base = (start or Path()).absolute()
    return str(path.absolute().relative_to(base)) if path.absolute().is_relative_to(base) else str(path.absolute())


def _quoted(path: Path) -> str:
    """The same, as the shell needs it."""
    return shlex.quote(_relative(path))


def _program() -> str:
    """The command as it can be typed here."""
    beside = Path(sys.executable).with_name("zcollectiond")
    if beside.exists():
        return _quoted(beside)
    return "zcollectiond" if shutil.which("zcollectiond") else f"{_quoted(Path(sys.executable))} -m daemon"
