"""``tokens="close"`` accepts another token in a near tie, and no other change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("leaky", "warm")

# Two tokens that have one embedding have one logit; a last bit decides which of them is chosen.
TEST = """
@pytest.fixture(scope="session", autouse=True)
def twins(nnsight_model):
    module = nnsight_model._module
    ids = torch.tensor([nnsight_model.tokenizer("Once upon")["input_ids"]])
    assert not {200, 201} & set(ids[0].tolist())
    with torch.no_grad():
        hidden = module.transformer(ids).last_hidden_state[0, -1]
        towards = hidden / hidden.norm()
        table = module.transformer.wte.weight
        table[200] = table[201] = 9 * towards
        table[201] += float(os.environ.get("TWIN", "0")) * towards

def test_tokens(nnsight_capture, nnsight_golden):
    assert nnsight_capture.generate("Once upon", max_new_tokens=4) == nnsight_golden
"""


@pytest.fixture
def written(project: Project) -> Project:
    project.test_file(TEST)
    project.write_goldens(*TINY, passed=1)
    return project


def test_another_token_in_a_near_tie_has_the_cause_sampling(
    written: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("TWIN", "3e-6")
    result = written.run(*TINY)
    result.assert_outcomes(failed=1)
    line = first_line(result)
    assert line.startswith("golden drift: generated 4 ids, at 0: ")
    assert "; cause: sampling (near tie at step 0: '" in line
    assert "' -> '" in line
    assert "margin" in line


def test_close_accepts_a_near_tie(written: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN", "3e-6")
    result = written.run(*TINY, "--nnsight-tokens", "close")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(
        [
            r"another token in a near tie, .*:",
            r"  test_it.py::test_tokens: near tie at step 0: .*",
        ]
    )


def test_close_does_not_hide_a_changed_model(
    written: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("TWIN", "0.5")
    result = written.run(*TINY, "--nnsight-tokens=close")
    result.assert_outcomes(failed=1)
    assert "starts at lm_head (rel " in first_line(result)


def test_the_marker_sets_the_rule_of_one_test(
    written: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = TEST.replace(
        "def test_tokens", '@pytest.mark.nnsight(tokens="close")\ndef test_tokens'
    )
    written.test_file(marked)
    monkeypatch.setenv("TWIN", "3e-6")
    written.run(*TINY).assert_outcomes(passed=1)


def test_an_unknown_rule_is_refused(project: Project) -> None:
    result = project.run(*TINY, "--nnsight-tokens=roughly")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --nnsight-tokens: 'roughly' is not valid: expected auto, exact or close"]
    )
