"""Fuzz the reader on all cores: ``python -m tests.fuzz 20000 --seed 0``; one case again: ``--only NUMBER``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import Summary, run_cases
from tests.fuzz.checks import case

_BATCH = 500


def main() -> int:
    """Run the program; the exit code tells whether a case ended otherwise than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=2000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="from which all choices come")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run one case")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --only: write the damaged file")
    parser.add_argument("--measure", action="store_true", help="see also what memory the netCDF library takes alone")
    parser.add_argument("--processes", type=int, help="by default one for each processor")
    args = parser.parse_args()
    numbers = range(args.cases)
    if args.only is not None:
        numbers = range(args.only, args.only + 1)
        chosen = case(args.seed, args.only)
        sys.stdout.write(f"{chosen.seed.name}: {', '.join(chosen.damages)}; {len(chosen.data)} bytes\n")
        if args.keep is not None:
            args.keep.write_bytes(chosen.data)
    summary = Summary()
    started = time.monotonic()
    for first in range(0, len(numbers), _BATCH):
        batch = numbers[first : first + _BATCH]
        summary.update(run_cases(args.seed, batch, processes=args.processes, measure=args.measure))
        sys.stdout.write(f"{summary.cases} cases in {time.monotonic() - started:.0f} s  \r")
        sys.stdout.flush()
    sys.stdout.write(f"\n{summary}\n")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
