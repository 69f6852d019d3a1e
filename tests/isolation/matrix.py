"""Run pytest for each cause of a crash or hang, each phase and each way to start pytest."""

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
    "collection": ("CAUSES[{cause!r}]()\ndef test_crashes(): pass\n", ""),
    "loading": ("def test_crashes(nnsight_model): pass\n", ""),
    "session fixture": (
        "@pytest.fixture(scope='session', autouse=True)\ndef crashes(): CAUSES[{cause!r}]()\n"
        "def test_crashes(): pass\n",
        "",
    ),
    "setup": (
        "@pytest.fixture\ndef crashes(): CAUSES[{cause!r}]()\ndef test_crashes(crashes): pass\n",
        "",
    ),
    "trace": (
        "def test_crashes(nnsight_capture):\n"
        "    nnsight_capture.trace('Hello', intervene=lambda model: CAUSES[{cause!r}]())\n",
        "nnsight_capture",
    ),
    "generate": (
        "def test_crashes(nnsight_capture):\n"
        "    nnsight_capture.generate('Hello', max_new_tokens=3,\n"
        "        intervene=lambda model: CAUSES[{cause!r}]())\n",
        "nnsight_capture",
    ),
    "teardown": (
        "@pytest.fixture\ndef crashes():\n    yield\n    CAUSES[{cause!r}]()\n"
        "def test_crashes(crashes): pass\n",
        "",
    ),
    "atexit": ("def test_crashes(): atexit.register(CAUSES[{cause!r}])\n", ""),
}
LOADING = """
import sys, types
from causes import CAUSES

loading = types.ModuleType("loading")  # replaces the module that loads models
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
BUDGET = 90.0  # seconds for one session, with several workers and models


# At exit, Python prints these errors and ends with 0; the connection is already closed.
QUIET_AT_EXIT = (
    "sys.exit", "interrupt", "memory", "closed", "child", "pytest.exit", "surrogate", "no text",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a session ended."""

    code: int
    seconds: float
    text: str
    counts: dict[str, int]
    not_run: int
    goldens: dict[str, str]


def write(folder: Path, cause: str, phase: str) -> None:
    """Write a project in which one of three tests crashes; the other two have goldens."""
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
    """Return the text of each file below ``golden/``."""
    paths = sorted(path for path in (folder / "golden").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def run(folder: Path, way: str) -> Outcome:
    """Run pytest with ``--snapshot-update``, and kill it after `BUDGET`."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    command += ["--nnsight-model=tiny:gpt2", "--snapshot-update", *LIMITS, *WAYS[way]]
    start = time.monotonic()
    with (folder / "output").open("w+") as output:  # a child process would hold a pipe open
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
    """Write the goldens of the two tests that do not crash."""
    write(folder, "sleep", "trace")
    (folder / "test_b.py").unlink()
    command = [sys.executable, "-m", "pytest", "--nnsight-model=tiny:gpt2", "--snapshot-update"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for name in ("__pycache__", ".pytest_cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
