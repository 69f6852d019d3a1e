"""A comparison measures once; it reads the weights only if something fails, then judges again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import drift_from, make_pass, no_drift

from pytest_nnsight.compare import comparison
from pytest_nnsight.compare.comparison import Measurement, compare, measure
from pytest_nnsight.run import Run, with_weights

START = "model.layers.0.mlp.gate_proj"


def half_run(size: float, weights: str | None = "aaaa") -> Run:
    """Return a run in bfloat16 that drifts by ``size`` from one value on."""
    run = make_pass(drift_from(START, size) if size else no_drift)
    half = replace(run, environment=replace(run.environment, dtype="bfloat16"))
    return with_weights(half, weights)


class CountingReader:
    """Counts how often the weights are read."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return self.fingerprint


def test_weights_are_not_read_if_the_runs_match() -> None:
    reader = CountingReader("aaaa")
    assert compare(half_run(0), half_run(0, None), reader).matches
    assert reader.count == 0


@pytest.mark.parametrize("weights", ["aaaa", "other"])
@pytest.mark.parametrize("size", [3e-3, 9e-3, 0.5])
def test_a_failure_is_judged_with_the_weights(
    size: float, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drift of 3e-3 is rounding if the weights are the same."""
    measured = []

    def measure_and_count(golden: Run, received: Run) -> Measurement:
        measured.append(received)
        return measure(golden, received)

    reader, golden = CountingReader(weights), half_run(0)
    expected = compare(golden, half_run(size, weights))
    monkeypatch.setattr(comparison, "measure", measure_and_count)
    assert compare(golden, half_run(size, None), reader) == expected
    assert expected.matches is (size == 3e-3 and weights == "aaaa")
    assert (reader.count, len(measured)) == (1, 1)


def test_without_a_reader_a_failure_stays_a_failure() -> None:
    assert not compare(half_run(0), half_run(3e-3, None)).matches
