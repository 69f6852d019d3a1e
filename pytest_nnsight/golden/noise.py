"""The measured noise of an earlier golden -> the golden that replaces it."""

from __future__ import annotations

from dataclasses import replace

from pytest_nnsight.run import Run, with_noise


def carry_noise(earlier: Run, run: Run) -> Run:
    """Return ``run`` with the noise that was measured for the golden it replaces.

    A run whose noise was measured itself keeps it. Tensors are matched by call, location and shape.
    """
    if run.calibration or not earlier.calibration:
        return run
    noise = {
        (call.key, leaf.at, leaf.summary.shape): leaf.summary.noise
        for call in earlier.calls
        for leaf in call.leaves
    }
    calls = with_noise(
        run.calls, lambda call, leaf: noise.get((call.key, leaf.at, leaf.summary.shape), 0.0)
    )
    return replace(run, calls=calls, calibration=earlier.calibration)
