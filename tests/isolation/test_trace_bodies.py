"""What ends a trace's body otherwise than by its last line: a failed test on every nnsight.

Before 0.8 nnsight runs the body in a thread that catches `Exception` alone, and waits for ever for
the thread that something else has ended. ``make test-isolation-old`` runs this on 0.7.0.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.version import Version

BODIES = """
import sys
import pytest

def test_fail(nnsight_model):
    with nnsight_model.trace("Hello"):
        pytest.fail("not good")

def test_skip(nnsight_model):
    with nnsight_model.trace("Hello"):
        pytest.skip("not now")

def test_return(nnsight_model):
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[0].output
        return

def test_exit(nnsight_model):
    with nnsight_model.trace("Hello"):
        sys.exit(3)

def test_interrupt(nnsight_model):
    with nnsight_model.trace("Hello"):
        raise KeyboardInterrupt

def test_steps(nnsight_model):
    with nnsight_model.generate("Hello", max_new_tokens=3) as tracer:
        for step in tracer.iter[:]:
            pass

def test_lives(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""
HUNG = "FAILED .* - (Failed: )?HUNG after 4 s"  # a worker whose body thread lives on is killed
NOW = {
    "fail": "FAILED .* - Failed: not good",
    "skip": r"SKIPPED .*: not now",
    "return": "FAILED .*",
    "exit": "FAILED .* - RaisedInterrupt: SystemExit: 3",
    "interrupt": "FAILED .* - RaisedInterrupt: KeyboardInterrupt",
    "steps": HUNG,
}


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    return subprocess.run(
        [*command, "--nnsight-model=tiny:gpt2", "--nnsight-timeout=4", "--color=no"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_whatever_ends_a_body_ends_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BODIES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert pytest_in(tmp_path, "--snapshot-update", "-k", "lives").returncode == 0
    result = pytest_in(tmp_path)
    print(result.stdout, result.stderr)
    assert result.returncode == 1
    is_old = Version(metadata.version("nnsight")) < Version("0.8")
    for name, now in NOW.items():
        expected = (HUNG if is_old else now).replace(".*", rf".*(test_{name}|test_it.py).*", 1)
        assert re.search(expected, result.stdout), name
    assert re.search(r"PASSED test_it.py::test_lives", result.stdout)
    hung = len(NOW) if is_old else 1
    counts = (f"{hung} failed", "1 passed") if is_old else ("5 failed", "1 passed", "1 skipped")
    assert all(count in result.stdout.splitlines()[-1] for count in counts)
