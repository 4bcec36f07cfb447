"""Reads a partition again and again with plain xarray and zarr.

Usage: plain_reader.py PARTITION STOP KINDS STORAGE FOREIGN, the last three in JSON: ways to read (see `READERS`),
options of the remote file system or null, and modules that must not be loaded. Prints a JSON line a read, until the
file STOP exists and one more read of each kind is done.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

Options = dict[str, Any] | None


def main(partition: str, stop: Path, kinds: Sequence[str], storage: Options, foreign: set[str]) -> None:
    """Read until told to stop."""
    last = has_read = False
    while not last:
        last = stop.exists()
        for kind in kinds:
            start = time.monotonic()
            try:
                values = READERS[kind](partition, storage)
            except FileNotFoundError:
                continue  # not published yet
            except RuntimeWarning:
                # xarray looks for consolidated metadata first and for plain ones then; a partition that appears between
                # the two makes it warn. Later there is no excuse.
                if has_read:
                    raise
                continue
            has_read = True
            report(kind, values, time.monotonic() - start)
    assert not foreign & set(sys.modules), foreign & set(sys.modules)


def read_dataset(partition: str, storage: Options) -> dict[str, Any]:
    """All variables of the partition's root group, by xarray."""
    with xr.open_zarr(partition, decode_cf=False, chunks=None, storage_options=storage) as group:
        return {name: variable.values for name, variable in group.variables.items()}


def read_tree(partition: str, storage: Options) -> dict[str, Any]:
    """All variables of all groups, by xarray."""
    with xr.open_datatree(partition, engine="zarr", decode_cf=False, storage_options=storage) as tree:
        return {
            f"{node.path.strip('/')}/{name}".strip("/"): variable.values
            for node in tree.subtree
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }


def read_group(partition: str, storage: Options) -> dict[str, Any]:
    """All arrays of all groups, by zarr alone."""
    group = zarr.open_consolidated(partition, mode="r", storage_options=storage)
    return {path: node[...] for path, node in group.members(max_depth=None) if isinstance(node, zarr.Array)}


READERS: Mapping[str, Callable[[str, Options], dict[str, Any]]] = {
    "zarr": read_dataset,
    "tree": read_tree,
    "group": read_group,
}


def report(kind: str, values: Mapping[str, Any], seconds: float) -> None:
    """Print what was read: rows and a digest of each variable, and how long it took."""
    digests = {name: hashlib.sha256(values[name].tobytes()).hexdigest()[:16] for name in values}
    rows = {len(v) for v in values.values()}.pop()
    sys.stdout.write(f"{json.dumps({'kind': kind, 'rows': rows, 'digests': digests, 'seconds': seconds})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _kinds, _storage, _foreign = map(json.loads, sys.argv[3:6])
    main(sys.argv[1], Path(sys.argv[2]), _kinds, _storage, set(_foreign))
