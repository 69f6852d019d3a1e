"""What another process runs: the standard asks of some models, written to files.

``python -m benchmarks.faults.child FOLDER DTYPE MODEL ...``. It works with every supported library
version, so it imports little of the bench.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.faults.ask import Ask, asks
from benchmarks.faults.captured import Captured
from benchmarks.faults.models import spec_text, with_weights
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
    """Write goldens and tensors of one model's short asks."""
    spec = parse_spec(spec_text(name))
    model = load(spec, LoadOptions(dtype=dtype), lambda text: None)
    capture = Capture(model, lambda: identify(model, spec))
    weights = fingerprint_parameters(nnsight_api.torch_module(model))
    for ask in short(asks(model.tokenizer, capture.can_generate)):
        run = with_weights(ask.of(capture), weights)
        captured = Captured.of(run)
        place = folder / file_name(name, ask)
        place.with_suffix(".json").write_text(encode(run), encoding="utf-8")
        tensors = {"calls": dict(captured.calls), "logits": captured.logits}
        torch.save(tensors, place.with_suffix(".pt"))


def short(standard: tuple[Ask, ...]) -> list[Ask]:
    """Return the asks with a short prompt."""
    return [ask for ask in standard if ask.name.endswith("short")]


def file_name(model: str, ask: Ask) -> str:
    """Return the name of a model's files, without their endings."""
    return f"{model.replace(':', '-')} {ask.name}"


if __name__ == "__main__":
    main()
