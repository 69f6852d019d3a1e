"""Measure the memory of two workers on one model against one, by proportional set size."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.child import call
from benchmarks.llama import random_llama
from benchmarks.row import Row
from benchmarks.session import run, write

# Each worker runs the model, waits for the others, reads its memory, and waits again.
TESTS = """
import json, os, pathlib, time
import pytest

HERE = pathlib.Path(__file__).parent
WORKERS = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])

def wait(ending):
    (HERE / f"{os.getpid()}.{ending}").touch()
    while len([*HERE.glob(f"*.{ending}")]) < WORKERS:
        time.sleep(0.05)

def write_share(process):
    lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    share = {line.split()[0].strip(":"): int(line.split()[1]) * 1024 for line in lines}
    (HERE / f"{process}.json").write_text(json.dumps(share))

def share_and_wait():
    wait("ran")
    write_share(os.getpid())
    wait("read")
"""
CAPTURED = """
@pytest.mark.parametrize("number", range(WORKERS))
def test_share(number, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace(list(range(1, 11))) == nnsight_golden
    share_and_wait()
"""
PLAIN = """
@pytest.mark.parametrize("number", range(WORKERS))
def test_share(number):
    import nnsight, torch
    model = nnsight.TransformersModel(MODEL, task="text-generation", dispatch=True)
    with torch.no_grad():
        model._module(torch.arange(1, 11)[None])
    share_and_wait()
"""


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the ratio for a model, and for a synthetic one of over 1 GB.

    The model is copied, because pages that other processes have mapped would count less.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        if Path(model).is_dir():
            shutil.copytree(model, folder)
        else:
            call("benchmarks.workers:write_llama", str(folder), 2)
        yield from of(folder, "memory of two workers over one", 1.45)
        shutil.rmtree(folder)
        call("benchmarks.workers:write_llama", str(folder), 17)
        yield from of(folder, "memory of two workers over one, model of 1.1 GB", 1.25)


def of(model: Path, name: str, goal: float) -> Iterator[Row]:
    """Yield the rows of one model: ours, and pytest's workers that load it without the plugin."""
    one, two = (shares(model, workers, CAPTURED) for workers in (1, 2))
    yield Row(name, sum_of(two, "Pss") / sum_of(one, "Pss"), goal)
    yield Row("  one worker", sum_of(one, "Pss") / 1e6, unit="MB", digits=0)
    yield Row(
        "  of that, not shared with other processes",
        sum_of(one, "Anonymous") / 1e6,
        unit="MB",
        digits=0,
    )
    one, two = (shares(model, workers, PLAIN, "-p", "no:nnsight") for workers in (1, 2))
    yield Row("  without the plugin", sum_of(two, "Pss") / sum_of(one, "Pss"))
    yield Row(
        "  of one worker, not shared with other processes",
        sum_of(one, "Anonymous") / 1e6,
        unit="MB",
        digits=0,
    )


def shares(model: Path, workers: int, test: str, *options: str) -> list[dict[str, int]]:
    """Return the bytes in ``smaps_rollup`` of each worker after it has run the model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, {"test_it.py": f"{TESTS}\nMODEL = {str(model)!r}\n{test}"})
        ours = () if options else (f"--nnsight-model=m={model}", "--snapshot-update")
        run(folder, *options, *ours, "-n", str(workers))
        return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def sum_of(found: list[dict[str, int]], key: str) -> float:
    """Return the sum over workers."""
    return float(sum(one[key] for one in found))


def write_llama(folder: str, layers: int) -> None:
    """Write a Llama with random weights, 64 MB a layer, and a tokenizer."""
    import torch

    from pytest_nnsight.models.tiny import byte_tokenizer

    torch.manual_seed(0)
    random_llama(layers, hidden=1024, intermediate=4096, heads=16).save_pretrained(folder)
    byte_tokenizer(adds_bos=True).save_pretrained(folder)
