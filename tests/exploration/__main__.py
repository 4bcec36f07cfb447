"""Explore on all cores: ``python -m tests.exploration 5000 --seed 0``; one schedule again: ``--only SEED``."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator

from tests.exploration.explore import ZARR2, Summary, explore
from tests.exploration.rules import RULES

_BATCH = 25


def main() -> int:
    """Run the program; the exit code tells whether a schedule was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description=__doc__)
    parser.add_argument("schedules", type=int, nargs="?", default=1000, help="how many schedules")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    parser.add_argument("--only", type=int, metavar="SEED", help="run one schedule and print its report")
    parser.add_argument("--drop", choices=sorted(RULES), help="switch a rule of the protocol off and see it break")
    parser.add_argument("--zarr2", dest="drop", action="store_const", const=ZARR2, help="collections in Zarr v2")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    if args.only is not None:
        summary = explore((range(args.only, args.only + 1), args.drop))
    else:
        summary = _explore_all(range(args.seed, args.seed + args.schedules), args.drop, args.processes)
    for report in list(summary.violations.values())[:3]:
        sys.stdout.write(f"\n{report}\n")
    return 1 if summary.violations else 0


def _explore_all(seeds: range, drop: str | None, processes: int) -> Summary:
    started = time.monotonic()
    summary = Summary()
    with multiprocessing.get_context("spawn").Pool(processes, logging.disable) as pool:
        for part in pool.imap_unordered(explore, ((batch, drop) for batch in _batches(seeds))):
            summary.add(part)
            for report in part.violations.values():
                sys.stdout.write(f"{report.splitlines()[0]}\n")
            _tell(summary, time.monotonic() - started, end="\r")
    _tell(summary, time.monotonic() - started, end="\n")
    for what, count in sorted(summary.counts.items()):
        sys.stdout.write(f"{count:10d} {what}\n")
    sys.stdout.write(f"seeds with a violation: {sorted(summary.violations) or 'none'}\n")
    return summary


def _batches(seeds: range) -> Iterator[range]:
    for start in range(seeds.start, seeds.stop, _BATCH):
        yield range(start, min(start + _BATCH, seeds.stop))


def _tell(summary: Summary, seconds: float, *, end: str) -> None:
    rate = summary.schedules / seconds if seconds else 0.0
    sys.stdout.write(
        f"{summary.schedules} schedules, {len(summary.violations)} violations, {rate:.1f} schedules/s  {end}"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
