"""Call a function in a new process, with memory that nothing else has used."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: this checkout first, one thread."""
    left_out = ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS", "PYTHONDONTWRITEBYTECODE")
    inherited = {key: value for key, value in os.environ.items() if key not in left_out}
    paths = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    return inherited | QUIET | {"PYTHONPATH": paths} | more


def call(function: str, *arguments: Any) -> Any:
    """Call ``module:function`` in a new process; arguments and result are plain JSON."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.child", function]
    done = subprocess.run(
        [*command, json.dumps(arguments)], cwd=ROOT, env=environment(), capture_output=True
    )
    if done.returncode:
        raise RuntimeError(f"{function}{arguments}: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(*json.loads(sys.argv[2]))
    print(json.dumps(result))
