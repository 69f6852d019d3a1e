"""A plain torch module in nnsight's ``NNsight``, in a session fixture of the user."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import UsageError
from pytest_nnsight.models.random_weights import fill, uniform
from pytest_nnsight.nnsight_api.version import import_nnsight
from pytest_nnsight.summary.fingerprint import fingerprint_parameters


class Weather(nn.Module):
    """A small network with named inputs and nothing of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.days = nn.LSTM(6, 16, batch_first=True)
        self.station = nn.Embedding(4, 16)
        self.rain = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, days: torch.Tensor, station: torch.Tensor | None = None) -> torch.Tensor:
        seen = self.days(days)[0][:, -1]
        return self.rain(seen if station is None else seen + self.station(station))


DAYS = torch.from_numpy(uniform("days", 3 * 7 * 6)).reshape(3, 7, 6)
STATIONS = torch.tensor([2, 0, 3])


@pytest.fixture(scope="session")
def nnsight_model() -> Any:
    weather = Weather()
    fill(weather)
    return import_nnsight().NNsight(weather.eval())


@pytest.mark.feature("models", "plain module: one tensor, by position")
def test_one_tensor(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(DAYS)
    assert run.paths == ["days", "rain.0", "rain.1", "rain.2", "rain", "<model>"]
    assert run.prompt.is_batch
    assert run == nnsight_golden


@pytest.mark.feature("models", "plain module: a dict of tensors, by name")
def test_tensors_by_name(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace({"days": DAYS, "station": STATIONS})
    assert "station" in run.paths
    assert math.prod(run["rain.2"].call.leaves[-1].summary.shape) == 3
    assert run == nnsight_golden


@pytest.mark.feature("models", "plain module: an intervention")
def test_an_intervention(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def no_station(model: Any) -> None:
        model.station.output[:] = 0

    with_none = nnsight_capture.trace(
        {"days": DAYS, "station": STATIONS}, keep="<model>", intervene=no_station
    )
    without = nnsight_capture.trace(DAYS, keep="<model>")
    assert torch.equal(with_none["<model>"].output, without["<model>"].output)
    assert with_none == nnsight_golden


@pytest.mark.feature("models", "plain module: a changed weight, and another input, are named")
def test_a_changed_weight_or_input_is_named(nnsight_model: Any, nnsight_capture: Any) -> None:
    module, prompt = nnsight_model._module, {"days": DAYS, "station": STATIONS}
    before, weights = nnsight_capture.trace(prompt), fingerprint_parameters(module)
    with torch.no_grad():
        module.rain[0].weight.mul_(1.01)
        now, changed = nnsight_capture.trace(prompt), fingerprint_parameters(module)
        module.rain[0].weight.copy_(torch.from_numpy(_initial_weight(module.rain[0].weight)))
    diagnosis = diagnose(before, now, compare(before, now), weights, changed)
    assert (diagnosis.where, diagnosis.cause) == ("rain.0", "weights")
    assert diagnosis.evidence == "1 of 9 parameters differ: rain.0.weight"

    for name, other in (("days", DAYS * 1.01), ("station", STATIONS.flip(0))):
        now = nnsight_capture.trace({**prompt, name: other})
        diagnosis = diagnose(before, now, compare(before, now), weights, weights)
        assert (diagnosis.cause, diagnosis.evidence) == (
            "prompt",
            f"the model is given other {name}",
        )


def _initial_weight(weight: torch.Tensor) -> Any:
    fresh = Weather()
    fill(fresh)
    return fresh.rain[0].weight.detach().numpy().reshape(tuple(weight.shape))


@pytest.mark.feature("models", "plain module: an input that it does not take is one line")
def test_inputs_that_the_module_does_not_take_are_refused(nnsight_capture: Any) -> None:
    takes = r"^Weather takes days, station, not text; give a dict of tensors$"
    for prompt in ("rain tomorrow?", [1, 2, 3]):
        with pytest.raises(UsageError, match=takes):
            nnsight_capture.trace(prompt)
    with pytest.raises(UsageError, match=r"^Weather cannot generate; use nnsight_capture\.trace$"):
        nnsight_capture.generate(DAYS)
