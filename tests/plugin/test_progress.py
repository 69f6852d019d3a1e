"""Loading prints a line; on a terminal also the progress bars of transformers."""

from __future__ import annotations

import os
import pty
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.usefixtures("warm")


def run_in_terminal(*arguments: str, cwd: Path) -> str:
    """Run pytest with a terminal of 100 columns and return what it shows."""
    import fcntl
    import termios

    our_end, pytest_end = pty.openpty()
    fcntl.ioctl(pytest_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=cwd,
        stdin=pytest_end,
        stdout=pytest_end,
        stderr=pytest_end,
    )
    os.close(pytest_end)
    shown = b""
    while True:
        try:
            part = os.read(our_end, 65536)
        except OSError:  # the terminal is gone with its last process
            break
        if not part:
            break
        shown += part
    os.close(our_end)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_are_shown_on_a_terminal_and_hidden_by_quiet(
    project: Project, saved_gpt2: Path
) -> None:
    """Transformers 4 shows a bar only for several files, transformers 5 one for weights."""
    from transformers import GPT2LMHeadModel

    project.test_file("def test_load(nnsight_model): pass\n")
    several = project.path / "my-gpt2"
    shutil.copytree(saved_gpt2, several, ignore=shutil.ignore_patterns("*.safetensors"))
    GPT2LMHeadModel.from_pretrained(saved_gpt2).save_pretrained(several, max_shard_size="200KB")
    model = f"--nnsight-model={several}"
    shown = run_in_terminal(model, cwd=project.path)
    assert "nnsight: loading my-gpt2" in shown
    assert re.search("Loading (weights|checkpoint shards): 100%", shown)
    quiet = project.run(model, "-q")
    quiet.assert_outcomes(passed=1)
    assert "loading" not in "\n".join([*quiet.outlines, *quiet.errlines])
    worker = project.run(model, "-n", "1")
    worker.stderr.fnmatch_lines(["nnsight: loading my-gpt2 ... GPT2LMHeadModel, *"])
