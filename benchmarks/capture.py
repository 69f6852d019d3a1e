"""What watching every module costs: capture against a plain forward of the same model.

``make bench``, or ``python benchmarks/capture.py [MODEL]`` with any model spec. Each figure is a
ratio of medians from one run, plain and captured in turn (A B A B ...), so that a noisy machine
slows both alike. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.golden.document import encode
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec

SENTENCE = "The quick brown fox jumps over the lazy dog while the rain keeps falling. "


def main() -> None:
    """Print one table of ratios, for one and two threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="tiny:llama")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=7)
    chosen = parser.parse_args()
    spec = parse_spec(chosen.model)
    model: Any = load(
        spec, LoadOptions(), lambda text: print(text.strip("\n"), end=" ", flush=True)
    )
    capture = Capture(model, lambda: identify(model, spec))
    ids = torch.tensor([model.tokenizer(SENTENCE * 40)["input_ids"][: chosen.tokens]])
    calls = len(capture.trace(ids).calls)
    print(f"\n{calls} calls, {ids.shape[1]} tokens, {chosen.pairs} pairs, medians\n")
    print(f"{'measure':<44}{'threads':>8}{'plain ms':>10}{'ours ms':>10}{'ratio':>8}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, plain, ours in measures(model, capture, ids, chosen.steps):
            a, b = alternate(plain, ours, chosen.pairs)
            print(
                f"{name:<44}{threads:>8}{a * 1e3:>10.0f}{b * 1e3:>10.0f}{b / a:>8.2f}", flush=True
            )
    for length in (10, ids.shape[1]):
        size = len(encode(capture.trace(ids[:, :length])))
        print(f"golden of a {length}-token trace, all calls: {size / 1e6:.2f} MB")


def measures(
    model: Any, capture: Capture, ids: torch.Tensor, steps: int
) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Return name, plain run and captured run of each measure."""
    module: Any = nnsight_api.torch_module(model)
    prompt = ids[:, : ids.shape[1] // 8]
    settings = {"max_new_tokens": steps, "min_new_tokens": steps}

    def forward() -> None:
        with torch.no_grad():
            module(input_ids=ids, attention_mask=torch.ones_like(ids))

    def generate() -> None:
        mask = torch.ones_like(prompt)
        module.generate(input_ids=prompt, attention_mask=mask, do_sample=False, **settings)

    return [
        ("trace, summaries of every call", forward, lambda: capture.trace(ids)),
        (
            f"generate {steps} tokens, every call of every step",
            generate,
            lambda: capture.generate(prompt, **settings),
        ),
    ]


def alternate(plain: Callable[[], Any], ours: Callable[[], Any], pairs: int) -> tuple[float, float]:
    """Time both in turn, after one run of each to warm up; return their medians in seconds."""
    plain(), ours()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for run, into in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            run()
            into.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
