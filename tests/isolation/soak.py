"""``make soak``: 500 tests with random faults on two workers, again and again for 20 minutes.

Every test must end as expected and every golden stay the same. The memory of a worker is measured
after each test. The exit code is 1 if anything differs or memory grows.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from matrix import CAUSES, goldens

TESTS, PROMPTS = 500, 20
LIMITS = ("--nnsight-timeout=3", "--nnsight-load-timeout=120")
MOST_GROWTH = 30.0  # MB in 100 tests of one worker, without its first ten
# kind: (weight, what the test does, the text in the JUnit report)
KINDS = {
    "pass": (60, "check(number, nnsight_capture, nnsight_golden)", "passed"),
    "generate": (8, "check(number, nnsight_capture, nnsight_golden, True)", "passed"),
    "fails": (5, "assert nnsight_capture.trace('x').calls == ()", "AssertionError"),
    "sleep": (3, "CAUSES['sleep']()", "HUNG after 3 s"),
    "loop in a trace": (2, "body(nnsight_capture, 'loop')", "HUNG after 3 s"),
    "interpreter": (2, "CAUSES['interpreter']()", "HUNG after 3 s"),
    "segfault": (3, "body(nnsight_capture, 'segfault')", "CRASHED: segmentation fault"),
    "abort": (2, "CAUSES['abort']()", "CRASHED: aborted"),
    "kill": (2, "body(nnsight_capture, 'kill')", "KILLED"),
    "exit": (2, "CAUSES['exit']()", "EXITED 3"),
    "interrupt": (2, "CAUSES['interrupt']()", "KeyboardInterrupt"),
    "stop": (2, "CAUSES['stop']()", "HUNG after 3 s"),
    "timers": (2, "CAUSES['timers']()", "HUNG after 3 s"),
    "closed": (2, "CAUSES['closed']()", "LOST: the worker closed its connection"),
    "child": (2, "CAUSES['child']()", "passed"),
    "surrogate": (2, "CAUSES['surrogate']()", r"Failed: \\ud800"),
    "no text": (2, "body(nnsight_capture, 'no text')", "NoTextError"),
    "leaves an edit": (3, "edit(nnsight_model)", "1 persistent edit"),
    "leaves training": (3, "nnsight_model._module.train()", "training mode"),
    "writes weights": (3, "write(nnsight_model)", "weights changed"),
}
HEAD = """
import os, pytest, torch
from causes import CAUSES

def check(number, capture, golden, generates=False):
    prompt = f"prompt {number % 20}"
    run = capture.generate(prompt, max_new_tokens=4) if generates else capture.trace(prompt)
    assert run == golden

def body(capture, cause):
    capture.trace("x", intervene=lambda model: CAUSES[cause]())

def edit(model):
    with model.edit(inplace=True):
        model.transformer.h[0].mlp.output[:] = 0

def write(model):
    torch.nn.init.zeros_(model._module.transformer.ln_f.weight)

@pytest.fixture(autouse=True)
def memory(nnsight_model, request):
    yield
    pages = int(open("/proc/self/statm").read().split()[1])
    with open(os.environ["SOAK_MEMORY"], "a") as file:
        file.write(f"{os.getpid()} {pages * 4096}\\n")
"""


def write_round(folder: Path, draw: random.Random) -> dict[str, str]:
    """Write the tests of one round; return the kind of each."""
    kinds = draw.choices(list(KINDS), [weight for weight, _, _ in KINDS.values()], k=TESTS)
    tests = [
        f"def test_{number:03}(nnsight_model, nnsight_capture, nnsight_golden):\n"
        f"    number = {number}\n    {KINDS[kind][1]}\n"
        for number, kind in enumerate(kinds)
    ]
    (folder / "causes.py").write_text(CAUSES)
    (folder / "test_soak.py").write_text(HEAD + "\n".join(tests))
    return {f"test_{number:03}": kind for number, kind in enumerate(kinds)}


def ends(folder: Path) -> dict[str, str]:
    """Return ``passed`` or the text of all failures of each test in the JUnit report."""
    found: dict[str, str] = {}
    for case in ET.parse(folder / "junit.xml").iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        text = " ".join(f"{child.get('message')} {child.text}" for child in bad)
        name = str(case.get("name"))
        found[name] = (found.get(name, "") + " " + text).strip()
    return {name: text or "passed" for name, text in found.items()}


def growth(lines: list[str]) -> tuple[float, float]:
    """Return the largest growth of a worker's memory, in MB per 100 tests, and its largest size."""
    sizes: dict[str, list[float]] = {}
    for line in lines:
        pid, size = line.split()
        sizes.setdefault(pid, []).append(int(size) / 1e6)
    rates = [
        (later[-1] - later[0]) / len(later) * 100
        for later in (values[10:] for values in sizes.values())
        if len(later) >= 20
    ]
    return max(rates, default=0.0), max((max(values) for values in sizes.values()), default=0.0)


def one_round(folder: Path, seed: int) -> list[str]:
    """Run one round and print a summary; return what went wrong."""
    kinds = write_round(folder, random.Random(seed))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--nnsight-model=tiny:gpt2"]
    command += ["-p", "no:cacheprovider", "-p", "no:timeout", "-p", "no:randomly"]
    memory = folder / "memory"
    environment = {**os.environ, "SOAK_MEMORY": str(memory), "HF_HUB_OFFLINE": "1"}
    environment.pop("CI", None)
    good = " or ".join(name for name, kind in kinds.items() if KINDS[kind][2] == "passed")
    subprocess.run(
        [*command, "--snapshot-update", "-k", good],
        cwd=folder, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    before = goldens(folder)
    memory.unlink()
    start = time.monotonic()
    done = subprocess.run(
        [*command, *LIMITS, "--snapshot-update", "--junit-xml=junit.xml"],
        cwd=folder, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    seconds, found = time.monotonic() - start, ends(folder)
    wrong = [
        f"{name} ({kind}): {found.get(name, 'no report')[:200]}"
        for name, kind in kinds.items()
        if not re.search(KINDS[kind][2], found.get(name, "no report"))
    ]
    if done.returncode != 1:
        wrong.append(f"exit code {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    if goldens(folder) != before:
        wrong.append("goldens differ")
    rate, most = growth(memory.read_text().splitlines())
    if rate > MOST_GROWTH:
        wrong.append(f"a worker grew by {rate:.0f} MB in 100 tests")
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds.values()).most_common())
    workers = len({line.split()[0] for line in memory.read_text().splitlines()})
    print(
        f"seed {seed}: {len(found)} tests in {seconds:.0f} s, {workers} workers one after another"
    )
    print(f"  {counts}")
    print(
        f"  {len(before)} goldens whole; memory {most:.0f} MB at most, {rate:+.1f} MB / 100 tests"
    )
    print(f"  {done.stdout.strip().splitlines()[-1]}", flush=True)
    return wrong


def main() -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    until = time.monotonic() + 60 * parser.parse_args().minutes
    seed, wrong = 0, []
    while not wrong and (seed == 0 or time.monotonic() < until):
        with tempfile.TemporaryDirectory() as folder:
            wrong = one_round(Path(folder), seed)
        seed += 1
    for line in wrong[:20]:
        print(f"LOST: {line}")
    print(f"{seed} rounds, {'something' if wrong else 'nothing'} lost")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
