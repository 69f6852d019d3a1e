"""Tests in classes, with parameters, as coroutines, and with runs that a session shares."""

from __future__ import annotations

from typing import Any

import pytest

CITY = "The Eiffel Tower is in the city of"


class TestInClass:
    @pytest.fixture
    def run(self, nnsight_capture: Any) -> Any:
        return nnsight_capture.trace(CITY, modules="model.layers.1?")

    @pytest.mark.feature("where tests live", "in a class, with a fixture of its own")
    def test_capture(self, run: Any, nnsight_golden: Any) -> None:
        assert run == nnsight_golden


@pytest.mark.parametrize("layer", [3, 20])
@pytest.mark.parametrize("prompt", [CITY, "Once upon a time"], ids=["city", "story"])
@pytest.mark.feature("where tests live", "parametrized: a golden for each set of parameters")
def test_parameters(nnsight_model: Any, nnsight_golden: Any, layer: int, prompt: str) -> None:
    with nnsight_model.trace(prompt):
        hidden = nnsight_model.model.layers[layer].output.save()
    assert {"hidden": hidden} == nnsight_golden


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.feature("where tests live", "a coroutine")
async def test_coroutine(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY):
        hidden = nnsight_model.model.layers[3].output.save()
    assert {"hidden": hidden} == nnsight_golden(name="own")
    assert nnsight_capture.trace(CITY, modules="model.layers.3") == nnsight_golden


@pytest.fixture(scope="session")
def shared_run(nnsight_session_capture: Any) -> Any:
    return nnsight_session_capture.generate(CITY, max_new_tokens=3, modules="lm_head", keep=True)


@pytest.mark.feature("where tests live", "a run that several tests share")
def test_shared_run(shared_run: Any, nnsight_golden: Any) -> None:
    assert shared_run == nnsight_golden


@pytest.mark.feature("where tests live", "a run that several tests share")
def test_values_of_shared_run(shared_run: Any, nnsight_golden: Any) -> None:
    steps = [shared_run["lm_head", step].output for step in range(3)]
    assert [int(step[0, -1].argmax()) for step in steps] == shared_run.token_ids
    assert {"logits": steps} == nnsight_golden
