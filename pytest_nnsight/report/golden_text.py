"""Describe a golden as text, for ``pytest-nnsight show``."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nnsight.errors import visible
from pytest_nnsight.run import Call, Run


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
        yield from _call_lines(call)


def _call_lines(call: Call) -> Iterator[str]:
    if not call.leaves:
        yield f"  {call.label} ({call.module_class}): {call.output}"
    for leaf in call.leaves:
        summary = leaf.summary
        location = "" if leaf.at == "out" else f" {leaf.at}"
        names = ("mean", "std", "min", "max")
        values = (summary.mean, summary.std, summary.minimum, summary.maximum)
        pairs = [(n, v) for n, v in zip(names, values, strict=True) if v is not None]
        numbers = " ".join(f"{name} {value:.4g}" for name, value in pairs)
        shape = "x".join(map(str, summary.shape)) or "scalar"
        yield f"  {call.label}{location} ({call.module_class}): {shape} {summary.dtype} {numbers}"
