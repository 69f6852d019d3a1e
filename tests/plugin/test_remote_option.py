"""``--nnsight-remote`` on a local server: sizes, goldens, and messages if a run fails."""

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
REMOTE = ("--nnsight-model", "tiny-gpt2=gpt2", "--nnsight-remote")
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
# nnsight asks the model hub for the name of a model, which no test may reach.
CONFTEST = """
import pytest

@pytest.fixture(autouse=True)
def hub(nnsight_model):
    from nnsight.modeling import huggingface
    huggingface._ID_CACHE["gpt2"] = "gpt2"
"""


class Server:
    """The process of `ndif_server`; `set_outcome` chooses how its next jobs end."""

    def __init__(self, folder: Path) -> None:
        self._port, self._outcome_file = folder / "port", folder / "outcome"
        self.sizes = folder / "port.sizes"
        self.set_outcome("succeeds")
        command = [sys.executable, str(Path(__file__).with_name("ndif_server.py"))]
        self.process = subprocess.Popen([*command, str(self._port), str(self._outcome_file)])
        while not self._port.exists():
            assert self.process.poll() is None
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{self._port.read_text()}"

    def set_outcome(self, outcome: str) -> None:
        self._outcome_file.write_text(outcome)
        self.sizes.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    server.process.wait()


@pytest.fixture
def server(server_process: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server, set as the host of the project; its jobs succeed."""
    monkeypatch.setenv("NDIF_HOST", server_process.url)
    server_process.set_outcome("succeeds")
    return server_process


@pytest.fixture
def remote_project(
    project: Project, saved_gpt2: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Return a project whose model has a config and a tokenizer, but no weights."""
    project.test_file(TESTS)
    (project.path / "conftest.py").write_text(CONFTEST)
    home = hub / "models--gpt2"
    shutil.copytree(saved_gpt2, home / "snapshots" / COMMIT)
    (home / "snapshots" / COMMIT / "model.safetensors").unlink()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("NDIF_API_KEY", "a key")
    monkeypatch.setenv("NNSIGHT_CONFIG", str(project.path / "none.yaml"))
    return project


def test_a_local_remote_run_equals_the_goldens_bit_by_bit(project: Project) -> None:
    project.test_file(TESTS)
    project.write_goldens(*TINY, passed=3)
    before = project.goldens()
    result = project.run(*TINY, "--nnsight-remote=local", "--nnsight-exact")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["3 goldens: 3 the same bit by bit"])
    assert project.goldens() == before


def test_runs_on_a_server_equal_the_goldens_of_local_runs(
    remote_project: Project, server: Server
) -> None:
    remote_project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    first = remote_project.run(*REMOTE, "--snapshot-update")
    first.assert_outcomes(passed=3)
    compared = remote_project.run(*REMOTE, "--nnsight-golden-from=cpu-float32")
    compared.assert_outcomes(passed=3)
    requests, answers = zip(
        *(map(int, line.split()) for line in server.sizes.read_text().splitlines()), strict=True
    )
    assert max(requests) < 16_000
    assert max(answers) < 40_000

    shown = "\n".join(first.errlines)
    for word in ("RECEIVED", r"QUEUED +\(.*\) you are number 3", "RUNNING", "COMPLETED"):
        assert len(re.findall(word, shown)) == 3
    compared.stdout.fnmatch_lines(["3 goldens: * the same bit by bit*"])

    written = remote_project.goldens()
    assert [path for path in written if "ndif" in path] == [
        f"tiny-gpt2/ndif-float32/test_it/test_{name}.json"
        for name in ("generation", "intervention", "trace")
    ]
    golden = json.loads(
        remote_project.golden("test_it/test_trace", variant="ndif-float32").read_text()
    )
    assert golden["model"]["weights"] is None
    assert golden["environment"]["device"] == "ndif"
    assert not (
        remote_project.path / "golden" / "tiny-gpt2" / "ndif-float32" / "weights.json"
    ).exists()


def test_a_failed_remote_run_is_one_line_and_changes_no_golden(
    remote_project: Project, server: Server
) -> None:
    remote_project.run(*REMOTE, "--snapshot-update", "-k", "trace").assert_outcomes(passed=1)
    before = remote_project.goldens()
    assert len(before) == 1
    for outcome, line in (
        (
            "disconnects",
            "the connection to http://127.0.0.1:* failed (WebSocket*lost*); check the *",
        ),
        ("fails", "the run failed on http://127.0.0.1:* (RuntimeError: CUDA out of memory); no *"),
    ):
        server.set_outcome(outcome)
        result = remote_project.run(*REMOTE, "--snapshot-update", "--nnsight-rebaseline")
        result.assert_outcomes(failed=3)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([line])
        assert "Traceback" not in "\n".join(result.outlines)
        assert remote_project.goldens() == before


def test_a_closed_port_and_a_wrong_key_are_one_line(
    remote_project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    closed = remote_project.run(*REMOTE, "--snapshot-update", "-k", "trace")
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
    refused = remote_project.run(*REMOTE, "--snapshot-update", "-k", "trace")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        [
            "http://127.0.0.1:* refused the request (RemoteError: *Missing or invalid API key); "
            "set the key with NDIF_API_KEY, *"
        ]
    )
    assert remote_project.goldens() == {}


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
