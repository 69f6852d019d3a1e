"""A test that hangs or crashes fails alone: the session ends, and the report says what happened."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from project import TINY, Project

CAUSES = (Path(__file__).parents[1] / "isolation" / "causes.py").read_text()
TITLES = {
    "sleep": "HUNG after 2 s",
    "loop": "HUNG after 2 s",
    "lock": "HUNG after 2 s",
    "interpreter": "HUNG after 2 s",
    "segfault": "CRASHED: segmentation fault",
    "abort": "CRASHED: aborted",
    "kill": r"KILLED \(out of memory\?\)",
    "exit": "EXITED 3",
    "sys.exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "memory": "MemoryError",
    "stop": "HUNG after 2 s",
    "timers": "HUNG after 2 s",
    "closed": "LOST: the worker closed",
    "surrogate": r"Failed: \\ud800",
    "no text": "NoTextError: <exception str",
}
SHORT_END = "from pytest_nnsight.isolation import limits\nlimits.EXIT_SECONDS = 2.0\n"
LIMITS = ("--nnsight-timeout=2", "--nnsight-load-timeout=60")


@pytest.fixture
def light(project: Project) -> Project:
    """Return a project whose files do not import torch, so that workers are replaced quickly."""

    def write(source: str, name: str = "test_it.py") -> None:
        (project.path / name).write_text(f"import pytest\n{source}", encoding="utf-8")

    project.test_file = write  # type: ignore[method-assign]
    return project


def test_a_hang_or_crash_fails_only_its_test(light: Project) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(
        """
from causes import CAUSES

@pytest.mark.parametrize("cause", CHOSEN)
def test_dies(cause):
    print("before", cause)
    CAUSES[cause]()

def test_lives():
    pass
""".replace("CHOSEN", repr(list(TITLES)))
    )
    result = light.run(*TINY, *LIMITS, "--junit-xml=junit.xml")
    assert result.ret == 1
    result.assert_outcomes(failed=len(TITLES), passed=1)
    for cause, title in TITLES.items():
        result.stdout.re_match_lines([rf"FAILED test_it.py::test_dies\[{cause}\] - .*{title}.*"])
    cases = {
        str(case.get("name")): case for case in ET.parse(light.path / "junit.xml").iter("testcase")
    }
    assert len(cases) == len(TITLES) + 1
    for cause, title in TITLES.items():
        text = " ".join(str(failure.text) for failure in cases[f"test_dies[{cause}]"])
        assert re.search(title, text), text
    result.stdout.re_match_lines(
        ["CRASHED: segmentation fault", ".*in string_at", ".*in test_dies"]
    )
    result.stdout.re_match_lines([".*Captured stdout.*", "before segfault"])


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_a_crash_in_a_fixture_names_the_phase(light: Project, phase: str) -> None:
    light.test_file(CAUSES, "causes.py")
    before, after = (
        ("CAUSES[request.param]()", "") if phase == "setup" else ("", "CAUSES[request.param]()")
    )
    light.test_file(
        f"""
from causes import CAUSES

@pytest.fixture(params=["sleep", "interpreter", "segfault", "kill"])
def dies(request):
    {before or "pass"}
    yield
    {after or "pass"}

def test_dies(dies):
    pass

def test_lives():
    pass
"""
    )
    result = light.run(*TINY, *LIMITS)
    assert result.ret == 1
    for cause in ("sleep", "interpreter", "segfault", "kill"):
        title = TITLES[cause]
        result.stdout.re_match_lines(
            [rf"(FAILED|ERROR) test_it.py::test_dies\[{cause}\] - .*{title} in {phase}"]
        )
    result.assert_outcomes(errors=4, passed=1 if phase == "setup" else 5)


def test_a_trace_that_hangs_names_the_last_module(project: Project) -> None:
    project.test_file(
        """
import ctypes, time

def wait(model):
    model.transformer.h[0].output
    time.sleep(100)

def test_hangs(nnsight_capture):
    nnsight_capture.trace("Hello", intervene=wait)

def test_lives(nnsight_capture, nnsight_model):
    assert nnsight_capture.trace("Hello").calls

def crash(model):
    ctypes.string_at(0)

def test_crashes(nnsight_capture):
    nnsight_capture.trace("Hello", intervene=crash)

def test_lives_too(nnsight_capture):
    assert nnsight_capture.generate("Hello", max_new_tokens=2).calls
"""
    )
    result = project.run(*TINY, "--nnsight-timeout=4")
    assert result.ret == 1
    result.assert_outcomes(failed=2, passed=2)
    result.stdout.re_match_lines(
        [
            r"HUNG after 4 s, last module transformer\.h\.0.*",
            r"FAILED .*::test_hangs - .*HUNG after 4 s, last module transf.*",
            "FAILED .*::test_crashes - CRASHED: segmentation fault.*",
        ]
    )
    loads = [line for line in result.outlines + result.errlines if "loading tiny:gpt2" in line]
    assert (
        len(loads) == 2
    )  # after a soft limit the model is used again, after a crash it is loaded again


@pytest.mark.parametrize("cause", ["sleep", "interpreter", "segfault", "exit"])
def test_a_crash_while_collecting_names_the_file(light: Project, cause: str) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(f"from causes import CAUSES\nCAUSES[{cause!r}]()\n", "test_bad.py")
    light.test_file("def test_lives(): pass\n")
    result = light.run(*TINY, "--nnsight-load-timeout=2")
    assert result.ret == 1
    text = result.stdout.str()
    assert "test_bad.py" in text
    assert re.search(TITLES[cause], text)


def test_a_conftest_that_hangs_ends_the_session(light: Project) -> None:
    light.test_file("import time\ntime.sleep(100)\n", "conftest.py")
    light.test_file("def test_lives(): pass\n")
    result = light.run(*TINY, "--nnsight-load-timeout=2")
    assert result.ret == 1
    result.stderr.fnmatch_lines(
        ["nnsight: HUNG after 2 s while loading conftest files", "*conftest.py*line 3*"]
    )


@pytest.mark.parametrize(
    ("cause", "title"), [("segfault", "Segmentation fault"), ("abort", "Aborted")]
)
def test_a_conftest_that_crashes_shows_its_stack(light: Project, cause: str, title: str) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(f"from causes import CAUSES\nCAUSES[{cause!r}]()\n", "conftest.py")
    light.test_file("def test_lives(): pass\n")
    result = light.run(*TINY)
    assert result.ret < 0
    result.stderr.fnmatch_lines([f"Fatal Python error: {title}", "*conftest.py*line 3*"])


def test_the_session_stops_if_every_setup_crashes_and_names_tests_not_run(light: Project) -> None:
    light.test_file(
        """
import ctypes

@pytest.fixture(scope="session", autouse=True)
def crashes():
    ctypes.string_at(0)

@pytest.mark.parametrize("number", range(12))
def test_never(number):
    pass
"""
    )
    result = light.run(*TINY)
    assert result.ret == 1
    result.stdout.re_match_lines(
        [
            "stopped, since workers kept dying: CRASHED: segmentation fault in setup",
            "3 tests did not run:",
            r"  test_it.py::test_never\[\d+\]",
        ]
    )


@pytest.mark.parametrize(("cause", "title"), [("sleep", "HUNG after 2 s"), ("segfault", "CRASHED")])
def test_a_worker_that_crashes_at_its_end_is_named(light: Project, cause: str, title: str) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(
        f"""
import atexit
from causes import CAUSES

def test_passes():
    atexit.register(CAUSES[{cause!r}])
"""
    )
    light.test_file(SHORT_END, "conftest.py")
    result = light.run(*TINY)
    assert result.ret == 1
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([rf"worker gw0 ({title}).* at its end"])


def test_a_worker_that_waits_for_another_is_not_a_hang(light: Project) -> None:
    light.test_file(SHORT_END, "conftest.py")
    light.test_file(
        "import time\n"
        "@pytest.mark.parametrize('number', range(4))\n"
        "def test_some(number): time.sleep(0 if number else 6)\n"
    )
    result = light.run(*TINY, "-n", "2")
    assert result.ret == 0
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*at its end*")


def test_a_worker_runs_atexit_functions_and_destroys_no_objects(
    light: Project,
) -> None:
    """Destroying a model and its libraries takes a second, or longer if something hangs."""
    light.test_file(
        """
import atexit, gc, pathlib, time

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(60)

SLOW = Slow()
atexit.register(pathlib.Path("first").touch)

def test_passes():
    atexit.register(pathlib.Path("last").touch)
    atexit.register(lambda: pathlib.Path("frozen").write_text(str(gc.get_freeze_count())))
"""
    )
    result = light.run(*TINY)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    assert (light.path / "first").exists()
    assert (light.path / "last").exists()
    assert int((light.path / "frozen").read_text()) > 0  # so pytest does not collect them again
    result.stdout.no_fnmatch_line("*at its end*")


def test_a_thread_that_delays_the_end_of_a_worker_is_a_hang(light: Project) -> None:
    light.test_file(
        "import threading, time\n"
        "def test_passes(): threading.Thread(target=time.sleep, args=(60,)).start()\n"
    )
    light.test_file(SHORT_END, "conftest.py")
    result = light.run(*TINY)
    assert result.ret == 1
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines(["worker gw0 HUNG after 2 s at its end"])


def test_crashes_are_reported_with_the_users_workers(light: Project) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(
        """
from causes import CAUSES

@pytest.mark.parametrize("cause", ["segfault", "sleep", "kill", None, None, None])
def test_some(cause):
    if cause:
        CAUSES[cause]()
"""
    )
    result = light.run(*TINY, *LIMITS, "-n", "2")
    assert result.ret == 1
    result.assert_outcomes(failed=3, passed=3)
    result.stdout.re_match_lines(["FAILED .*segfault.* - CRASHED: segmentation fault"])


@pytest.mark.parametrize("option", ["-s", "--nnsight-isolation=off", "-n0"])
def test_without_a_worker_a_hang_is_named_and_ends_the_process(light: Project, option: str) -> None:
    light.test_file(CAUSES, "causes.py")
    light.test_file(
        """
from causes import CAUSES

def test_first():
    pass

def test_swallows():
    while True:
        try:
            CAUSES["loop"]()
        except BaseException:
            pass

def test_last():
    pass
"""
    )
    result = light.run(*TINY, *LIMITS, option)
    assert result.ret == 1
    title = "nnsight: HUNG after 2 s (test_it.py::test_swallows)"
    not_run = ["  1 tests did not run:", "  test_it.py::test_last"]
    result.stderr.fnmatch_lines([title, *not_run, "*in test_swallows*"])


def test_workers_on_another_machine_are_refused(light: Project) -> None:
    light.test_file("def test_a(): pass\n")
    result = light.run(*TINY, "--dist=load", "--tx=socket=localhost:8888")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: --tx socket=localhost:8888 runs tests on another machine,*"]
    )


def test_without_a_worker_a_soft_limit_lets_the_others_run(light: Project) -> None:
    light.test_file("import time\ndef test_a(): time.sleep(50)\ndef test_b(): pass\n")
    result = light.run(*TINY, *LIMITS, "-s")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.re_match_lines([".*HUNG after 2 s.*"])


@pytest.mark.parametrize("is_last", [True, False], ids=["last", "first"])
def test_a_thread_that_keeps_running_ends_the_worker_and_fails_no_other_test(
    light: Project, is_last: bool
) -> None:
    """Before nnsight 0.8, the body of a trace runs in such a thread."""
    hangs = """
def test_hangs():
    thread = threading.Thread(target=time.sleep, args=(60,))
    thread.start()
    thread.join()
"""
    lives = "def test_lives():\n    pass\n"
    parts = [lives, hangs] if is_last else [hangs, lives]
    light.test_file("import threading, time\n" + "".join(parts))
    result = light.run(*TINY, *LIMITS)
    assert result.ret == 1
    assert result.duration < 30
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.no_fnmatch_line("*at its end*")


def test_a_wrong_marker_of_a_test_without_a_model_is_one_line(light: Project) -> None:
    light.test_file("@pytest.mark.nnsight(tim=1)\ndef test_it(): pass\n")
    result = light.run(*TINY)
    assert result.ret == 1
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["@pytest.mark.nnsight has no argument 'tim'; nearest: timeout"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_users_workers_have_time_limits_without_isolation(light: Project) -> None:
    light.test_file("import time\ndef test_a(): time.sleep(50)\ndef test_b(): pass\n")
    result = light.run(*TINY, *LIMITS, "-n1", "--nnsight-isolation=off")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.re_match_lines([".*HUNG after 2 s.*"])


def test_modes_that_would_hang_are_refused(light: Project) -> None:
    result = light.run(*TINY, "-n2", "--dist=loadfile")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --dist loadfile never ends after a worker has crashed*"])


def test_isolation_that_is_not_possible_is_refused(light: Project) -> None:
    result = light.run(*TINY, "--nnsight-isolation=on", "--pdb")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --nnsight-isolation=on does not go with --pdb; *"])


def test_without_a_model_nothing_is_isolated(light: Project) -> None:
    light.test_file("def test_it(request): assert not hasattr(request.config, 'workerinput')\n")
    light.run().assert_outcomes(passed=1)


def test_exit_codes_are_those_of_pytest(light: Project) -> None:
    light.test_file("def test_a(): assert 0\ndef test_b(): pass\n")
    assert light.run(*TINY).ret == pytest.ExitCode.TESTS_FAILED
    assert light.run(*TINY, "-x").ret == pytest.ExitCode.TESTS_FAILED
    assert light.run(*TINY, "-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result = light.run(*TINY, "missing.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: file or directory not found: missing.py"])
