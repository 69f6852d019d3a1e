"""The first line of a failure names the module where the drift starts, and the cause."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from project import EXAMPLES, TINY, Project

pytestmark = pytest.mark.usefixtures("warm")
FAULTS = EXAMPLES / "planted_faults.py"
EXPECTED = {
    "weight": "golden drift: 14 of 31 calls, starts at transformer.h.1.attn.c_proj (rel *, "
    "allowed 1e-5); cause: weights (1 of 28 parameters differ: transformer.h.1.attn.c_proj.weight)",
    "two_matrices": "golden drift: 20 of 31 calls, starts at transformer.h.0.mlp.c_proj (rel *, "
    "allowed 1e-5); cause: weights (2 of 28 parameters differ: transformer.h.0.mlp.c_proj.*",
    "epsilon": "golden drift: 28 of 31 calls, starts at transformer.h.0.ln_1, "
    "5 of 5 LayerNorm (rel *, allowed 1e-5); cause: config (layer_norm_epsilon 1e-05 -> 0.001)",
    "tokenizer": "golden drift: prompt 19 ids, at 0: 56 ('T') -> 20 ids, at 0: 1 ('<s>'); "
    "cause: tokenizer (the same text gives other token ids)",
    "prompt": "golden drift: prompt 19 ids, at 0: 56 ('T') -> 14 ids, at 0: 37 ('A'); cause: "
    "prompt (*",
    "settings": "golden drift: max_new_tokens 2 -> 3; cause: settings (*",
    "intervention": "golden drift: intervention ablate -> None; cause: settings (*",
}


def test_each_fault_is_named_in_the_first_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    project.copy_example(FAULTS)
    project.write_goldens(*TINY, passed=8)
    monkeypatch.setenv("FAULTS", "1")
    result = project.run(*TINY, "--nnsight-tolerance=1e-5")
    result.assert_outcomes(passed=1, failed=7)
    lines = {name: first_line(result, f"test_{name}") for name in EXPECTED}
    for name, expected in EXPECTED.items():
        assert fnmatchcase(lines[name], expected), f"{name}: {lines[name]}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "values",
            "golden drift: 18 of 31 calls, starts at transformer.h.0.mlp (rel 9*e-3, allowed "
            "1e-5); cause: code (same inputs, weights, config and versions: a patched module, a "
            "hook or an edit)",
        ),
        (
            "container",
            "golden drift: 1 of 31 calls, starts at transformer.h.1* (rel *, allowed 1e-5); cause: "
            "code (same inputs, weights, config and versions: a patched module, a hook or an edit)",
        ),
    ],
)
def test_changed_code_is_named(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    first_line: Callable[..., str],
    code: str,
    expected: str,
) -> None:
    """The values in a changed container are compared, and their drift is named first."""
    project.copy_example(FAULTS)
    project.run(*TINY, "--snapshot-update", "-k", "unchanged").assert_outcomes(passed=1)
    calls = project.read("test_it/test_unchanged")["calls"]
    block = next(call["out"] for call in calls if call["path"] == "transformer.h.1")
    container = {"tensor": "tensor -> (tensor,)", "(tensor,)": "(tensor,) -> [[]tensor]"}[block]
    monkeypatch.setenv("CODE", code)
    result = project.run(*TINY, "-k", "unchanged", "-vv")
    assert fnmatchcase(first_line(result), expected)
    label = "transformer.h.1" if block == "tensor" else "transformer.h.1 out[[]0]"
    rows = [f"*transformer.h.1: container {container}"] if code == "container" else []
    result.stdout.fnmatch_lines([*rows, f"*{label}: rel *e-3*"])


def test_pytest_does_not_truncate_the_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.copy_example(FAULTS)
    project.run(*TINY, "--snapshot-update", "-k", "epsilon").assert_outcomes(passed=1)
    monkeypatch.setenv("FAULTS", "1")
    result = project.run(*TINY, "-k", "epsilon")
    result.stdout.no_fnmatch_line("*truncated*")
    result.stdout.fnmatch_lines(
        [
            "*... and * more, smaller (-vv)",
            "*golden golden/tiny-gpt2/cpu-float32/test_it/test_epsilon.json",
            "*if this is right: pytest --nnsight-model tiny:gpt2 *test_epsilon --snapshot-update",
        ]
    )
