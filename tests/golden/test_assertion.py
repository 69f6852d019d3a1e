"""An assertion decodes and compares a golden once, and reports what it found then."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from builders import drifted, make_pass
from syrupy.location import PyTestLocation
from syrupy.session import SnapshotSession

from pytest_nnsight.compare import comparison
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden import document
from pytest_nnsight.golden.assertion import GoldenAssertion, GoldenExtension
from pytest_nnsight.golden.context import GoldenContext
from pytest_nnsight.report.failure import diagnose_finding, failure_lines
from pytest_nnsight.run import Run
from pytest_nnsight.settings import Settings

GOLDEN = make_pass()
DRIFTED = drifted(model={"weights": None})
FILE = "golden/tiny/cpu-float32/test_it/test_one.json"
DRIFT = (
    "golden drift: 19 of 27 calls, starts at model.layers.0.mlp.up_proj (rel 0.013, allowed 1e-5); "
    "cause: code (same inputs, weights, config and versions: a patched module, a hook or an edit)"
)


@dataclass
class Host:
    """A test that asserts runs; ``log`` lists what the golden code asked of it."""

    log: list[str] = field(default_factory=list)

    def as_run(self, data: Any) -> Run:
        assert isinstance(data, Run)
        return data

    def read_weights(self) -> tuple[str | None, dict[str, str]]:
        self.log.append("read_weights")
        return GOLDEN.model.weights, {"weight": "aaaa"}

    def check_unchanged(self) -> bool:
        self.log.append("check_unchanged")
        return True

    def whole_tensors(self, run: Run) -> dict[str, Any]:
        raise AssertionError("no run of these tests stores tensors")

    def explain(self, finding: Finding) -> list[str]:
        self.log.append("explain")
        return failure_lines(finding, diagnose_finding(finding), "pytest --snapshot-update", False)

    def note_match(self, finding: Finding) -> None:
        self.log.append("note_match")


@dataclass
class Counts:
    """How often a golden was decoded and two runs were measured."""

    decoded: int = 0
    measured: int = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count every decode and every measurement, whichever module asks for it."""
    counted, decode, measure = Counts(), document._read_run, comparison.measure

    def counting_decode(*arguments: Any) -> Run:
        counted.decoded += 1
        return decode(*arguments)

    def counting_measure(*arguments: Any) -> Any:
        counted.measured += 1
        return measure(*arguments)

    monkeypatch.setattr(document, "_read_run", counting_decode)
    monkeypatch.setattr(comparison, "measure", counting_measure)
    return counted


class Golden:
    """The assertion of one test in a project folder, with its host."""

    def __init__(self, request: pytest.FixtureRequest, root: Path) -> None:
        self.request, self.root = request, root

    def assertion(self, *, update: bool = False, **settings: Any) -> GoldenAssertion:
        self.host = Host()
        self.context = GoldenContext(
            root=self.root,
            folder=self.root / "golden" / "tiny" / "cpu-float32",
            test="test_it/test_one",
            host=self.host,
            settings=Settings(**settings),
            is_updating=update,
        )
        return GoldenAssertion(
            update_snapshots=update,
            extension_class=GoldenExtension.bound_to(self.context),
            test_location=PyTestLocation(self.request.node),
            session=SnapshotSession(pytest_session=self.request.session),
        )

    def write(self, *runs: Run) -> None:
        """Write the goldens of a test that asserts ``runs`` and passes."""
        assertion = self.assertion(update=True)
        assert all(run == assertion for run in runs)
        self.context.prepare_writes()
        self.context.write_prepared()


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """A golden that holds `GOLDEN`."""
    made = Golden(request, tmp_path)
    made.write(GOLDEN)
    return made


def is_mismatch(run: Run, assertion: GoldenAssertion) -> bool:
    """Compare as a test does, without pytest's own explanation of the assertion."""
    return bool(run != assertion)


def test_a_passing_assertion_decodes_and_compares_once(golden: Golden, counts: Counts) -> None:
    assertion = golden.assertion()
    assert not is_mismatch(GOLDEN, assertion)
    assert counts == Counts(decoded=1, measured=1)
    assert golden.host.log == ["note_match"]


def test_a_failing_assertion_decodes_and_compares_once(golden: Golden, counts: Counts) -> None:
    """Its message is rendered twice: by syrupy and by our own hook."""
    assertion = golden.assertion()
    assert is_mismatch(DRIFTED, assertion)
    lines = [assertion.get_assert_diff() for _ in range(2)]
    assert lines[0][0] == DRIFT
    assert lines[0] == lines[1]
    assert counts == Counts(decoded=1, measured=1)
    assert golden.host.log == ["read_weights", "explain"]


def test_an_update_decodes_and_compares_once(golden: Golden, counts: Counts) -> None:
    golden.write(DRIFTED)
    assert counts == Counts(decoded=1, measured=1)
    assert golden.host.log == ["read_weights", "check_unchanged"]
    assert not is_mismatch(DRIFTED, golden.assertion())


def test_a_mismatch_is_reported_though_a_later_comparison_matches(golden: Golden) -> None:
    golden.write(GOLDEN, GOLDEN)
    assertion = golden.assertion()
    assert [is_mismatch(run, assertion) for run in (DRIFTED, GOLDEN)] == [True, False]
    assert golden.context.unreported is not None
    assert golden.context.unreported()[0] == DRIFT
    assert golden.context.unreported is None


def test_a_run_that_should_differ_is_said_to_match(golden: Golden) -> None:
    assertion = golden.assertion()
    assert not is_mismatch(GOLDEN, assertion)
    assert assertion.get_assert_diff() == [f"golden: the run matches {FILE}"]
    assert golden.host.log == ["note_match"]


def test_a_golden_that_is_missing_or_damaged_is_named(golden: Golden) -> None:
    path = golden.root / FILE
    path.write_text(path.read_text()[:-10])
    assertion = golden.assertion()
    assert is_mismatch(GOLDEN, assertion)
    assert assertion.get_assert_diff()[0].startswith(f"golden: {FILE} is not whole JSON")
    path.unlink()
    assertion = golden.assertion()
    assert is_mismatch(GOLDEN, assertion)
    assert assertion.get_assert_diff() == [
        f"golden: no golden {FILE}; write it with --snapshot-update"
    ]


def test_a_released_assertion_holds_no_run_and_refuses_to_compare(golden: Golden) -> None:
    assertion = golden.assertion()
    assert is_mismatch(DRIFTED, assertion)
    assertion.release()
    assert (assertion._messages, assertion.executions[0].asserted_data) == ({}, None)
    assert is_mismatch(GOLDEN, assertion)
    with pytest.raises(GoldenError, match=r"^nnsight_golden was used after its test had ended$"):
        assertion.get_assert_diff()
