"""The memory of two workers on one model against one: the sum of their proportional set sizes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.child import call
from benchmarks.row import Row
from benchmarks.session import run, write

# Each worker captures, waits until all have, reads its own share, and waits until all have read.
TESTS = """
import json, os, pathlib, time
import pytest

HERE = pathlib.Path(__file__).parent
WORKERS = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])

def wait(ending):
    (HERE / f"{os.getpid()}.{ending}").touch()
    while len([*HERE.glob(f"*.{ending}")]) < WORKERS:
        time.sleep(0.05)

def share():
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split()[0].strip(":"): int(line.split()[1]) * 1024 for line in lines}

@pytest.mark.parametrize("number", range(WORKERS))
def test_share(number, nnsight_capture, nnsight_golden):
    run = nnsight_capture.trace(list(range(1, 11)))
    assert run == nnsight_golden
    wait("captured")
    (HERE / f"{os.getpid()}.json").write_text(json.dumps(share()))
    wait("read")
"""


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the ratio for a model, and for a synthetic one of over 1 GB."""
    yield from of(model, "memory of two workers over one", 1.33)
    with tempfile.TemporaryDirectory() as folder:
        call("benchmarks.workers:write_large", folder)
        yield from of(folder, "the same on a model of 1.1 GB", 1.1)


def of(model: str, name: str, goal: float) -> Iterator[Row]:
    """Yield the rows of one model."""
    one, two = (shares(model, workers) for workers in (1, 2))
    yield Row(f"{name}, proportional sizes", sum_of(two, "Pss") / sum_of(one, "Pss"), goal)
    yield Row("  one worker", sum_of(one, "Pss") / 1e6, unit="MB", digits=0)
    yield Row("  of it its own, not shared", sum_of(one, "Anonymous") / 1e6, unit="MB", digits=0)


def shares(model: str, workers: int) -> list[dict[str, int]]:
    """Return what smaps_rollup says of each worker once it has captured, in bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, {"test_it.py": TESTS})
        options = (f"--nnsight-model=m={model}", "-n", str(workers), "--snapshot-update")
        run(folder, *options)
        return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def sum_of(found: list[dict[str, int]], key: str) -> float:
    """Return the sum over workers."""
    return float(sum(one[key] for one in found))


def write_large(folder: str) -> None:
    """Write a Llama of 1.1 GB with random weights, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pytest_nnsight.models.tiny import byte_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=17,
        num_attention_heads=16,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer(adds_bos=True).save_pretrained(folder)
