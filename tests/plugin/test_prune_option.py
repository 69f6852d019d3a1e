"""``--nnsight-prune`` lists goldens without a test; ``=remove`` deletes them and no others."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

TESTS = """
@pytest.mark.parametrize("number", [1, 2])
def test_one(nnsight_capture, nnsight_golden, number):
    run = nnsight_capture.trace([number])
    assert run == nnsight_golden
    assert run == nnsight_golden(name="again")

def test_two(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace([2]) == nnsight_golden
"""
FOLDER = "golden/tiny-gpt2/cpu-float32"
FILES = ("test_it", "unit/test_unit")
NAMES = ("test_one[1]", "test_one[1][again]", "test_one[2]", "test_one[2][again]", "test_two")


@pytest.fixture
def written(project: Project) -> Project:
    """Return a project with the golden files of its tests; they are empty, as prune opens none."""
    project.test_file(TESTS)
    project.test_file(TESTS, "unit/test_unit.py")
    project.pytester.makeini("[pytest]\naddopts = --import-mode=importlib -n 2")
    for path in [project.golden(f"{file}/{n}") for file in FILES for n in NAMES]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (project.path / FOLDER / "weights.json").write_text("{}")
    return project


def test_the_fixture_has_the_files_that_the_tests_write(project: Project) -> None:
    project.test_file(TESTS)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    assert sorted(project.goldens()) == sorted(
        f"tiny-gpt2/cpu-float32/test_it/{name}.json" for name in NAMES
    )
    project.run(*TINY, "--nnsight-prune").stdout.fnmatch_lines(["0 without a test"])


def test_nothing_to_prune(written: Project) -> None:
    result = written.run(*TINY, "--nnsight-prune")
    assert result.ret == 0
    result.assert_outcomes()
    result.stdout.fnmatch_lines(["0 without a test"])


def test_goldens_without_a_test_are_listed_and_removed_with_remove(written: Project) -> None:
    before = written.goldens()
    written.test_file(TESTS.replace("[1, 2]", "[2, 3]").replace("test_two", "test_too"))
    (written.path / "unit" / "test_unit.py").unlink()
    (written.path / FOLDER / "test_it" / ".test_two.json.x1.tmp").write_text("{")
    (written.path / FOLDER / "test_it" / "test_two.safetensors").write_text("")
    removed = [
        f"{FOLDER}/test_it/.test_two.json.x1.tmp",
        f"{FOLDER}/test_it/test_one[1].json",
        f"{FOLDER}/test_it/test_one[1][again].json",
        f"{FOLDER}/test_it/test_two.json",
        *(f"{FOLDER}/unit/test_unit/test_one[{n}].json" for n in (1, 2)),
        *(f"{FOLDER}/unit/test_unit/test_one[{n}][again].json" for n in (1, 2)),
        f"{FOLDER}/unit/test_unit/test_two.json",
    ]
    listed = written.run(*TINY, "--nnsight-prune")
    assert listed.ret == 0
    found = [line.removeprefix("has no test: ") for line in listed.outlines if "has no" in line]
    assert sorted(found) == sorted(removed)
    listed.stdout.fnmatch_lines(["9 without a test; remove them with --nnsight-prune=remove"])
    assert written.goldens() == before
    removed = written.run(*TINY, "--nnsight-prune=remove")
    removed.stdout.fnmatch_lines([f"removed: {FOLDER}/test_it/test_two.json", "9 without a test"])
    remaining = {f"test_one[2]{name}.json" for name in ("", "[again]")}
    assert {path.name for path in (written.path / FOLDER / "test_it").iterdir()} == remaining
    assert not (written.path / FOLDER / "unit").exists()
    assert (written.path / FOLDER / "weights.json").is_file()


def test_goldens_of_tests_that_were_not_collected_are_not_removed(written: Project) -> None:
    """Goldens of other files, deselected tests, the suite and other models."""
    before = written.goldens()
    suite = written.golden("suite/test_short")
    suite.parent.mkdir()
    suite.write_text("{}")
    written.run(*TINY, "--nnsight-prune=remove", "unit").stdout.fnmatch_lines(["0 without a test"])
    written.run(*TINY, "--nnsight-prune=remove", "-k", "two").stdout.fnmatch_lines(["0 without*"])
    written.run("--nnsight-model=other=tiny:gpt2", "--nnsight-prune=remove")
    suite.unlink()
    assert written.goldens() == before


def test_empty_folders_are_removed(written: Project) -> None:
    written.test_file("def test_else(): pass\n")
    written.test_file("def test_else(): pass\n", "unit/test_unit.py")
    written.run(*TINY, "--nnsight-prune=remove")
    assert not [*(written.path / "golden").rglob("*.json")]
    assert not (written.path / "golden" / "tiny-gpt2" / "cpu-float32").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ERROR: --nnsight-prune needs the models whose goldens to look at; *"),
        ((*TINY, "test_it.py::test_two"), "ERROR: --nnsight-prune looks at whole files; *"),
        ((*TINY, "--lf"), "ERROR: --nnsight-prune needs all tests, --lf *"),
        ((*TINY, "--nnsight-prune=all"), "ERROR: --nnsight-prune: 'all' is not valid: *"),
    ],
)
def test_options_that_hide_tests_are_refused(
    written: Project, arguments: tuple[str, ...], message: str
) -> None:
    before = written.goldens()
    result = written.run("--nnsight-prune=remove", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert written.goldens() == before


def test_nothing_is_removed_if_a_file_cannot_be_collected(written: Project) -> None:
    before = written.goldens()
    written.test_file("import nothing_of_that_name\n")
    result = written.run(*TINY, "--nnsight-prune=remove")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert written.goldens() == before


def test_goldens_of_models_named_in_a_marker_are_not_removed(project: Project) -> None:
    project.test_file("""
@pytest.mark.nnsight(model=["tiny:gpt2", "tiny:llama"])
def test_two(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello", modules="lm_head") == nnsight_golden
def test_one(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello", modules="lm_head") == nnsight_golden
""")
    project.write_goldens(*TINY, passed=3)
    before = project.goldens()
    stale = project.golden("test_it/test_one", "tiny-llama")
    stale.write_text(project.golden("test_it/test_one").read_text())
    result = project.run(*TINY, "--nnsight-prune=remove")
    result.stdout.fnmatch_lines(["removed: golden/tiny-llama/cpu-float32/test_it/test_one.json"])
    assert project.goldens() == before
