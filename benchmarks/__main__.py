"""What pytest-nnsight costs, as one table: ``make bench``, or ``python -m benchmarks [MODEL]``."""

from __future__ import annotations

import argparse
import importlib
import os

ROOMS = ("capture", "memory", "goldens", "start", "workers", "growth")


def main() -> None:
    """Measure room by room, and print each row as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny:llama", help="a model spec")
    parser.add_argument("--only", action="append", choices=ROOMS, help="some of the measures")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way takes its turn")
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from benchmarks import table

    print(table.heading(), flush=True)
    for name in chosen.only or ROOMS:
        for row in importlib.import_module(f"benchmarks.{name}").measure(
            chosen.model, chosen.rounds
        ):
            print(table.line(row), flush=True)


if __name__ == "__main__":
    main()
