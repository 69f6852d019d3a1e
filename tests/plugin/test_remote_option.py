"""``--nnsight-remote``: what is sent, what comes back, what is said where nothing does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import TINY, Project

from pytest_nnsight import nnsight_api

pytestmark = [
    pytest.mark.usefixtures("warm"),
    pytest.mark.skipif(
        nnsight_api.version() < (0, 8), reason="nnsight 0.7 and before: --nnsight-remote is refused"
    ),
]
AWAY = ("--nnsight-model", "tiny-gpt2=gpt2", "--nnsight-remote")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TESTS = """
def test_trace(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("The Eiffel Tower") == nnsight_golden

def half(value):
    return value / 2

def test_intervention(nnsight_capture, nnsight_golden):
    def halve(model):
        mlp = model.transformer.h[0].mlp
        mlp.output[:] = half(mlp.output)

    assert nnsight_capture.trace("The Eiffel Tower", intervene=halve) == nnsight_golden

def test_generation(nnsight_capture, nnsight_golden):
    run = nnsight_capture.generate("The Eiffel Tower", max_new_tokens=4)
    assert len(run.token_ids) == 4
    assert run == nnsight_golden
"""
# The name of a model for NDIF is asked of the model hub, which no test may reach.
NAMED = """
import pytest

@pytest.fixture(autouse=True)
def hub(nnsight_model):
    from nnsight.modeling import huggingface
    huggingface._ID_CACHE["gpt2"] = "gpt2"
"""


class Server:
    """The server of `ndif_server`, with what becomes of its jobs and the sizes that it sends."""

    def __init__(self, folder: Path) -> None:
        self._port, self._fate = folder / "port", folder / "fate"
        self.sizes = folder / "port.sizes"
        self.become("ends")
        command = [sys.executable, str(Path(__file__).with_name("ndif_server.py"))]
        self.process = subprocess.Popen([*command, str(self._port), str(self._fate)])
        while not self._port.exists():
            assert self.process.poll() is None
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{self._port.read_text()}"

    def become(self, fate: str) -> None:
        self._fate.write_text(fate)
        self.sizes.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait()


@pytest.fixture
def server(started: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, where the runs of a project find it; its jobs end as they should."""
    monkeypatch.setenv("NDIF_HOST", started.url)
    started.become("ends")
    return started


@pytest.fixture
def away(project: Project, saved_gpt2: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose model is known by its config and tokenizer, and has no weights here."""
    project.test_file(TESTS)
    (project.path / "conftest.py").write_text(NAMED)
    home = hub / "models--gpt2"
    shutil.copytree(saved_gpt2, home / "snapshots" / COMMIT)
    (home / "snapshots" / COMMIT / "model.safetensors").unlink()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("NDIF_API_KEY", "a key")
    monkeypatch.setenv("NNSIGHT_CONFIG", str(project.path / "none.yaml"))
    return project


def test_a_rehearsal_meets_the_goldens_of_a_run_here_bit_by_bit(project: Project) -> None:
    project.test_file(TESTS)
    project.write_goldens(*TINY, passed=3)
    before = project.goldens()
    result = project.run(*TINY, "--nnsight-remote=local", "--nnsight-exact")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["3 goldens: 3 the same bit by bit"])
    assert project.goldens() == before


def test_runs_on_a_server_meet_the_goldens_of_a_run_here(away: Project, server: Server) -> None:
    away.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    first = away.run(*AWAY, "--snapshot-update")
    first.assert_outcomes(passed=3)
    compared = away.run(*AWAY, "--nnsight-golden-from=cpu-float32")
    compared.assert_outcomes(passed=3)
    requests, answers = zip(
        *(map(int, line.split()) for line in server.sizes.read_text().splitlines()), strict=True
    )
    assert max(requests) < 15_000
    assert max(answers) < 40_000

    shown = "\n".join(first.errlines)
    for word in ("RECEIVED", r"QUEUED +\(.*\) you are number 3", "RUNNING", "COMPLETED"):
        assert len(re.findall(word, shown)) == 3
    compared.stdout.fnmatch_lines(["3 goldens: * the same bit by bit*"])

    written = away.goldens()
    assert [path for path in written if "ndif" in path] == [
        f"tiny-gpt2/ndif-float32/test_it/test_{name}.json"
        for name in ("generation", "intervention", "trace")
    ]
    golden = json.loads(away.golden("test_it/test_trace", variant="ndif-float32").read_text())
    assert golden["model"]["weights"] is None
    assert golden["environment"]["device"] == "ndif"
    assert not (away.path / "golden" / "tiny-gpt2" / "ndif-float32" / "weights.json").exists()


def test_a_run_that_is_lost_is_one_line_and_changes_no_golden(
    away: Project, server: Server
) -> None:
    away.run(*AWAY, "--snapshot-update", "-k", "trace").assert_outcomes(passed=1)
    before = away.goldens()
    assert len(before) == 1
    for fate, line in (
        ("breaks", "the connection to http://127.0.0.1:* failed (WebSocket*lost*); check the *"),
        ("fails", "the run failed on http://127.0.0.1:* (RuntimeError: CUDA out of memory); no *"),
    ):
        server.become(fate)
        result = away.run(*AWAY, "--snapshot-update", "--nnsight-rebaseline")
        result.assert_outcomes(failed=3)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([line])
        assert "Traceback" not in "\n".join(result.outlines)
        assert away.goldens() == before


def test_a_closed_port_and_a_wrong_key_are_one_line(
    away: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    closed = away.run(*AWAY, "--snapshot-update", "-k", "trace")
    closed.assert_outcomes(failed=1)
    assert closed.ret == pytest.ExitCode.TESTS_FAILED
    closed.stdout.fnmatch_lines(
        [
            "the connection to http://127.0.0.1:9 failed (ConnectionRefusedError: *); check the "
            "network, and the host in NDIF_HOST or nnsight's own configuration, then run again; "
            "no golden was written (test_it.py:*)"
        ]
    )
    monkeypatch.setenv("NDIF_HOST", server.url)
    monkeypatch.setenv("NDIF_API_KEY", "another")
    refused = away.run(*AWAY, "--snapshot-update", "-k", "trace")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        [
            "http://127.0.0.1:* refused the request (RemoteError: *Missing or invalid API key); "
            "set the key with NDIF_API_KEY, *"
        ]
    )
    assert away.goldens() == {}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (*TINY, "--nnsight-remote"),
            "NDIF runs models of the model hub, and tiny:gpt2 is not one; give a hub id, "
            "or rehearse with --nnsight-remote=local",
        ),
        (
            (*TINY, "--nnsight-remote=elsewhere"),
            "--nnsight-remote: 'elsewhere' is not valid: expected ndif, local or a host that "
            "begins with http:// or https://",
        ),
        (
            (*TINY, "--nnsight-remote=local", "--nnsight-calibrate"),
            "--nnsight-calibrate measures the noise of this machine, --nnsight-remote runs on "
            "another; use one",
        ),
    ],
)
def test_an_unusable_remote_option_is_refused_before_collection(
    project: Project, arguments: tuple[str, ...], line: str
) -> None:
    project.test_file(TESTS)
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
