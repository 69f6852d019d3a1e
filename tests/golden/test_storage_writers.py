"""Goldens under kill -9 during a write, two writers at once, and a full disk."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.storage import read_text, write_atomically

SIZE = 3_000_000
OLD, NEW = "old\n" + "o" * SIZE, "new\n" + "n" * SIZE
WRITER = """
import sys
from pathlib import Path
from pytest_nnsight.golden.storage import write_atomically
path, size = Path(sys.argv[1]), int(sys.argv[2])
texts = ["old\\n" + "o" * size, "new\\n" + "n" * size]
print("ready", flush=True)
while True:
    for text in texts:
        write_atomically(path, text)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(SIZE)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_writer_that_is_killed_leaves_one_golden_whole(tmp_path: Path) -> None:
    path, draw, found, cut_off = tmp_path / "test.json", random.Random(0), set(), 0
    write_atomically(path, OLD)
    for _ in range(12):
        process = writer(path)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        found.add(path.read_text())
        cut_off += len([*tmp_path.glob(".*.tmp")])
    assert found <= {OLD, NEW}
    assert cut_off, "no write was cut off: the test proves nothing"


def test_two_writers_at_once_leave_one_golden_whole(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    write_atomically(path, OLD)
    writers = [writer(path), writer(path)]
    found = [read_text(path) for _ in range(100)]
    for process in writers:
        process.kill()
        process.communicate()
    assert {*found} == {OLD, NEW}


def test_a_disk_that_is_full_leaves_the_old_golden(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    path = tmp_path / "test.json"
    write_atomically(path, OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(GoldenError, match=r"^cannot write golden .*nothing was changed$"):
            write_atomically(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == OLD
    assert [*tmp_path.iterdir()] == [path]
