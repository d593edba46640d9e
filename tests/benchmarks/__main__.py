"""`python -m tests.benchmarks [--check] [NAME ...]`: run the benchmarks and print their figures.

A benchmark is a module of this folder with ``main() -> list[Figure]``. Times are processor seconds
of one core where a figure says so, so that a busy machine changes little. With ``--check`` a broken
promise ends with exit code 1. (`learnability` trains for an hour and has its own command.)
"""

from __future__ import annotations

import argparse
import importlib
import sys

BENCHMARKS = ("plan_speed", "train_speed", "evaluation_speed", "serving_speed", "verify_speed")


def run(names: list[str]) -> bool:
    """Print every figure; whether all promises are kept."""
    kept = True
    for name in names:
        print(f"{name}", flush=True)
        for figure in importlib.import_module(f"tests.benchmarks.{name}").main():
            print(f"  {figure.describe()}", flush=True)
            kept &= figure.holds
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--check", action="store_true", help="exit with 1 on a broken promise")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    kept = run(options.names or list(BENCHMARKS))
    sys.exit(0 if kept or not options.check else 1)
