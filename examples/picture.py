"""Draw the README's picture of a failure from a real session: ``make picture``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "images" / "failure.svg"
COMMAND = "pytest --nnsight-model tiny:gpt2 --nnsight-suite -k short"


def main() -> None:
    """Run the suite with one weight changed and save what the terminal shows."""
    result = subprocess.run(
        [sys.executable, "-m", *COMMAND.split(), "-p", "examples.planted_change", "--color=yes"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "CI"} | {"COLUMNS": "118"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    lines = result.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if "FAILURES" in line)
    ours = [line for line in lines[start:] if not re.search("snapshot (report|failed)", line)]
    console = Console(record=True, width=118, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(f"[bold]$[/bold] {COMMAND}\n")
    console.print(Text.from_ansi("\n".join(ours)))
    svg = console.export_svg(title="one weight was changed by 0.01")
    svg = re.sub(r"\s*<!--.*?-->", "", svg)
    svg = re.sub(
        r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL
    )  # it would be fetched from another server
    TARGET.write_text(svg, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
