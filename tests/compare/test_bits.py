"""Whether two runs are equal bit by bit, and whether they should be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import VERSIONS, make_call, make_environment, make_run, make_summary, summarize

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.model_changes import numeric_differences
from pytest_nnsight.run import Leaf, Run

TINY = 1e-7


def run_of(*noise: float, **changes: Any) -> Run:
    calls = [make_call(f"h.{i}", make_summary(noise=n)) for i, n in enumerate(noise)]
    return make_run(*calls, **changes)


def test_equal_runs_have_equal_bits() -> None:
    bits = compare(run_of(0, 0), run_of(0, 0)).bits
    assert (bits.count, bits.first, bits.is_expected, bits.reason) == (0, "", True, "")


def test_calls_that_differ_in_any_bit_are_counted() -> None:
    comparison = compare(run_of(0, 0, 0, 0), run_of(0, TINY, 0, TINY))
    assert comparison.matches
    assert (comparison.bits.count, comparison.bits.first) == (2, "h.1")


def test_a_bit_that_changes_no_number_counts() -> None:
    """Zero and minus zero."""
    x = torch.zeros(1, 7, 64)
    y = x.clone()
    y[0, 3, 5] = -0.0
    golden, received = (make_run(make_call(summary=summarize(z))) for z in (x, y))
    comparison = compare(golden, received)
    assert (comparison.matches, comparison.bits.count) == (True, 1)
    assert not compare(golden, replace(received, is_exact=True)).matches


def test_a_call_with_two_changed_tensors_counts_once() -> None:
    def both(noise: float) -> Run:
        leaves = tuple(Leaf(at, make_summary(noise=noise)) for at in ("in.0", "out"))
        return make_run(make_call(leaves=leaves, inputs="{0=tensor}"))

    assert compare(both(0), both(TINY)).bits.count == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threads": 8}, "threads 2 -> 8"),
        ({"attention": "eager"}, "attention sdpa -> eager"),
        ({"cpu": "arm64"}, "cpu x86_64 AVX2 -> arm64"),
        ({"dtype": "bfloat16"}, "dtype float32 -> bfloat16"),
        (
            {"device": "cuda", "threads": 8, "versions": {**VERSIONS, "torch": "2.14.0"}},
            "device cpu -> cuda, threads 2 -> 8, torch 2.13.0 -> 2.14.0",
        ),
    ],
)
def test_environment_changes_that_may_change_numbers_are_named(
    changes: dict[str, Any], reason: str
) -> None:
    assert numeric_differences(make_environment(), make_environment(**changes)) == reason
    bits = compare(run_of(0), run_of(0, environment=changes)).bits
    assert (bits.is_expected, bits.reason) == (False, reason)


def test_changed_kernel_settings_may_change_numbers() -> None:
    environments = [make_environment(kernels=text) for text in ("no oneDNN", "deterministic")]
    assert numeric_differences(*environments) == "kernels no oneDNN -> deterministic"
    assert numeric_differences(environments[0], environments[0]) == ""
    reason = numeric_differences(make_environment(), environments[0])
    assert reason == "kernels as torch has them -> no oneDNN"


@pytest.mark.parametrize("package", ["transformers", "nnsight", "python", "tokenizers"])
def test_versions_of_other_packages_change_no_numbers(package: str) -> None:
    now = make_environment(versions={**VERSIONS, package: "99"})
    assert numeric_differences(make_environment(), now) == ""


def test_with_exact_any_changed_bit_fails() -> None:
    golden, received = run_of(0, 0, 0), run_of(0, TINY, 0, is_exact=True)
    (drift,) = compare(golden, received).failures
    assert (drift.kind, drift.label, drift.allowed) == ("values", "h.1", 0.0)
    assert 0 < drift.rel < 1e-6
    assert compare(golden, run_of(0, 0, 0, is_exact=True)).matches


def test_with_exact_no_bit_fails_if_the_environment_may_change_numbers() -> None:
    golden = run_of(0, 0)
    other = {"threads": 8}
    assert compare(golden, run_of(0, TINY, environment=other, is_exact=True)).matches
    assert not compare(golden, run_of(0, 1e-3, environment=other, is_exact=True)).matches


def test_exact_overrides_the_tolerance_of_the_test() -> None:
    received = run_of(0, TINY, is_exact=True).within(1e-2)
    assert not compare(run_of(0, 0), received).matches
