"""Imported by a sandbox: makes the seeds once, and reads them, so that no child has to set up the library."""

from __future__ import annotations

import tests.fuzz.checks  # noqa: F401 - so that no child imports it
from tests.fuzz.seeds import seeds
from zcollection_engine.granules.netcdf import read_netcdf

for seed in seeds():
    read_netcdf(seed.data, seed.spec, name=seed.name)
