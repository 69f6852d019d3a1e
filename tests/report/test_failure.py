"""The lines of a failed assertion, no more than pytest shows."""

from __future__ import annotations

import math
from typing import Any

import pytest
from builders import (
    drifted,
    make_call,
    make_pass,
    make_run,
    make_summary,
    normal,
    summarize,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.report.failure import (
    MOST_ROWS,
    bits_line,
    diagnose_finding,
    failure_lines,
    format_size,
)
from pytest_nnsight.run import Run

FILE = "golden/gpt2/cpu-float32/tests/test_it/test_drift.json"
REFRESH = "pytest tests/test_it.py::test_drift --nnsight-model gpt2 --snapshot-update"
LAST = [f"golden {FILE}", f"if this is right: {REFRESH}"]


def report(golden: Run, received: Run, detailed: bool = False, **weights: Any) -> list[str]:
    finding = Finding(
        FILE, golden=golden, received=received, comparison=compare(golden, received), **weights
    )
    return failure_lines(finding, diagnose_finding(finding), REFRESH, detailed)


def run_of(count: int, drifted: int = 0, **changes: Any) -> Run:
    """Return a run of ``count`` calls, in the last ``drifted`` one token is 1 % larger."""
    values = normal(1, 7, 64)
    fine = summarize(values)
    values[0, 4] *= 1.01
    moved = summarize(values)
    calls = [
        make_call(
            f"model.layers.{i}.mlp.down_proj", (fine if i < count - drifted else moved)._replace()
        )
        for i in range(count)
    ]
    return make_run(*calls, **changes)


def drift_text(golden: Run, received: Run, index: int = 0) -> str:
    """Return the size of a drift as a report writes it."""
    return format_size(compare(golden, received).failures[index].rel)


@pytest.mark.parametrize("drifted", [1, 2, 4, 5, 6, 50, 395])
def test_report_fits_into_what_pytest_shows(drifted: int) -> None:
    """Pytest shows the first 8 lines or 640 characters of an assertion."""
    lines = report(run_of(395), run_of(395, drifted))
    assert len(lines) <= 8
    assert sum(map(len, lines)) <= 640
    assert len(lines) > 3
    assert lines[0].startswith(f"golden drift: {drifted} of 395 calls, starts at ")
    assert lines[-2:] == LAST


def test_rows_that_do_not_fit_are_counted() -> None:
    lines = report(run_of(395), run_of(395, 50))
    shown = lines[1:-3]
    assert lines[-3] == f"... and {50 - len(shown)} more, smaller (-vv)"


def test_detailed_report_shows_twenty_rows() -> None:
    lines = report(run_of(395), run_of(395, 50), detailed=True)
    assert len(lines) == 1 + MOST_ROWS + 1 + 2
    assert lines[-3] == "... and 30 more, smaller"
    assert lines[-2:] == LAST


def test_worst_rows_come_first() -> None:
    noise = [1e-4, 1e-2, 1e-3]
    golden = make_run(*(make_call(f"h.{i}") for i in range(4)))
    received = make_run(
        *(make_call(f"h.{i}", make_summary(noise=n)) for i, n in enumerate(noise)),
        make_call("h.3", output="(tensor,)"),
    )
    rows = report(golden, received)[1:-2]
    assert [row.split(":")[0] for row in rows] == ["h.3", "h.1", "h.2", "h.0"]
    assert rows[0] == "h.3: container tensor -> (tensor,)"


def test_row_names_the_error_the_worst_token_and_the_changed_statistic() -> None:
    received = make_run(make_call(summary=make_summary(noise=5e-3)))
    drift = compare(make_run(), received).failures[0]
    distance = drift.distance
    assert report(make_run(), received)[1] == (
        f"h.0: rel {format_size(distance.rms)} \u00b1{distance.error:.0%}, "
        f"worst token {distance.token} {format_size(distance.worst)}, "
        f"{drift.expected} -> {drift.received}"
    )
    assert 0.05 < distance.error < 0.2


def test_row_shows_the_drift_of_the_token_that_it_names() -> None:
    """The token that drifts most over eight values need not drift most in one of them."""
    shape = (1, 100, 64)

    def run_of(size: float) -> Run:
        calls = []
        for seed in range(20):
            x = normal(*shape, seed=seed)
            x[0, 41] += size * normal(64, seed=seed + 100)
            x[0, seed] += 2 * size * normal(64, seed=seed + 200)
            calls.append(make_call(f"h.{seed}", summarize(x)))
        return make_run(*calls)

    golden, received = run_of(0), run_of(2e-5)
    comparison = compare(golden, received)
    pooled = [
        drift
        for drift in comparison.failures
        if drift.rel == drift.distance.pooled
        and drift.distance.token != drift.distance.pooled_token
    ]
    assert pooled
    rows = {row.split(":")[0]: row for row in report(golden, received, detailed=True)[1:]}
    for drift in pooled:
        distance = drift.distance
        text = f"worst token {distance.pooled_token} {format_size(distance.pooled)},"
        assert text in rows[drift.label]


def test_row_of_a_single_token_does_not_name_it() -> None:
    golden, received = (
        make_run(make_call(summary=make_summary(noise, (1, 64)))) for noise in (0.0, 1e-2)
    )
    assert "token" not in report(golden, received)[1]


def test_only_the_detailed_report_has_notes() -> None:
    noted = make_run(make_call("a", output="(tensor, None)"), make_call("b"))
    received = make_run(
        make_call("a", output="(tensor, tensor)"), make_call("b", make_summary(noise=1e-2))
    )
    note = "note: a: container (tensor, None) -> (tensor, tensor)"
    assert note in report(noted, received, detailed=True)
    assert note not in report(noted, received)


def test_half_type_with_the_cause_numerics_gets_a_hint_about_float32() -> None:
    half = {"dtype": "bfloat16"}
    golden = make_pass(environment=half)
    hint = "half types drift far between kernels; --nnsight-dtype float32 is a sharper check"
    received = drifted(size=0.3, environment={**half, "threads": 8})
    assert report(golden, received)[-3] == hint
    assert hint not in report(golden, drifted(size=0.3, environment=half))
    single = drifted(size=5e-5, environment={"threads": 8})
    assert hint not in report(make_pass(), single)


def test_true_distances_of_stored_tensors_are_shown() -> None:
    received = drifted("lm_head")
    exact = {
        "lm_head": Distance(0.0123456789, 0.025, token=4),
        "model.norm": SAME,
        "<model> out.logits": Distance(0.5, 0.5),
    }
    brief = report(make_pass(), received, exact=exact)
    line = "lm_head: exactly rel 0.0123457, worst token 4 0.025 (stored tensor)"
    assert brief[1] == line
    detailed = report(make_pass(), received, detailed=True, exact=exact)
    assert detailed[1:3] == [line, "<model> out.logits: exactly rel 0.5 (stored tensor)"]
    assert sum("stored tensor" in line for line in brief) == 1


def test_report_with_true_distances_fits_into_what_pytest_shows() -> None:
    received = run_of(50, 50)
    exact = {f"model.layers.{i}.mlp.down_proj": Distance(0.01, 0.01) for i in range(3)}
    lines = report(run_of(50), received, exact=exact)
    assert 4 < len(lines) <= 8
    assert sum(map(len, lines)) <= 640
    assert lines[1].endswith("(stored tensor)")


def test_bits_line_describes_a_match_that_is_not_bit_by_bit() -> None:
    comparison = compare(make_pass(), drifted(size=1e-6))
    assert comparison.matches
    assert bits_line(comparison) == (
        "19 of 27 calls, from model.layers.0.mlp.up_proj on "
        f"(largest {format_size(comparison.noise)}, allowed 1e-5)"
    )


@pytest.mark.parametrize("detailed", [False, True])
def test_missing_golden_is_one_line(detailed: bool) -> None:
    finding = Finding(FILE, error=f"no golden {FILE}; write it with --snapshot-update")
    assert failure_lines(finding, diagnose_finding(finding), REFRESH, detailed) == [
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
    assert format_size(rel) == text
