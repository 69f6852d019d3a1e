"""Write the rows and their plot into ``docs/performance.md``."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.plot import draw
from benchmarks.row import HEADER, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "performance.md", DOCS / "images" / "growth.svg"
BEGIN, END = "<!-- measured: make bench writes from here -->", "<!-- to here -->"
PACKAGES = ("torch", "transformers", "nnsight", "pytest", "pytest-xdist")


def write(rows: Sequence[Row]) -> None:
    """Replace the measured part of the page, and leave the rest as it is."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = "\n".join([BEGIN, "", surroundings(), "", *table(rows), "", END])
    PAGE.write_text(before + text + after, encoding="utf-8")
    grown = [row for row in rows if row.points]
    if grown:
        PICTURE.write_text(draw(grown), encoding="utf-8")


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table; rows without a goal are in italics."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---|---|---|---|"]
    for row in rows:
        first, *others = row.cells
        name = first if row.goal is not None else f"*{first.strip()}*"
        lines.append(f"| {name} | {' | '.join(others)} |")
    return lines


def surroundings() -> str:
    """Describe date, processor and versions, without the name of the machine."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return (
        f"{datetime.date.today():%d %B %Y}, {processor()}, {os.cpu_count()} cores, "
        f"{platform.system()}; Python {platform.python_version()}, {versions}."
    )


def processor() -> str:
    """Return the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
