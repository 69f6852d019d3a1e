"""Run the standard probes of some models in another process, and write files.

``python -m benchmarks.faults.child FOLDER DTYPE MODEL ...``. It works with every supported library
version, so it imports little of the benchmark.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.faults.captured import Captured
from benchmarks.faults.models import spec_text, with_weights
from benchmarks.faults.probe import Probe, probes
from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.golden.document import encode
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec
from pytest_nnsight.summary.fingerprint import fingerprint_parameters


def main() -> None:
    """Run all models that can be loaded here, and name the others."""
    folder, dtype, *names = sys.argv[1:]
    torch.set_num_threads(1)
    for name in names:
        try:
            run_model(Path(folder), dtype, name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")


def run_model(folder: Path, dtype: str, name: str) -> None:
    """Write goldens and tensors of one model's short probes."""
    spec = parse_spec(spec_text(name))
    model = load(spec, LoadOptions(dtype=dtype), lambda text: None)
    capture = Capture(model, lambda: identify(model, spec))
    weights = fingerprint_parameters(nnsight_api.torch_module(model))
    for probe in short(probes(model.tokenizer, capture.can_generate)):
        run = with_weights(probe.of(capture), weights)
        captured = Captured.of(run)
        location = folder / file_name(name, probe)
        location.with_suffix(".json").write_text(encode(run), encoding="utf-8")
        tensors = {"calls": dict(captured.calls), "logits": captured.logits}
        torch.save(tensors, location.with_suffix(".pt"))


def short(standard: tuple[Probe, ...]) -> list[Probe]:
    """Return the probes with a short prompt."""
    return [probe for probe in standard if probe.name.endswith("short")]


def file_name(model: str, probe: Probe) -> str:
    """Return the name of a model's files, without their endings."""
    return f"{model.replace(':', '-')} {probe.name}"


if __name__ == "__main__":
    main()
