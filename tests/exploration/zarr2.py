"""Watches a shared store with a collection in Zarr v2.

What the engine reads of the last commit must be whole after every operation. What plain readers are shown must be whole
from the flip of a generation until the next one is committed: then its copy may be half-way.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from tests.exploration.granules import PATHS
from tests.exploration.observer import COLUMNS, Observer, Values, View, _columns
from tests.exploration.world import Settings, settings_for
from zcollection_engine.commits.records import Commit

_RECORD = re.compile(r"\.zcommits/(\d{20})\.json")
_PATHS = "|".join(map(re.escape, PATHS))
_DOCUMENT = re.compile(rf"({_PATHS})/(?:({'|'.join(COLUMNS)})/)?\.z(metadata|attrs|array)")
_CHUNK = re.compile(rf"({_PATHS})/(?:\.generations/[123]/)?({'|'.join(COLUMNS)})/\d+")
_PLAIN = 2  # the spelling of chunk keys of Zarr v2 among those of Zarr v3


def zarr2_settings(seed: int) -> Settings:
    """The same schedules in Zarr v2, without plain readers: they may meet a copy half-way."""
    return replace(settings_for(seed), zarr_format=2, plain_readers=0)


class Zarr2Observer(Observer):
    """Checks a collection in Zarr v2 after every change of an object."""

    def __call__(self, method: str, key: str) -> None:
        if record := _RECORD.fullmatch(key):
            if method == "create":
                self._fold(int(record[1]), self._store.get(key).data)
        elif method == "delete":
            self._look_at_chunk(key)
        elif key == ".zattrs":
            self._show_root(json.loads(self._store.get(key).data))
        elif document := _DOCUMENT.fullmatch(key):
            self._show_zarr2(key, document[1], json.loads(self._store.get(key).data))
        else:
            self._look_at_chunk(key)

    def documents(self, path: str) -> list[str]:
        arrays = (f"{path}/{name}/{leaf}" for name in COLUMNS for leaf in (".zarray", ".zattrs"))
        return [f"{path}/.zmetadata", f"{path}/.zattrs", *arrays]

    def _look_at_chunk(self, key: str) -> None:
        if chunk := _CHUNK.fullmatch(key):
            self._check_chunk(chunk[1], key)

    def _committed(self, number: int, path: str, generation: int, columns: dict[str, Values]) -> View:
        folder = f".generations/{1 + (generation - 1) % 3}/" if generation else ""
        known = self._views.get(("commit", path))
        if known is not None and known.folder != folder:
            self._views.pop(("plain", path), None)
        return View(f"commit {number}", path, number, _PLAIN, columns, folder=folder)

    def _fold_commit(self, number: int, record: Commit) -> None:
        super()._fold_commit(number, record)
        self._generations.update({path: change.generation for path, change in record.partitions.items()})

    @property
    def _generations(self) -> dict[str, int]:
        return self.__dict__.setdefault("_of_path", {})

    def _show_zarr2(self, key: str, path: str, document: dict[str, Any]) -> None:
        commit = _commit_of(document)
        if commit < self.shown.get(key, -1):
            self._fail(f"{key} goes back from commit {self.shown[key]} to {commit}")
        if commit not in self.commits:
            self._fail(f"{key} shows commit {commit}, which does not exist")
        self.shown[key] = commit
        rows = _columns(self.commits[commit].rows, path)
        shapes = [array["shape"][0] for array in _arrays(document)]
        if set(shapes) - {len(rows["time"])}:
            self._fail(f"{key} shows {shapes} rows as commit {commit}")
        if "metadata" in document:
            self._show_copies(key, path, commit, document["metadata"][".zattrs"]["zcollection_generation"])

    def _show_copies(self, key: str, path: str, commit: int, generation: int) -> None:
        """Readers are shown a generation: until the next one is committed its chunks are where they look."""
        if generation == self._generations.get(path):
            rows = _columns(self.commits[commit].rows, path)
            self._views["plain", path] = View(f"{key} (commit {commit})", path, commit, _PLAIN, rows)
            self._check(self._views["plain", path])
            self.counts["generations shown" if generation else "first generations shown"] += 1


def _arrays(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "metadata" in document:
        return [node for name, node in document["metadata"].items() if name.endswith(".zarray")]
    return [document] if "shape" in document else []


def _commit_of(document: dict[str, Any]) -> int:
    if "metadata" in document:
        return int(document["metadata"][".zattrs"]["zcollection_commit"])
    return int(document["zcollection"]["commit"] if "shape" in document else document["zcollection_commit"])
