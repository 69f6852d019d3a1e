"""Malicious or damaged goldens: a one-line error or a run, never much memory, code or escapes."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import make_rich_run

from pytest_nnsight import cli
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.document import decode
from pytest_nnsight.golden.storage import check_inside, read_text
from pytest_nnsight.golden.stored_tensors import exact_distances, write_tensors
from pytest_nnsight.report.failure import diagnose_finding, failure_lines
from pytest_nnsight.report.golden_text import golden_lines

CORPUS = Path(__file__).with_name("damaged")
FILES = sorted(path.name for path in CORPUS.glob("*.json"))
READABLE = {  # files whose text or numbers are odd, but valid
    "call_twice.json",
    "duplicate_keys.json",
    "escape_codes.json",
    "lone_surrogate.json",
    "norms_are_nan.json",
    "paths_that_leave.json",
    "runs_of_huge_steps.json",
    "shape_of_terabytes_without_numbers.json",
    "token_beyond_any.json",
    "visit_beyond_any.json",
}
MOST_MEMORY = 64 * 1024 * 1024


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", FILES)
def test_a_broken_golden_is_an_error_or_a_run(name: str) -> None:
    if name not in READABLE:
        with pytest.raises(GoldenError) as caught:
            decode(read_text(CORPUS / name) or "", name)
        assert str(caught.value).isprintable()
        assert name in str(caught.value)
        return
    golden, received = decode(read_text(CORPUS / name) or "", name), make_rich_run()
    lines = [*golden_lines(golden)]
    for old, new in ((golden, received), (received, golden), (golden, golden)):
        finding = Finding(name, golden=old, received=new, comparison=compare(old, new))
        if finding.comparison and not finding.comparison.matches:
            lines += failure_lines(finding, diagnose_finding(finding), "pytest", detailed=True)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", FILES)
def test_the_show_command_shows_it_or_fails_with_one_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["show", str(CORPUS / name)])
    output, error = capfd.readouterr()
    assert code == (0 if name in READABLE else 2)
    assert "\x1b" not in output + error
    assert len(error.splitlines()) == (0 if name in READABLE else 1)


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    with pytest.raises(GoldenError, match=r"it is not a regular file$"):
        read_text(tmp_path / "pipe.json")
    with pytest.raises(GoldenError, match=r"it is not a regular file$"):
        read_text(tmp_path / "endless.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(GoldenError, match=r"is larger than 128 MB; that is not a golden$"):
        read_text(tmp_path / "large.json")


def test_a_link_does_not_lead_out_of_the_goldens(tmp_path: Path) -> None:
    root = tmp_path / "golden"
    (root / "gpt2").mkdir(parents=True)
    (root / "llama").symlink_to(root / "gpt2")
    (root / "away").symlink_to(tmp_path)
    (root / "gpt2" / "test.json").symlink_to("/etc/passwd")
    check_inside(root / "llama" / "other.json", root)
    for name in ("away/test.json", "gpt2/test.json", "away/none/test.json"):
        with pytest.raises(GoldenError, match=r"leads out of golden/ by a link; remove it$"):
            check_inside(root / name, root)


def test_stored_tensors_of_another_shape_are_not_read(tmp_path: Path) -> None:
    golden = tmp_path / "test.json"
    write_tensors(golden, "text", {"a": np.ones((2, 3)), "b": np.ones((2, 3))})
    tensors = {"a": np.ones((4, 3)), "b": np.zeros((2, 3))}
    assert list(exact_distances(golden, "text", tensors)) == ["b"]
