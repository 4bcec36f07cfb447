"""The twins of real products as Zarr: directories and zip archives of both formats."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import xarray as xr

from tests.granules_twins import Twin

Format = Literal[2, 3]
FORMATS: tuple[Format, ...] = (2, 3)

#: Names of the consolidated metadata.
MARKERS = {2: ".zmetadata", 3: "zarr.json"}


def write_twin(twin: Twin, folder: Path, zarr_format: Format) -> Path:
    """Write a NetCDF file's raw values as xarray writes Zarr, with consolidated metadata."""
    source = folder.with_name(f"{folder.name}.source")
    source.write_bytes(twin.data)
    # What zarr says of its own format.
    with warnings.catch_warnings(action="ignore"), xr.open_datatree(source, engine="netcdf4", decode_cf=False) as tree:
        tree.to_zarr(folder, zarr_format=zarr_format)
    source.unlink()
    return folder


def objects(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Keys relative to a folder, and bytes, of all files below it; those in the folder itself come last."""
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.parent == folder, path)
    )
    return ((str(path.relative_to(folder)), path.read_bytes()) for path in files)


def pack(folder: Path, *, inside: str = "", method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of a folder; ``inside`` is the folder of the archive that gets it ("a/")."""
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, inside + str(file.relative_to(folder)))
    return path.read_bytes()
