"""Differing bits are listed; ``--nnsight-exact`` fails on them where they should be equal."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("leaky", "warm")

PATH = "transformer.h.1.mlp.c_fc"
TEST = f"""
@pytest.fixture(scope="session", autouse=True)
def one_weight(nnsight_model):
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    with torch.no_grad():
        weight = nnsight_model._module.get_submodule("{PATH}").weight
        weight[3, 5] += float(os.environ.get("CHANGE", "0"))

def test_exact(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("The quick brown fox") == nnsight_golden
"""
NAMED = f"10 of 31 calls, from {PATH} on"


@pytest.fixture
def written(project: Project) -> Project:
    project.test_file(TEST)
    project.write_goldens(*TINY, passed=1)
    return project


def test_equal_bits_are_not_mentioned(written: Project) -> None:
    result = written.run(*TINY, "--nnsight-exact")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*bits differ*")


def test_a_change_below_the_tolerance_passes_and_is_listed(
    written: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGE", "1e-6")
    result = written.run(*TINY, "--junit-xml=junit.xml")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(
        [
            r"within tolerance, but not equal bit by bit \(--nnsight-exact makes this fail\):",
            rf"  test_it.py::test_exact: {NAMED} \(largest \S+e-\d, allowed 1e-5\)",
        ]
    )
    properties = {
        str(p.get("name")): str(p.get("value"))
        for p in ET.parse(written.path / "junit.xml").iter("property")
    }
    record = json.loads(properties.pop("nnsight_record"))
    assert not properties
    assert record["verdict"] == "within noise"
    assert record["differ"].startswith(NAMED)


def test_differing_bits_in_a_worker_are_listed(
    written: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGE", "1e-6")
    result = written.run(*TINY, "-n", "1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"  test_it.py::test_exact: {NAMED} *"])


def test_exact_fails_on_differing_bits(
    written: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("CHANGE", "1e-6")
    result = written.run(*TINY, "--nnsight-exact")
    result.assert_outcomes(failed=1)
    line = first_line(result)
    assert line.startswith(
        f"golden drift: bits differ, within tolerance: 10 of 31 calls, starts at {PATH} (rel "
    )
    assert line.endswith(f"allowed 0); cause: weights (1 of 28 parameters differ: {PATH}.weight)")


def test_exact_allows_differing_bits_with_another_number_of_threads(
    written: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADS", "2")
    result = written.run(*TINY, "--nnsight-exact")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "not checked bit by bit, because the environment differs from the golden's:",
            "  test_it.py::test_exact: threads 1 -> 2",
        ]
    )
