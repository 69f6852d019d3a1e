"""Print the cost of pytest-nnsight as one table: ``python -m benchmarks [MODEL]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path

MEASURES = ("capture", "memory", "goldens", "start", "workers", "growth")


def main() -> None:
    """Run the measures one after another, and print each row when it is ready."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny:llama", help="a model spec")
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASURES,
        help="run only this measure; may be given twice",
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison")
    parser.add_argument(
        "--keep", type=Path, help="store rows in this file, next to those of other measures"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    chosen = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from benchmarks import page, table
    from benchmarks.row import Row

    file = chosen.keep
    rows = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    print(table.heading(), flush=True)
    for name in chosen.only or MEASURES:
        rows[name] = []
        measure = importlib.import_module(f"benchmarks.{name}").measure
        for row in measure(chosen.model, chosen.rounds):
            print(table.line(row), flush=True)
            rows[name].append(asdict(row))
        if file is not None:
            file.write_text(json.dumps(rows, indent=1) + "\n")
    if chosen.write:
        page.write([Row(**row) for name in MEASURES for row in rows.get(name, ())])


if __name__ == "__main__":
    main()
