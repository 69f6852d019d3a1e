"""Run the built-in suite on a built-in model, then again with one weight changed: ``make demo``."""

from __future__ import annotations

import os
import subprocess
import sys

SUITE = ["--nnsight-model", "tiny:gpt2", "--nnsight-suite"]


def main() -> int:
    """Return 0 if the first session passes and the second one catches the change."""
    print("1. The built-in suite on tiny:gpt2 against the goldens in golden/:\n", flush=True)
    if pytest(*SUITE).returncode:
        print("\nThe demo failed: the suite should pass on an unchanged model.")
        return 1
    print(
        "\n2. The same with one of 149,760 weights changed by 0.01 (examples/planted_change.py):\n"
    )
    sys.stdout.flush()
    output = pytest(*SUITE, "-p", "examples.planted_change", "--tb=short", capture=True).stdout
    drifts = [line for line in output.splitlines() if "golden drift" in line and line[0] == "E"]
    if not drifts:
        print(output, "\nThe demo failed: the planted change was not caught.")
        return 1
    print("   " + drifts[0][drifts[0].index("golden drift") :])
    print(
        f"\nCaught in {len(drifts)} of 4 golden tests; the line names the module that was changed."
    )
    return 0


def pytest(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest in the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        text=True,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
