"""A trace body that does not end at its last line fails its test, on every nnsight.

Before 0.8, nnsight runs the body in a thread that only catches `Exception`, and waits for ever if
the thread ended by anything else. ``make test-isolation-old`` runs this on 0.7.0.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.version import Version

BODIES = Path(__file__).parents[1] / "examples" / "trace_bodies.py"
HUNG = "FAILED .* - (Failed: )?HUNG after 4 s"  # a worker whose body thread still runs is killed
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


def test_a_body_that_does_not_end_fails_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(BODIES.read_text())
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
