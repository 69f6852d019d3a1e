"""Hold the model that is measured, with its capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec

SENTENCE = "The quick brown fox jumps over the lazy dog while the rain keeps falling. "


@dataclass(frozen=True, slots=True)
class Subject:
    """Hold an nnsight model, its torch module and its capture."""

    model: Any
    module: Any
    capture: Capture

    @classmethod
    def load(cls, text: str) -> Subject:
        """Load the model of a spec as the plugin does."""
        spec = parse_spec(text)
        return cls.of(load(spec, LoadOptions(), lambda text: None), lambda m: identify(m, spec))

    @classmethod
    def of(cls, model: Any, identified: Callable[[Any], Any]) -> Subject:
        """Return the subject of an nnsight model."""
        return cls(
            model, nnsight_api.torch_module(model), Capture(model, lambda: identified(model))
        )

    def prompt(self, tokens: int) -> torch.Tensor:
        """Return token ids ``[1, tokens]``."""
        repeats = 1 + tokens // 10
        return torch.tensor([self.model.tokenizer(SENTENCE * repeats)["input_ids"][:tokens]])

    def forward(self, ids: torch.Tensor) -> None:
        """Run the plain model, without nnsight and without gradients."""
        with torch.no_grad():
            self.module(input_ids=ids, attention_mask=torch.ones_like(ids))

    def cache(self, ids: torch.Tensor, inputs: bool = False) -> None:
        """Store every output in nnsight's own cache, as its users do."""
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            with self.model.trace(inputs) as tracer:  # nnsight needs it alone on its line
                tracer.cache(include_inputs=inputs)

    def hand_over(self, ids: torch.Tensor, steps: int = 0) -> None:
        """Let nnsight deliver every input and output as in a capture, and drop them.

        In a forward pass, or in a generation of ``steps`` steps.
        """
        paths = [*nnsight_api.named_modules(self.model)]
        subscription = nnsight_api.Subscription(paths, paths, lambda path, slot, value: None)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        invokes = [nnsight_api.Invoke(keywords=inputs)]
        if steps:
            settings = {"do_sample": False, **exactly(steps)}
            nnsight_api.run_generate(self.model, invokes, settings, subscription)
        else:
            nnsight_api.run_trace(self.model, invokes, subscription)

    def generate(self, ids: torch.Tensor, steps: int) -> None:
        """Generate with the plain model, greedily."""
        mask = torch.ones_like(ids)
        self.module.generate(input_ids=ids, attention_mask=mask, do_sample=False, **exactly(steps))


def exactly(steps: int) -> dict[str, int]:
    """Return the settings for a generation of exactly ``steps`` steps."""
    return {"max_new_tokens": steps, "min_new_tokens": steps}
