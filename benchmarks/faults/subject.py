"""The models that faults are planted in, and their goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.ask import Ask, asks
from benchmarks.faults.captured import Captured
from benchmarks.faults.models import spec_text, with_weights
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
    """What an unchanged model computed, as it was and as its golden file keeps it."""

    ask: Ask
    captured: Captured
    text: str
    run: Run


@dataclass(frozen=True, slots=True)
class Subject:
    """One loaded, unchanged model with its standard asks and their goldens."""

    name: str
    spec: ModelSpec
    options: LoadOptions
    model: Any
    roles: Roles
    asks: tuple[Ask, ...]
    weights: Mapping[str, str]
    _goldens: dict[str, Golden] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, dtype: str, say: Say) -> Subject:
        """Load a model by its name here."""
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
            asks(model.tokenizer, capture.can_generate),
            fingerprint_parameters(module),
        )

    @property
    def module(self) -> Any:
        """The torch module."""
        return nnsight_api.torch_module(self.model)

    def capture(self) -> Capture:
        """Return the capture of the unchanged model."""
        return Capture(self.model, lambda: identify(self.model, self.spec))

    def variant(self, ask: Ask) -> Variant:
        """Return a copy to be changed."""
        return Variant(self.model, self.spec, self.roles, ask)

    def golden(self, ask: Ask) -> Golden:
        """Return the golden of an ask; those of the standard asks are made once."""
        if ask not in self.asks:
            return self._make(ask)
        if ask.name not in self._goldens:
            self._goldens[ask.name] = self._make(ask)
        return self._goldens[ask.name]

    def _make(self, ask: Ask) -> Golden:
        run = with_weights(ask.of(self.capture()), self.weights)
        text = encode(run)
        return Golden(ask, Captured.of(run), text, decode(text, "golden"))
