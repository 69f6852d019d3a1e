"""A failed comparison -> the lines of its assertion."""

from __future__ import annotations

import math
from typing import Any

import pytest
from builders import make_call, make_generation, make_run, make_summary, normal, summarize

from pytest_nnsight.compare import compare
from pytest_nnsight.diagnose import Finding
from pytest_nnsight.report.failure import MOST_ROWS, failure_lines, size
from pytest_nnsight.run import Prompt, Run

FILE = "golden/gpt2/cpu-float32/tests/test_it/test_drift.json"
REFRESH = "pytest tests/test_it.py::test_drift --nnsight-model gpt2 --snapshot-update"
LAST = [f"golden {FILE}", f"if this is right: {REFRESH}"]


def report(golden: Run, received: Run, detailed: bool = False, **weights: Any) -> list[str]:
    finding = Finding(
        FILE, golden=golden, received=received, comparison=compare(golden, received), **weights
    )
    return failure_lines(finding, REFRESH, detailed)


def run_of(count: int, drifted: int = 0, **changes: Any) -> Run:
    """Return a run of ``count`` calls, in the last ``drifted`` one token is 1 % larger."""
    values = normal(1, 7, 64)
    fine = summarize(values)
    values[0, 4] *= 1.01
    moved = summarize(values)
    calls = [
        make_call(f"model.layers.{i}.mlp.down_proj", fine if i < count - drifted else moved)
        for i in range(count)
    ]
    return make_run(*calls, **changes)


def test_first_line_of_a_weights_drift() -> None:
    before = {f"model.layers.{i}.mlp.down_proj.weight": "aa" for i in range(12)}
    now = {**before, "model.layers.9.mlp.down_proj.weight": "bb"}
    received = run_of(12, 3, model={"weights": "bbbb"})
    lines = report(run_of(12), received, golden_weights=before, received_weights=now)
    assert lines[0] == (
        "golden drift: 3 of 12 calls, starts at model.layers.9.mlp.down_proj "
        "(rel 9.9e-3, allowed 1e-5); cause: weights (1 of 12 parameters differ: "
        "model.layers.9.mlp.down_proj.weight)"
    )
    assert lines[-2:] == LAST


@pytest.mark.parametrize("drifted", [1, 2, 4, 5, 6, 50, 395])
def test_report_fits_into_what_pytest_shows(drifted: int) -> None:
    """Pytest cuts an assertion at 8 lines or 640 characters, the last lines first."""
    lines = report(run_of(395), run_of(395, drifted))
    assert len(lines) <= 8
    assert sum(map(len, lines)) <= 640
    assert len(lines) > 3
    assert lines[0].startswith(f"golden drift: {drifted} of 395 calls, starts at ")
    assert lines[-2:] == LAST


def test_rows_that_are_left_out_are_counted() -> None:
    lines = report(run_of(395), run_of(395, 50))
    shown = lines[1:-3]
    assert lines[-3] == f"... and {50 - len(shown)} more, smaller (-vv)"


def test_detailed_report_shows_twenty_rows() -> None:
    lines = report(run_of(395), run_of(395, 50), detailed=True)
    assert len(lines) == 1 + MOST_ROWS + 1 + 2
    assert lines[-3] == "... and 30 more, smaller"
    assert lines[-2:] == LAST


def test_rows_are_the_worst_first() -> None:
    noise = [1e-4, 1e-2, 1e-3]
    golden = make_run(*(make_call(f"h.{i}") for i in range(4)))
    received = make_run(
        *(make_call(f"h.{i}", make_summary(noise=n)) for i, n in enumerate(noise)),
        make_call("h.3", output="(tensor,)"),
    )
    rows = report(golden, received)[1:-2]
    assert [row.split(":")[0] for row in rows] == ["h.3", "h.1", "h.2", "h.0"]
    assert rows[0] == "h.3: container tensor -> (tensor,)"
    assert rows[1].startswith("h.1: rel 0.01")


def test_row_names_the_token_and_the_statistic_that_moved() -> None:
    received = make_run(make_call(summary=make_summary(noise=5e-3)))
    drift = compare(make_run(), received).failures[0]
    row = report(make_run(), received)[1]
    assert row == (
        f"h.0: rel {size(drift.rel)} at token {drift.token}, {drift.expected} -> {drift.received}"
    )


def test_notes_are_in_the_detailed_report_alone() -> None:
    noted = make_run(make_call("a", output="(tensor, None)"), make_call("b"))
    received = make_run(
        make_call("a", output="(tensor, tensor)"), make_call("b", make_summary(noise=1e-2))
    )
    note = "note: a: container (tensor, None) -> (tensor, tensor)"
    assert note in report(noted, received, detailed=True)
    assert note not in report(noted, received)


def test_first_line_of_a_missing_call() -> None:
    golden = make_run(make_call("h.0"), make_call("h.1"))
    assert report(golden, make_run(make_call("h.0")))[0] == (
        "golden drift: 1 of 2 calls, starts at h.1 (missing tensor -> absent); "
        "cause: structure (same weights, config and versions)"
    )


def test_first_line_of_another_prompt() -> None:
    received = make_run(prompt=Prompt("Bye", ((1, 2),)))
    assert report(make_run(), received)[0] == (
        "golden drift: prompt 3 ids, at 2: 3 -> 2 ids, at 2: end; "
        "cause: prompt (the test asks for another prompt than the golden's)"
    )


def test_first_line_of_other_generated_ids() -> None:
    first = report(make_generation(5, 6), make_generation(5, 7))[0]
    assert first.startswith("golden drift: generated 2 ids, at 1: 6 -> 2 ids, at 1: 7; cause: code")


@pytest.mark.parametrize("detailed", [False, True])
def test_golden_that_cannot_be_compared_is_one_line(detailed: bool) -> None:
    finding = Finding(FILE, error=f"no golden {FILE}; write it with --snapshot-update")
    assert failure_lines(finding, REFRESH, detailed) == [
        f"golden: no golden {FILE}; write it with --snapshot-update"
    ]


@pytest.mark.parametrize(
    ("rel", "text"),
    [
        (0.0, "0"),
        (math.inf, "inf"),
        (1e-5, "1e-5"),
        (4.9e-3, "4.9e-3"),
        (1.26e-10, "1.3e-10"),
        (0.00123456, "1.2e-3"),
        (0.01, "0.01"),
        (0.214, "0.21"),
        (1.0, "1"),
        (3.14159, "3.1"),
    ],
)
def test_size(rel: float, text: str) -> None:
    assert size(rel) == text
