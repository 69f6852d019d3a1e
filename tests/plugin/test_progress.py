"""Loading says what it waits for: a line everywhere, transformers' bars on a terminal."""

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


def on_a_terminal(*arguments: str, cwd: Path) -> str:
    """Run pytest with a terminal of 100 columns and return what it shows."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the terminal is gone with its last process
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_on_a_terminal_and_quiet_where_asked(project: Project, saved_gpt2: Path) -> None:
    """Transformers 4 has a bar for files alone, where there are several; 5 has one for weights."""
    from transformers import GPT2LMHeadModel

    project.test_file("def test_load(nnsight_model): pass\n")
    several = project.path / "my-gpt2"
    shutil.copytree(saved_gpt2, several, ignore=shutil.ignore_patterns("*.safetensors"))
    GPT2LMHeadModel.from_pretrained(saved_gpt2).save_pretrained(several, max_shard_size="200KB")
    model = f"--nnsight-model={several}"
    shown = on_a_terminal(model, cwd=project.path)
    assert "nnsight: loading my-gpt2" in shown
    assert re.search("Loading (weights|checkpoint shards): 100%", shown)
    quiet = project.run(model, "-q")
    quiet.assert_outcomes(passed=1)
    assert "loading" not in "\n".join([*quiet.outlines, *quiet.errlines])
    worker = project.run(model, "-n", "1")
    worker.stderr.fnmatch_lines(["nnsight: loading my-gpt2 ... GPT2LMHeadModel, *"])
