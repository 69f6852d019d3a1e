"""Describe a golden as text, for ``pytest-nnsight show``."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nnsight.errors import visible
from pytest_nnsight.run import Run


def golden_lines(run: Run) -> Iterator[str]:
    """Yield lines about the model, environment, prompt and output, then one for each call."""
    yield from map(visible, _lines(run))


def _lines(run: Run) -> Iterator[str]:
    model, environment = run.model, run.environment
    revision = f"@{model.revision}" if model.revision else ""
    size = f"{model.parameters:,} parameters"
    yield f"{run.kind} of {model.spec}{revision} ({model.model_class}, {size})"
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    yield (
        f"on {environment.variant}, attention {environment.attention}, "
        f"{environment.threads} threads, {environment.cpu}; {versions}"
    )
    for ids in run.prompt.token_ids:
        yield f"prompt: {len(ids)} tokens"
    if run.prompt.text is not None:
        yield f"text: {run.prompt.text!r}"
    if run.generated is not None:
        for text, ids in zip(run.generated.text, run.generated.token_ids, strict=True):
            yield f"generated: {text!r} ({len(ids)} tokens)"
    yield f"{len(run.calls)} calls:"
    for call in run.calls:
        if not call.leaves:
            yield f"  {call.label} ({call.module_class}): {call.output}"
        for at, summary in call.leaves:
            location = "" if at == "out" else f" {at}"
            shape = "x".join(map(str, summary.shape)) or "scalar"
            values = (summary.mean, summary.std, summary.minimum, summary.maximum)
            pairs = zip(("mean", "std", "min", "max"), values, strict=True)
            numbers = " ".join(f"{name} {n:.4g}" for name, n in pairs if n is not None)
            start = f"  {call.label}{location} ({call.module_class})"
            yield f"{start}: {shape} {summary.dtype} {numbers}"
