"""Interventions under a golden: in place and by assignment, on outputs, tuple elements, inputs."""

from __future__ import annotations

from typing import Any

import pytest

CITY = "The Eiffel Tower is in the city of"


@pytest.mark.feature("interventions", "a whole output in place")
def test_output_in_place(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero(model: Any) -> None:
        model.model.layers[5].mlp.output[:] = 0

    run = nnsight_capture.trace(CITY, modules="model.layers.*", intervene=zero)
    assert run == nnsight_golden


@pytest.mark.nnsight(model="tiny:gpt2")
@pytest.mark.feature("interventions", "a whole output in place")
def test_output_in_place_of_gpt2(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero(model: Any) -> None:
        model.transformer.h[1].mlp.output[:] = 0

    run = nnsight_capture.trace(CITY, modules="transformer.h.*", intervene=zero)
    assert run == nnsight_golden
