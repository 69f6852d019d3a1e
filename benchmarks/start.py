"""Measure the start of a session: isolation, loads, and the plugin when it is unused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.row import Row
from benchmarks.session import Session, run, write
from benchmarks.turns import ratio

TESTS = """
def test_logits(nnsight_capture):
    assert nnsight_capture.trace([1, 2, 3], modules="*").calls

def test_type(nnsight_model):
    assert nnsight_model is not None
"""
# Both processes import other installed plugins, which says nothing about isolation.
OTHERS = ("hypothesispytest", "anyio", "html", "metadata", "playwright", "base_url")
ALONE = tuple(word for name in OTHERS for word in ("-p", f"no:{name}"))
PLAIN = "def test_plain():\n    assert 1 + 1 == 2\n"
SPY = """
import atexit, os, pathlib, sys

def pytest_configure(config):
    atexit.register(tell)

def tell():
    loaded = ",".join(name for name in ("torch", "nnsight") if name in sys.modules)
    pathlib.Path(f"imports-{os.getpid()}.txt").write_text(loaded)
"""


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the start of an isolated session, its loads, and the cost of an unused plugin."""
    with tempfile.TemporaryDirectory() as folder:
        yield from isolated(Path(folder), model, max(3, rounds // 2))
    with tempfile.TemporaryDirectory() as folder:
        yield from unused(Path(folder), 6 * rounds)


def isolated(folder: Path, model: str, rounds: int) -> Iterator[Row]:
    """Compare a session with a worker and a session without."""
    write(folder, {"test_it.py": TESTS, "spy.py": SPY})
    ways = (("--nnsight-isolation=off",), ("--nnsight-isolation=on",))
    taken: tuple[list[Session], list[Session]] = ([], [])
    for number in range(rounds + 1):
        for way, into in zip(ways, taken, strict=True):
            session = run(folder, *ALONE, "-p", "spy", f"--nnsight-model=m={model}", *way)
            into += [session] if number else []
    plain, ours = taken
    name = "start of a session with isolation, over one without"
    yield Row(
        f"{name}, by the clock", ratio([s.clock for s in ours], [s.clock for s in plain]), 1.1, 1
    )
    times = [s.processor for s in ours], [s.processor for s in plain]
    yield Row("  the same, processor time of all processes", ratio(*times), None, 1)
    loads = [session.output.count("nnsight: loading") for session in (*plain, *ours)]
    yield Row("loads of the model a session", float(max(loads)), 1, unit="", digits=0)
    yield Row(
        "processes that import torch, a session",
        _importing(folder) / (2 * (rounds + 1)),
        1,
        unit="",
        digits=1,
    )


def _importing(folder: Path) -> int:
    texts = [path.read_text() for path in folder.glob("imports-*.txt")]
    return sum("torch" in text for text in texts)


def unused(folder: Path, rounds: int) -> Iterator[Row]:
    """Compare ``--collect-only`` in a project that does not use the plugin with one without it.

    The minimum of many runs counts: the work is the same, and other programs only add time.
    """
    write(folder, {f"test_{number}.py": PLAIN for number in range(3)})
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for way, into in zip((("-p", "no:nnsight"), ()), taken, strict=True):
            session = run(folder, "--collect-only", "-q", *way)
            into += [session.processor] if number else []
    plain, ours = taken
    yield Row("pytest --collect-only, plugin installed and unused", min(ours) / min(plain), 1.02, 1)
