"""A worker's crash: its title, the state that the worker wrote, and the stack that is shown."""

from __future__ import annotations

import faulthandler
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from pytest_nnsight.isolation.crash import MOST_LINES, WorkerCrash, trimmed, trimmed_fault
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState, read_heartbeat

CALL = WorkerState("call", "test_it.py::test", 60.0)


@pytest.mark.parametrize(
    ("code", "title"),
    [
        (-11, "CRASHED: segmentation fault"),
        (-6, "CRASHED: aborted"),
        (-9, "KILLED (out of memory?)"),
        (-15, "KILLED: terminated"),
        (-34, "KILLED by signal 34"),
        (3, "EXITED 3"),
        (0, "EXITED 0"),
        (None, "CRASHED"),
    ],
)
def test_title_follows_from_the_exit_code(code: int | None, title: str) -> None:
    assert WorkerCrash(code, CALL).title == title


@pytest.mark.parametrize(
    ("last", "where"),
    [
        (WorkerState("setup", "t"), " in setup"),
        (WorkerState("start"), " at its start"),
        (WorkerState("exit"), " at its end"),
        (WorkerState("idle"), ""),
        (WorkerState("loading", "gpt2"), " while loading gpt2"),
        (WorkerState("collection", "test_x.py"), " while collecting test_x.py"),
        (WorkerState("collection"), " in collection"),
        (WorkerState("call", "t", 0.0, "transformer.h.3"), ", last module transformer.h.3"),
    ],
    ids=str,
)
def test_title_ends_with_the_last_state(last: WorkerState, where: str) -> None:
    assert WorkerCrash(-11, last).title == f"CRASHED: segmentation fault{where}"


def test_a_hang_shows_its_time_limit() -> None:
    assert WorkerCrash(-9, CALL, is_hung=True).title == "HUNG after 60 s"
    loading = WorkerState("loading", "gpt2", 2.5)
    assert WorkerCrash(-9, loading, is_hung=True).title == "HUNG after 2.5 s while loading gpt2"
    assert WorkerCrash(-9, CALL).title == "KILLED (out of memory?)"


def test_a_lost_connection_is_not_an_exit_code() -> None:
    at_end = WorkerState("exit")
    assert (
        WorkerCrash(0, at_end, is_lost=True).title
        == "LOST: the worker closed its connection to pytest"
    )
    assert WorkerCrash(0, at_end).title == "EXITED 0 at its end"


def test_each_state_that_is_written_increases_the_turn(tmp_path: Path) -> None:
    """By the turn, the controller sees that a worker makes progress."""
    heartbeat = Heartbeat(tmp_path / "state")
    turns = []
    for _ in range(3):
        heartbeat.write(CALL)
        turns.append(read_heartbeat(tmp_path / "state").turn)
    Heartbeat(tmp_path / "state").write(CALL)  # in a file that another process made
    assert [*turns, read_heartbeat(tmp_path / "state").turn] == [1, 2, 3, 4]


def test_a_state_is_read_from_its_file(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "state")
    assert read_heartbeat(tmp_path / "state") == WorkerState()
    heartbeat.write(CALL)
    heartbeat.write_module("transformer.h.10")
    heartbeat.write_module("transformer.h.2")
    assert read_heartbeat(tmp_path / "state") == WorkerState(*CALL_FIELDS, "transformer.h.2")
    heartbeat.write(WorkerState("teardown", "t"))
    assert read_heartbeat(tmp_path / "state") == WorkerState("teardown", "t")


CALL_FIELDS = (CALL.phase, CALL.name, CALL.seconds)


@pytest.mark.parametrize("text", ["", "{", "null", '{"phase": "call", "new": 1}', "\0" * 5000])
def test_a_damaged_file_means_a_worker_at_its_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text)
    assert read_heartbeat(tmp_path / "state") == WorkerState()
    assert read_heartbeat(tmp_path / "none") == WorkerState()


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f40d", "\n"])
def test_a_long_test_name_is_cut_and_the_rest_is_whole(tmp_path: Path, letter: str) -> None:
    heartbeat = Heartbeat(tmp_path / "state")
    heartbeat.write(WorkerState("call", letter * 10_000, 1.0))
    heartbeat.write_module("transformer")
    found = read_heartbeat(tmp_path / "state")
    assert (found.phase, found.seconds, found.module) == ("call", 1.0, "transformer")
    assert found.name == letter * 480


def test_a_fault_shows_only_the_frames_of_the_test() -> None:
    program = "import faulthandler\ndef test_it():\n    faulthandler.dump_traceback()\ntest_it()\n"
    text = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stderr
    assert "test_it" in text
    assert trimmed_fault(text) == []  # frames without a file are the runner's
    frame = '  File "/home/x/test_it.py", line 3 in test_it\n'
    runner = '  File "/lib/site-packages/_pytest/python.py", line 1 in call\n'
    found = trimmed_fault("Timeout!\n\nThread 0x1:\n" + frame + runner * 3)
    assert found == ['  File "/home/x/test_it.py", line 3, in test_it']
    assert len(trimmed_fault(frame * 500)) == MOST_LINES
    assert faulthandler.is_enabled()


def test_a_stack_shows_only_the_frames_of_the_test() -> None:
    lines = trimmed(traceback.format_stack())
    assert lines[-2].endswith("in test_a_stack_shows_only_the_frames_of_the_test")
    assert not any("_pytest" in line or "pluggy" in line for line in lines)
