"""Load the models in which faults are planted, and make their goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.captured import Captured
from benchmarks.faults.models import spec_text, with_weights
from benchmarks.faults.probe import Probe, probes
from benchmarks.faults.roles import Roles
from benchmarks.faults.variant import Variant
from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, ModelSpec, parse_spec
from pytest_nnsight.run import Run
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Golden:
    """Hold the run of an unchanged model, as captured and as its golden file stores it."""

    probe: Probe
    captured: Captured
    text: str
    run: Run


@dataclass(frozen=True, slots=True)
class Subject:
    """Hold one loaded, unchanged model with its standard probes and their goldens."""

    name: str
    spec: ModelSpec
    options: LoadOptions
    model: Any
    roles: Roles
    probes: tuple[Probe, ...]
    weights: Mapping[str, str]
    _goldens: dict[str, Golden] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, dtype: str, say: Say) -> Subject:
        """Load a model by its name in the benchmark."""
        spec, options = parse_spec(spec_text(name)), LoadOptions(dtype=dtype)
        model = load(spec, options, say)
        module: Any = nnsight_api.torch_module(model)
        capture = Capture(model, lambda: identify(model, spec))
        return cls(
            name,
            spec,
            options,
            model,
            Roles.of(module),
            probes(model.tokenizer, capture.can_generate),
            fingerprint_parameters(module),
        )

    @property
    def module(self) -> Any:
        """The torch module."""
        return nnsight_api.torch_module(self.model)

    def capture(self) -> Capture:
        """Return the capture of the unchanged model."""
        return Capture(self.model, lambda: identify(self.model, self.spec))

    def variant(self, probe: Probe) -> Variant:
        """Return a copy to be changed."""
        return Variant(self.model, self.spec, self.roles, probe)

    def golden(self, probe: Probe) -> Golden:
        """Return the golden of a probe; those of the standard probes are made once."""
        if probe not in self.probes:
            return self._make(probe)
        if probe.name not in self._goldens:
            self._goldens[probe.name] = self._make(probe)
        return self._goldens[probe.name]

    def _make(self, probe: Probe) -> Golden:
        run = with_weights(probe.of(self.capture()), self.weights)
        text = encode(run)
        return Golden(probe, Captured.of(run), text, decode(text, "golden"))
