"""``pytest-nnsight upgrade`` and ``bisect`` as a user runs them: a release changes a weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import drifty
import pytest

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_fixture_setup(fixturedef):
    model = yield
    if fixturedef.argname == "nnsight_model":
        model._module.transformer.h[1].mlp.c_fc.weight.data.mul_(drifty.FACTOR)
    return model
"""
TEST = """
def test_golden(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden

def test_plain():
    pass
"""
PYTEST = ("--", "--nnsight-model=tiny:gpt2")
DRIFT = (
    "golden drift: 10 of 31 calls, starts at transformer.h.1.mlp.c_fc (rel 1e-3, allowed 1e-5); "
    "cause: weights (1 of 28 parameters differ: transformer.h.1.mlp.c_fc.weight)"
)


@pytest.fixture
def project(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose goldens were written with drifty 1.0."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(TEST)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "drifty.py").write_text("FACTOR = 1.0\n")
    command = [sys.executable, "-m", "pytest", *PYTEST[1:], "--snapshot-update"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "drifty.py").unlink()
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("pytest-nnsight")), *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done


@pytest.mark.long
def test_upgrade(project: Path, tmp_path: Path) -> None:
    requirements = [f"--with=drifty=={version}" for version in ("1.0", "1.3", "1.5", "9.9")]
    cache = f"--cache={tmp_path / 'cache'}"
    done = run(project, "upgrade", *requirements, cache, "--json=up.json", *PYTEST)
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "             passed  same  drift",
        "drifty==1.0       1     1",
        "drifty==1.3       1            1",
    ]
    assert lines[3].startswith("drifty==1.5  pytest did not run: ")
    assert lines[4].startswith("drifty==9.9  cannot be installed: Could not find a version")
    assert lines[-3:] == ["drifty==1.3:", "  drift: test_it.py::test_golden", f"    {DRIFT}"]
    entries = json.loads((project / "up.json").read_text())["trials"]
    assert [entry["worst"] for entry in entries] == ["same", "drift", "error", "not installed"]
    assert done.stderr.startswith("1/4 drifty==1.0: installing drifty==1.0 ... running ... ")
    again = run(project, "upgrade", "--with=drifty==1.0", cache, *PYTEST)
    assert again.returncode == 0
    assert "installing" not in again.stderr


@pytest.mark.long
def test_bisect(project: Path, tmp_path: Path) -> None:
    done = run(project, "bisect", f"--cache={tmp_path / 'cache'}", "drifty", "1.0", "1.4", *PYTEST)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "drifty 1.3, of 2025-03-04, is the first that changes the goldens "
        "(1.2.1 between cannot be installed);",
        "with 1.3:",
        "  drift: test_it.py::test_golden",
        f"    {DRIFT}",
    ]
    assert "4 releases left, 3 steps" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("upgrade", "--with=5.2"), "'5.2' is not a requirement; write it as transformers==5.23.0"),
        (
            ("upgrade", "--with=drifty==1.0", "--", "--snapshot-update"),
            "--snapshot-update writes goldens; upgrade and bisect only check them",
        ),
        (("upgrade", "--with=drifty", "--json=no/x.json"), "--json: there is no folder no"),
        (("upgrade", "--with=drifty", "--html=no/x.html"), "--html: there is no folder no"),
        (("upgrade", "--with=drifty", "--json=index"), "--json: index is a folder; give a file"),
        (
            ("upgrade", "--with=drifty", "--constraint=no.txt"),
            "cannot read the pins of no.txt: [Errno 2] No such file",
        ),
        (
            ("bisect", "drifty", "1.0", "1.4", "--", "--nnsight-prune=remove"),
            "--nnsight-prune=remove writes goldens; upgrade and bisect only check them",
        ),
        (("bisect", "drifty", "1.0", "7.7"), "there is no drifty 7.7; nearest: 1."),
        (("bisect", "drifty", "--with=x", "one", "1.4"), "there is no drifty one; nearest: 1."),
        (("bisect", "drifted", "1.0", "1.4"), "pip finds no package drifted; check the name"),
        (("bisect", "drifty", "1.4", "1.0"), "drifty 1.4 is not before 1.0; give the older"),
    ],
)
def test_mistakes_are_one_line(
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"pytest-nnsight: {message}")
    assert len(done.stderr.splitlines()) == 1
