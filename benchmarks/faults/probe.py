"""Define the probes: a trace or a generation, with a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.run import Run

SHORT = "The Eiffel Tower is in the city of"
SENTENCE = "The quick brown fox jumps over the lazy dog while the rain keeps falling. "
LONG_TOKENS = 240
NEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """Define one capture: a trace, or a generation with ``settings`` for `Capture.generate`."""

    name: str
    kind: str
    prompt: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    intervene: Callable[..., Any] | None = None

    def of(self, capture: Capture) -> Run:
        """Capture every module, with its tensors."""
        if self.kind == "trace":
            return capture.trace(self.prompt, keep=True, intervene=self.intervene)
        settings = {"max_new_tokens": NEW_TOKENS, **self.settings}
        return capture.generate(self.prompt, keep=True, intervene=self.intervene, **settings)


def probes(tokenizer: Any, can_generate: bool) -> tuple[Probe, ...]:
    """Return the standard probes: trace and generate, short and long prompt."""
    per_sentence = len(tokenizer(SENTENCE)["input_ids"])
    prompts = {"short": SHORT, "long": SENTENCE * max(1, LONG_TOKENS // per_sentence)}
    kinds = ("trace", "generate") if can_generate else ("trace",)
    return tuple(
        Probe(f"{kind} {length}", kind, prompt)
        for kind in kinds
        for length, prompt in prompts.items()
    )
