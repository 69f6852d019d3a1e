"""A test that changes weights fails and writes no golden, and the next test has a clean model."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

WEIGHT = "transformer.h.1.mlp.c_proj.weight"
WAYS = {
    "data": f"module.{WEIGHT.replace('h.1', 'h[1]')}.data.zero_()",
    "in_place": "torch.nn.init.zeros_(module.transformer.h[1].mlp.c_proj.weight)",
    "numpy": "module.transformer.h[1].mlp.c_proj.weight.detach().numpy()[:] = 0",
    "replaced": "module.transformer.h[1].mlp.c_proj.weight = "
    "torch.nn.Parameter(torch.zeros(256, 64))",
    "thread": "thread = threading.Thread("
    "target=module.transformer.h[1].mlp.c_proj.weight.data.zero_); thread.start(); thread.join()",
}
ORDERS = {
    "before": """
def test_changes(nnsight_capture, nnsight_golden, nnsight_model):
    module = nnsight_model._module
    {change}
    assert nnsight_capture.trace("Hello") == nnsight_golden
""",
    "after": """
def test_changes(nnsight_capture, nnsight_golden, nnsight_model):
    module = nnsight_model._module
    assert nnsight_capture.trace("Hello") == nnsight_golden
    {change}
""",
    "between": """
def test_changes(nnsight_capture, nnsight_golden, nnsight_model):
    module = nnsight_model._module
    run = nnsight_capture.trace("Hello")
    {change}
    assert run == nnsight_golden
""",
    "twice": """
def test_changes(nnsight_capture, nnsight_golden, nnsight_model):
    module = nnsight_model._module
    {change}
    assert nnsight_capture.trace("Hello") == nnsight_golden
    assert nnsight_capture.trace("Hello") == nnsight_golden(name="again")
""",
    "intervention": """
def test_changes(nnsight_capture, nnsight_golden, nnsight_model):
    module = nnsight_model._module
    def intervene(model):
        {change}
    assert nnsight_capture.trace("Hello", intervene=intervene) == nnsight_golden
""",
    "fixture": """
@pytest.fixture
def changed(nnsight_model):
    module = nnsight_model._module
    {change}

def test_changes(changed, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
""",
    "teardown": """
@pytest.fixture
def changed(nnsight_model):
    yield
    module = nnsight_model._module
    {change}

def test_changes(changed, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
""",
}
NEXT = """
def test_next(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden

def test_last(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hi") == nnsight_golden
"""


def write_project(project: Project, change: str) -> None:
    """Write one test file for each order of changing the weights and comparing."""
    for order, source in ORDERS.items():
        text = "import threading\n" + source.format(change=change) + NEXT
        project.test_file(text, f"test_{order}.py")


def golden_files(project: Project) -> dict[str, bytes]:
    folder = project.path / "golden"
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("options", [(), ("-n2", "--dist=load")], ids=["one", "two"])
@pytest.mark.parametrize("way", WAYS)
def test_no_golden_is_written_from_changed_weights(
    project: Project, way: str, options: tuple[str, ...]
) -> None:
    write_project(project, "pass")
    project.write_goldens(*TINY, passed=3 * len(ORDERS))
    good = golden_files(project)
    write_project(project, WAYS[way])
    for update in ((), ("--snapshot-update",)):
        result = project.run(*TINY, *options, *update)
        assert golden_files(project) == good
        outcomes = result.parseoutcomes()
        words = [line.split() for line in result.outlines]
        broken = {word[1] for word in words if word[1:] and word[0] in ("FAILED", "ERROR")}
        # A replaced parameter can be restored, so a test warns if it does not fail for its values.
        warned = {"after", "between", "teardown", *(["fixture"] if update else [])}
        warned = warned if way == "replaced" else set()
        assert broken == {f"test_{order}.py::test_changes" for order in ORDERS.keys() - warned}
        assert outcomes.get("warnings", 0) == len(warned)
        assert outcomes.get("passed", 0) >= 2 * len(ORDERS)


def test_the_first_line_names_the_changed_weights(project: Project) -> None:
    write_project(project, WAYS["data"])
    result = project.run(*TINY, "--snapshot-update", "test_before.py")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        [
            "golden not written: weights changed by this test: 1 of 28 parameters differ "
            f"({WEIGHT}); change them in a fixture that restores them"
        ]
    )


FIXTURES = """
def ablated(module):
    weight = module.transformer.h[1].mlp.c_proj.weight
    before = weight.detach().clone()
    weight.data.zero_()
    yield
    weight.data.copy_(before)

@pytest.fixture(scope="module")
def for_all(nnsight_model):
    yield from ablated(nnsight_model._module)

@pytest.fixture
def for_one(nnsight_model):
    yield from ablated(nnsight_model._module)
"""
USES = """
def test_changed({name}, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


@pytest.mark.parametrize("name", ["for_all", "for_one"])
def test_a_fixture_may_change_weights_and_weights_json_has_the_loaded_ones(
    project: Project, name: str
) -> None:
    project.test_file(NEXT, "test_next.py")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    good = golden_files(project)
    project.test_file(FIXTURES + USES.format(name=name), "test_ablated.py")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    now = golden_files(project)
    assert {path: now[path] for path in good} == good
    assert len(now) == len(good) + 1
    project.run(*TINY).assert_outcomes(passed=3)


THREAD = """
import threading, time

def later(weight, event):
    event.wait(20)
    weight.data.zero_()

EVENT, THREADS = threading.Event(), []

def test_starts(nnsight_model):
    weight = nnsight_model._module.transformer.h[1].mlp.c_proj.weight
    THREADS.append(threading.Thread(target=later, args=(weight, EVENT), name="late"))
    THREADS[0].start()

def finish():
    EVENT.set()
    THREADS[0].join()
"""
DURING = """
def test_victim(nnsight_capture, nnsight_golden):
    finish()
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""
BETWEEN = """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.name == "test_victim":
        item.module.finish()
"""
VICTIM = """
def test_victim(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


def test_a_thread_that_a_test_left_running_is_named(project: Project) -> None:
    project.test_file(THREAD + DURING + NEXT)
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "golden not written: weights changed by this test, or by thread 'late' that "
            f"test_it.py::test_starts left running: 1 of 28 parameters differ ({WEIGHT}); *"
        ]
    )
    assert [*project.goldens()] == [
        "tiny-gpt2/cpu-float32/test_it/test_last.json",
        "tiny-gpt2/cpu-float32/test_it/test_next.json",
    ]


def test_a_thread_that_changes_weights_between_tests_is_named(project: Project) -> None:
    project.test_file(BETWEEN, "conftest.py")
    project.test_file(THREAD + VICTIM + NEXT)
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "the model is not what was loaded: weights changed between tests, by thread 'late' "
            f"that test_it.py::test_starts left running: 1 of 28 parameters differ ({WEIGHT}); "
            "it is loaded again"
        ]
    )
    assert len(project.goldens()) == 2
