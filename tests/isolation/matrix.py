"""What can go wrong, where, and beside what: a run of pytest for each, in its own process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CAUSES = Path(__file__).with_name("causes.py").read_text()
HANG = r"HUNG after \d+ s"
TITLES = {
    "sleep": HANG,
    "loop": HANG,
    "lock": HANG,
    "interpreter": HANG,
    "segfault": "CRASHED: segmentation fault",
    "abort": "CRASHED: aborted",
    "kill": r"KILLED \(out of memory\?\)",
    "exit": "EXITED 3",
    "sys.exit": "SystemExit: 3|EXITED 3",
    "interrupt": "KeyboardInterrupt",
    "memory": "MemoryError",
    "stop": HANG,
    "timers": HANG,
    "closed": "LOST: the worker closed its connection to pytest",
    "child": "a child process of a test is still running",
    "pytest.exit": "Exit: all done",
    "surrogate": r"Failed: \\ud800",
    "no text": "NoTextError: <exception str",
}
PHASES = {
    "collection": ("CAUSES[{cause!r}]()\ndef test_dies(): pass\n", ""),
    "loading": ("def test_dies(nnsight_model): pass\n", ""),
    "session fixture": (
        "@pytest.fixture(scope='session', autouse=True)\ndef dies(): CAUSES[{cause!r}]()\n"
        "def test_dies(): pass\n",
        "",
    ),
    "setup": (
        "@pytest.fixture\ndef dies(): CAUSES[{cause!r}]()\ndef test_dies(dies): pass\n",
        "",
    ),
    "trace": (
        "def test_dies(nnsight_capture):\n"
        "    nnsight_capture.trace('Hello', intervene=lambda model: CAUSES[{cause!r}]())\n",
        "nnsight_capture",
    ),
    "generate": (
        "def test_dies(nnsight_capture):\n"
        "    nnsight_capture.generate('Hello', max_new_tokens=3,\n"
        "        intervene=lambda model: CAUSES[{cause!r}]())\n",
        "nnsight_capture",
    ),
    "teardown": (
        "@pytest.fixture\ndef dies():\n    yield\n    CAUSES[{cause!r}]()\n"
        "def test_dies(dies): pass\n",
        "",
    ),
    "atexit": ("def test_dies(): atexit.register(CAUSES[{cause!r}])\n", ""),
}
LOADING = """
import sys, types
from causes import CAUSES

loading = types.ModuleType("loading")  # stands for what loads a model, as of any that cannot be
loading.load = lambda *a: CAUSES[{cause!r}]()
sys.modules["pytest_nnsight.models.loading"] = loading
"""
WAYS = {
    "auto": ("-p", "no:timeout"),
    "-n 2": ("-p", "no:timeout", "-n", "2"),
    "pytest-timeout": ("--timeout=30",),
    "faulthandler_timeout": ("-p", "no:timeout", "-o", "faulthandler_timeout=1"),
}
GOLDEN = """
def test_{name}(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("{name}") == nnsight_golden
"""
LIGHT = "def test_{name}({uses}): pass\n"
COUNTS = ("passed", "failed", "error", "errors", "skipped")
LIMITS = ("--nnsight-timeout=2", "--nnsight-load-timeout=20")
BUDGET = 90.0  # seconds for one run, several workers and models in it


# Python prints these there, and ends with 0; the connection is closed by then.
QUIET_AT_EXIT = (
    "sys.exit", "interrupt", "memory", "closed", "child", "pytest.exit", "surrogate", "no text",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    seconds: float
    text: str
    counts: dict[str, int]
    not_run: int
    goldens: dict[str, str]


def write(folder: Path, cause: str, phase: str) -> None:
    """Write a project in which one of three tests dies; the two around it have goldens."""
    (folder / "causes.py").write_text(CAUSES)
    body, uses = PHASES[phase]
    head = "import pytest\nfrom causes import *\n"
    (folder / "test_b.py").write_text(head + body.format(cause=cause))
    for name in ("a", "c"):
        text = GOLDEN.format(name=name) if uses else LIGHT.format(name=name, uses=uses)
        (folder / f"test_{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    if phase == "loading":
        (folder / "conftest.py").write_text(LOADING.format(cause=cause))


def goldens(folder: Path) -> dict[str, str]:
    """Return all that lies below ``golden/``."""
    paths = sorted(path for path in (folder / "golden").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def run(folder: Path, way: str) -> Outcome:
    """Run pytest there, updating goldens, and end it where it does not end."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    command += ["--nnsight-model=tiny:gpt2", "--snapshot-update", *LIMITS, *WAYS[way]]
    start = time.monotonic()
    with (folder / "output").open("w+") as output:  # a pipe would be open as long as a child lives
        try:
            code = subprocess.run(
                command, cwd=folder, stdout=output, stderr=output, timeout=BUDGET, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        seconds = time.monotonic() - start
        output.seek(0)
        text = output.read()
    last = next((x for x in reversed(text.splitlines()) if re.search(r" in [\d.]+s", x)), "")
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", last) if word in COUNTS}
    not_run = re.search(r"(\d+) tests? did not run", text)
    return Outcome(
        code,
        seconds,
        text,
        counts,
        int(not_run[1]) if not_run else 0,
        goldens(folder),
    )


def prepare(folder: Path) -> None:
    """Write the goldens of the two tests that live."""
    write(folder, "sleep", "trace")
    (folder / "test_b.py").unlink()
    command = [sys.executable, "-m", "pytest", "--nnsight-model=tiny:gpt2", "--snapshot-update"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for name in ("__pycache__", ".pytest_cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
