"""Reads a partition again and again with plain xarray, in an environment that has nothing of ours.

Usage: plain_reader.py PARTITION STOP. Prints a JSON line a read, until the file STOP exists and one more read is done.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr


def main(partition: str, stop: Path) -> None:
    """Read until told to stop."""
    foreign = {"zcollection_engine", "daemon", "dask", "netCDF4", "fsspec", "obstore"}
    last = has_read = False
    while not last:
        last = stop.exists()
        for kind, read in (("zarr", read_group), ("tree", read_tree)):
            try:
                values = read(partition)
            except FileNotFoundError:
                continue  # not published yet
            except RuntimeWarning:
                # xarray looks for consolidated metadata first and for plain ones then; a partition that appears between
                # the two makes it warn. Later there is no excuse.
                if has_read:
                    raise
                continue
            has_read = True
            report(kind, values)
    assert not foreign & set(sys.modules), foreign & set(sys.modules)


def read_group(partition: str) -> dict[str, Any]:
    """All variables of the partition's root group."""
    with xr.open_zarr(partition, decode_cf=False) as group:
        return {name: variable.values for name, variable in group.variables.items()}


def read_tree(partition: str) -> dict[str, Any]:
    """All variables of all groups."""
    with xr.open_datatree(partition, engine="zarr", decode_cf=False) as tree:
        return {
            f"{node.path.strip('/')}/{name}".strip("/"): variable.values
            for node in tree.subtree
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }


def report(kind: str, values: Mapping[str, Any]) -> None:
    """Print what was read: rows and a digest of each variable."""
    digests = {name: hashlib.sha256(values[name].tobytes()).hexdigest()[:16] for name in values}
    line = {"kind": kind, "rows": {len(v) for v in values.values()}.pop(), "digests": digests}
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
