"""Write a project into an empty folder, and time a session of pytest on it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import environment


@dataclass(frozen=True, slots=True)
class Session:
    """Hold the processor time of all processes of a session, and its wall time."""

    processor: float
    clock: float
    output: str


def run(folder: Path, *arguments: str, passes: bool = True, **more: str) -> Session:
    """Run pytest in a folder. Raise `RuntimeError` unless all tests pass."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True
    )
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if passes and done.returncode:
        raise RuntimeError(
            f"pytest ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-2000:]}"
        )
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Session(processor, clock, done.stdout + done.stderr)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write a project, with an ini file so that pytest does not look further up."""
    for name, text in {"pytest.ini": "[pytest]\n", **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
