"""Merge functions as users write them, good ones and bad ones; named ``tests.merge_functions:name``."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def keep_all(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    return xr.concat([existing, inserted], dim=dim)


def keep_newcomers(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    """Existing rows stay outside the span of the new ones."""
    low, high = inserted[axis].values.min(), inserted[axis].values.max()
    values = existing[axis].values
    outside = existing.isel({dim: np.flatnonzero((values < low) | (values > high))})
    return xr.concat([outside, inserted], dim=dim)


def keep_nothing(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    return existing.isel({dim: slice(0, 0)})


def move_a_day(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    merged = keep_all(existing, inserted, axis=axis, dim=dim)
    return merged.assign({axis: merged[axis] + np.timedelta64(1, "D")})


def fail(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    raise RuntimeError("no idea")


def drop_height(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    return keep_all(existing, inserted, axis=axis, dim=dim).drop_vars("height")


def widen_height(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    merged = keep_all(existing, inserted, axis=axis, dim=dim)
    return merged.assign(height=merged["height"].astype(np.float64))


def rename_dimension(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> xr.Dataset:
    return keep_all(existing, inserted, axis=axis, dim=dim).rename_dims({dim: "row"})


def return_arrays(existing: xr.Dataset, inserted: xr.Dataset, *, axis: str, dim: str) -> Any:
    return existing[axis].values


NO_FUNCTION = 3
