"""Describe a golden as text, for ``pytest-nnsight show``."""

from __future__ import annotations

from pytest_nnsight.errors import visible
from pytest_nnsight.run import Run


def golden_lines(run: Run) -> list[str]:
    """Return lines about the model, environment, prompt and output, then one for each call."""
    model, environment = run.model, run.environment
    revision = f"@{model.revision}" if model.revision else ""
    size = f"{model.parameters:,} parameters"
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    lines = [
        f"{run.kind} of {model.spec}{revision} ({model.model_class}, {size})",
        f"on {environment.variant}, attention {environment.attention}, "
        f"{environment.threads} threads, {environment.cpu}; {versions}",
        *(f"prompt: {len(ids)} tokens" for ids in run.prompt.token_ids),
    ]
    if run.prompt.text is not None:
        lines.append(f"text: {run.prompt.text!r}")
    if run.generated is not None:
        pairs = zip(run.generated.text, run.generated.token_ids, strict=True)
        lines += [f"generated: {text!r} ({len(ids)} tokens)" for text, ids in pairs]
    lines.append(f"{len(run.calls)} calls:")
    for call in run.calls:
        if not call.leaves:
            lines.append(f"  {call.label} ({call.module_class}): {call.output}")
        for at, summary in call.leaves:
            location = "" if at == "out" else f" {at}"
            shape = "x".join(map(str, summary.shape)) or "scalar"
            values = (summary.mean, summary.std, summary.minimum, summary.maximum)
            named = zip(("mean", "std", "min", "max"), values, strict=True)
            numbers = " ".join(f"{name} {n:.4g}" for name, n in named if n is not None)
            start = f"  {call.label}{location} ({call.module_class})"
            lines.append(f"{start}: {shape} {summary.dtype} {numbers}")
    return [visible(line) for line in lines]
