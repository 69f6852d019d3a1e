"""The noise of an earlier golden -> the one that replaces it."""

from __future__ import annotations

from dataclasses import replace

from pytest_nnsight.run import Leaf, Run, Summary


def carry_noise(earlier: Run, run: Run) -> Run:
    """Return ``run`` with the noise that was measured for the golden it replaces.

    A run that was measured itself keeps its own. Tensors are matched by call, place and shape.
    """
    if run.calibration or not earlier.calibration:
        return run
    known = {
        (call.key, leaf.at, leaf.summary.shape): leaf.summary.noise
        for call in earlier.calls
        for leaf in call.leaves
    }
    made: dict[int, Summary] = {}

    def noisy(key: tuple[str, int], leaf: Leaf) -> Leaf:
        summary = leaf.summary
        if id(summary) not in made:
            noise = known.get((key, leaf.at, summary.shape), 0.0)
            made[id(summary)] = replace(summary, noise=noise)
        return replace(leaf, summary=made[id(summary)])

    calls = tuple(
        replace(call, leaves=tuple(noisy(call.key, leaf) for leaf in call.leaves))
        for call in run.calls
    )
    return replace(run, calls=calls, calibration=earlier.calibration)
