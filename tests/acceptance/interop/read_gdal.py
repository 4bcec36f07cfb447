"""Reads single arrays as rasters, with GDAL's Zarr driver as rasterio ships it: one dimension is one line."""

from __future__ import annotations

import warnings
from typing import Any

import exchange
import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError


def read(task: dict[str, Any], answer: exchange.Answer) -> None:
    """Open each array by itself."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # rows along an orbit are no map
    answer.facts["versions"] = {"gdal": rasterio.__gdal_version__, "rasterio": rasterio.__version__}
    for name, folder in exchange.places(task, "arrays"):
        group, _, array = folder.rpartition("/")
        one_line = name in task["lines"]
        answer.take(f"array/{name}", lambda g=group, a=array, line=one_line: raster(g, a, line), (RasterioIOError,))


def raster(group: str, array: str, one_line: bool) -> Any:
    """Values of one array; a raster has two dimensions, so one line may stand for one dimension."""
    with rasterio.open(f'ZARR:"{group}":/{array}') as dataset:
        values = np.asarray(dataset.read(1))
    return values[0] if one_line else values


if __name__ == "__main__":
    exchange.answer_task(read)
