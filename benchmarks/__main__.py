"""What pytest-nnsight costs, as one table: ``make bench``, or ``python -m benchmarks [MODEL]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path

ROOMS = ("capture", "memory", "goldens", "start", "workers", "growth")


def main() -> None:
    """Measure room by room, and print each row as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny:llama", help="a model spec")
    parser.add_argument("--only", action="append", choices=ROOMS, help="some of the measures")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way takes its turn")
    parser.add_argument(
        "--keep", type=Path, help="a file where rows are kept, beside those of other measures"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md anew")
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from benchmarks import page, table
    from benchmarks.row import Row

    kept = chosen.keep
    known = json.loads(kept.read_text()) if kept is not None and kept.is_file() else {}
    print(table.heading(), flush=True)
    for name in chosen.only or ROOMS:
        known[name] = []
        measure = importlib.import_module(f"benchmarks.{name}").measure
        for row in measure(chosen.model, chosen.rounds):
            print(table.line(row), flush=True)
            known[name].append(asdict(row))
        if kept is not None:
            kept.write_text(json.dumps(known, indent=1) + "\n")
    if chosen.write:
        page.write([Row(**row) for name in ROOMS for row in known.get(name, ())])


if __name__ == "__main__":
    main()
