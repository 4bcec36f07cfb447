"""A picture of the result: where the sea was measured, and how fast the measurements came."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from daemon.demo.earth import outlines
from daemon.demo.results import Judged, Outcome, Results

_COLOURS = {
    Outcome.IN: "#2a7f9e",
    Outcome.REPLACED: "#8a6fb0",
    Outcome.QUARANTINED: "#d1495b",
    Outcome.SKIPPED: "#d1495b",
    Outcome.RECOGNISED: "#999999",
}
_LAND = "#d9d6cf"


def draw(path: Path, dataset: xr.Dataset, results: Results) -> None:
    """Draw the figure into a PNG file, 1800 by 1350 pixels.

    Parameters
    ----------
    path
        The file.
    dataset
        All rows, decoded: ``longitude`` and ``latitude`` (degrees), ``ssha`` (metres), shape (rows,).
    results
        For the panels below the map.
    """
    figure = Figure(figsize=(12, 9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.75, 1), width_ratios=(1, 1.6))
    _map(figure, figure.add_subplot(grid[0, :]), dataset)
    _rows(figure.add_subplot(grid[1, 0]), results)
    _arrivals(figure.add_subplot(grid[1, 1]), results)
    granules = len({judged.granule.key for judged in results.judged})
    figure.suptitle(
        f"{granules} synthetic granules, {len(results.judged)} deliveries, one collection of {results.rows:,} rows",
        fontsize=15,
        fontweight="bold",
    )
    figure.savefig(path)


def _map(figure: Figure, axes: Axes, dataset: xr.Dataset) -> None:
    for ring in outlines().values():
        axes.add_patch(Polygon(ring, closed=True, facecolor=_LAND, edgecolor="none", zorder=0))
    longitude, latitude, ssha = (dataset[name].to_numpy() for name in ("longitude", "latitude", "ssha"))
    axes.scatter(longitude[::4], latitude[::4], s=0.4, color="#bcb8ae", linewidths=0, zorder=1)
    at_sea = np.flatnonzero(np.isfinite(ssha))[::2]
    limit = float(np.ceil(np.nanquantile(np.abs(ssha), 0.98) * 20) / 20)
    shown = axes.scatter(
        longitude[at_sea],
        latitude[at_sea],
        c=ssha[at_sea],
        s=5,
        linewidths=0,
        cmap="RdYlBu_r",
        vmin=-limit,
        vmax=limit,
        zorder=2,
    )
    axes.set(xlim=(-180, 180), ylim=(-75, 80), aspect="equal", facecolor="#f4f7f9")
    axes.set(xlabel="longitude (degrees east)", ylabel="latitude (degrees north)")
    axes.set(xticks=range(-180, 181, 60), yticks=range(-60, 61, 30))
    axes.set_title("Sea surface height anomaly along the ground tracks, read back from the collection", loc="left")
    figure.colorbar(shown, ax=axes, label="ssha (m)", extend="both", shrink=0.85, pad=0.01)


def _rows(axes: Axes, results: Results) -> None:
    labels = ["-".join(f"{value:02d}" for _, value in p.keys) for p in results.partitions]
    rows = [p.rows for p in results.partitions]
    bars = axes.barh(labels, rows, color=_COLOURS[Outcome.IN], height=0.62)
    axes.bar_label(
        bars,
        [f"{p.rows:,} rows, {p.granules} granules" for p in results.partitions],
        label_type="center",
        color="white",
    )
    axes.invert_yaxis()
    axes.set(xlabel="rows")
    axes.locator_params(axis="x", nbins=5)
    axes.set_title("Daily partitions", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _arrivals(axes: Axes, results: Results) -> None:
    start = results.delivered[0].at
    drawn: set[Outcome] = set()
    for number, judged in enumerate(results.judged, 1):
        landed, settled = _times(judged, start)
        colour = _COLOURS.get(judged.outcome, "black")
        label = str(judged.outcome) if judged.outcome not in drawn else None
        drawn.add(judged.outcome)
        axes.plot([landed, settled], [number, number], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
        axes.plot(settled, number, "o", color=colour, markersize=4, label=label)
    axes.set(xlabel="time since the first delivery (s)", ylabel="delivery", ylim=(len(results.judged) + 1, 0))
    axes.set_xlim(left=0)
    axes.set_title("From event (left end) to visible (dot)", loc="left")
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _times(judged: Judged, start: datetime) -> tuple[float, float]:
    """Seconds from ``start`` to landing and to settling; a delivery that needed nothing is settled as it lands."""
    landed = judged.delivered.at
    settled = judged.entry.settled if judged.entry is not None and judged.entry.settled is not None else landed
    return (landed - start).total_seconds(), (settled - start).total_seconds()
