"""The model and its libraries are loaded once in each process that runs tests."""

from __future__ import annotations

import pytest
from project import TINY, Project

SPY = """
import atexit, pathlib, os, sys

def pytest_configure(config):
    atexit.register(tell, "worker" if hasattr(config, "workerinput") else "controller")

def tell(role):
    heavy = [name for name in ("numpy", "torch", "transformers", "nnsight") if name in sys.modules]
    pathlib.Path(f"{role}-{os.getpid()}.imports").write_text(" ".join(heavy))
"""
TEST = """
def test_run(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden

def test_model(nnsight_model):
    assert nnsight_model is not None
"""


@pytest.mark.parametrize(
    ("options", "workers"),
    [((), 1), (("-n", "2"), 2), (("--nnsight-isolation=off",), 0)],
    ids=["own worker", "two workers", "no worker"],
)
def test_each_process_loads_once(project: Project, options: tuple[str, ...], workers: int) -> None:
    """The controller loads nothing, with our worker or with those of ``-n``."""
    (project.path / "spy.py").write_text(SPY)
    for number in range(4):
        (project.path / f"test_{number}.py").write_text(TEST)
    result = project.run(
        *TINY, "-p", "spy", "-p", "no:hypothesispytest", "--snapshot-update", *options
    )
    result.assert_outcomes(passed=8)
    lines = result.outlines + result.errlines
    imports = {path.name.partition("-")[0]: [] for path in project.path.glob("*.imports")}
    for path in project.path.glob("*.imports"):
        imports[path.name.partition("-")[0]].append(path.read_text())
    everything = "numpy torch transformers nnsight"
    without_worker = {"controller": [everything]}
    with_workers = {"controller": [""], "worker": [everything] * workers}
    assert imports == (with_workers if workers else without_worker)
    assert sum("loading tiny:gpt2" in line for line in lines) == max(1, workers)


def test_a_test_may_import_nnsight_first(project: Project) -> None:
    """nnsight 0.8 adds attributes to every object, after which a part of anyio fails to import."""
    (project.path / "test_it.py").write_text(f"import nnsight\n{TEST}", encoding="utf-8")
    result = project.run(*TINY, "-p", "no:anyio", "-p", "no:hypothesispytest", "--snapshot-update")
    result.assert_outcomes(passed=2)


COUNTING = """
import gc, pathlib, pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    ran = []
    note = lambda phase, info: ran.append(phase)
    gc.callbacks.append(note)
    result = yield
    gc.callbacks.remove(note)
    if fixturedef.argname == "nnsight_model":
        pathlib.Path("collections").write_text(str(ran.count("start")))
    return result
"""


def test_garbage_collection_is_paused_while_a_model_is_loaded(project: Project) -> None:
    """Otherwise it runs a thousand times and takes a quarter of the loading time."""
    (project.path / "conftest.py").write_text(COUNTING)
    (project.path / "test_it.py").write_text("def test_model(nnsight_model): pass\n")
    project.run(*TINY).assert_outcomes(passed=1)
    assert int((project.path / "collections").read_text()) < 20
