"""Run the same model in other processes, with other CPU instructions or library versions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.faults.bench import judge
from benchmarks.faults.captured import Captured
from benchmarks.faults.child import file_name, short
from benchmarks.faults.probe import Probe
from benchmarks.faults.result import Result
from benchmarks.faults.subject import Golden, Say, Subject
from pytest_nnsight.golden.document import decode

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Setting:
    """Define how to start a process: its environment, and its Python."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable


SETTINGS = (
    Setting("another process", {"PYTHONHASHSEED": "1"}),
    Setting("another hash seed", {"PYTHONHASHSEED": "2"}),
    Setting("tokenizers in parallel", {"TOKENIZERS_PARALLELISM": "true"}),
    Setting("torch without vector instructions", {"ATEN_CPU_CAPABILITY": "default"}),
    Setting("torch with AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}),
    Setting("torch with AVX512", {"ATEN_CPU_CAPABILITY": "avx512"}),
    Setting("oneDNN with SSE4.1", {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Setting("oneDNN with AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Setting("MKL on its compatible path", {"MKL_CBWR": "COMPATIBLE"}),
)


def other_pythons(paths: Sequence[str]) -> list[Setting]:
    """Return a setting for each Python, named by the versions that it has installed."""
    code = (
        "from importlib.metadata import version as v; "
        "print(', '.join(f'{p} {v(p)}' for p in ('torch', 'transformers', 'nnsight')))"
    )
    settings = []
    for path in paths:
        command = [path, "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        settings.append(Setting(done.stdout.strip(), {}, path))
    return settings


def run_children(
    settings: Sequence[Setting], models: Sequence[str], dtype: str, folder: Path, say: Say
) -> list[str]:
    """Run every setting once, for all models; return what could not run."""
    notes = []
    for number, setting in enumerate(settings, 1):
        say(f"process {number} of {len(settings)}: {setting.name}\n")
        location = folder / str(number)
        location.mkdir()
        command = [setting.python, "-W", "ignore", "-m", "benchmarks.faults.child"]
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        environment = os.environ | setting.environment
        environment |= {"PYTHONPATH": os.pathsep.join([*paths, str(_ROOT)])}
        done = subprocess.run(
            [*command, str(location), dtype, *models],
            env=environment,
            capture_output=True,
            text=True,
        )
        output = done.stdout.strip() or (done.stderr.strip()[-200:] if done.returncode else "")
        notes += [f"{setting.name}: {line}" for line in output.splitlines()]
    return notes


def judge_children(subject: Subject, settings: Sequence[Setting], folder: Path) -> list[Result]:
    """Compare the files of the processes with this process, in both directions."""
    results = []
    for number, setting in enumerate(settings, 1):
        for probe in short(subject.probes):
            file = folder / str(number) / file_name(subject.name, probe)
            if not file.with_suffix(".json").exists():
                continue
            here, there = subject.golden(probe), read(file, probe)
            results += [
                _judge(subject, here, there.captured, setting.name),
                _judge(subject, there, here.captured, f"{setting.name}, the other way round"),
            ]
    return results


def read(file: Path, probe: Probe) -> Golden:
    """Read the files of a child process."""
    text = file.with_suffix(".json").read_text(encoding="utf-8")
    tensors = torch.load(file.with_suffix(".pt"), weights_only=True)
    run = decode(text, "golden")
    return Golden(probe, Captured(run, tensors["calls"], tensors["logits"]), text, run)


def _judge(subject: Subject, golden: Golden, received: Captured, name: str) -> Result:
    start = time.perf_counter()
    return judge(subject, golden, received, lambda: subject.weights, name, start)
