"""The life of a golden under syrupy: found, compared, written after the test has passed.

Unlike syrupy's own extensions, this one deletes no golden that a session did not use, writes only
when the teardown has passed too, and makes the folder of the test file a part of the path.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

from syrupy.assertion import AssertionResult, SnapshotAssertion
from syrupy.data import SnapshotCollections
from syrupy.extensions.single_file import SingleFileSnapshotExtension

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.tolerance import has_half_type
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError, NnsightPluginError, one_line
from pytest_nnsight.golden.context import GoldenContext, carry_noise
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.golden.storage import check_inside, file_name, read_text, read_weights
from pytest_nnsight.golden.stored_tensors import exact_distances
from pytest_nnsight.run import Run, with_weights


class GoldenAssertion(SnapshotAssertion):
    """The value of the ``nnsight_golden`` fixture: ``assert run == nnsight_golden``.

    Each comparison is made once. A mismatch leaves a function in ``_messages``, by the number of
    its execution, which explains it once.
    """

    extension: GoldenExtension

    def __post_init__(self) -> None:
        super().__post_init__()
        self._messages: dict[int, Callable[[], list[str]]] = {}

    def __eq__(self, other: object) -> bool:
        """Compare; remember a mismatch for tests whose assertion pytest does not explain."""
        matches, number = super().__eq__(other), self.num_executions - 1
        if not matches:
            context = self.extension.context
            finding = self.extension.finding_of(self.executions[number])
            self._messages[number] = cache(lambda: context.live_host.explain(finding))
            context.unreported = partial(self.report, number)
        return matches

    def __repr__(self) -> str:
        """Stay short: pytest prints a failing test's fixtures."""
        return f"nnsight_golden({self.extension.context.test})"

    def get_assert_diff(self, **_: object) -> list[str]:
        """Return the message of the last comparison, the verdict first."""
        return self.report(self.num_executions - 1)

    def report(self, number: int) -> list[str]:
        """Return the message of one comparison."""
        context = self.extension.context
        if number not in self._messages:
            path = Path(self.executions[number].snapshot_location)
            return [f"golden: the run matches {context.display(path)}"]
        context.unreported = None
        return self._messages[number]()

    def release(self) -> None:
        """Let go of model and runs: syrupy keeps every assertion until the end of the session."""
        for result in self.executions.values():
            result.asserted_data = result.recalled_data = None
            self.extension.context.count_as_failed(result)
        self._messages.clear()
        self.extension._finding = None
        self.extension.context.release()


class GoldenExtension(SingleFileSnapshotExtension):
    """Store a `Run` as a golden; what syrupy calls serialized data is the run itself."""

    file_extension = "json"
    context: ClassVar[GoldenContext]
    _location: Path
    _finding: Finding | None = None

    @classmethod
    def bound_to(cls, context: GoldenContext) -> type[GoldenExtension]:
        """Return a class for one test: syrupy makes extensions without arguments."""
        return type("BoundGoldenExtension", (cls,), {"context": context})

    @classmethod
    def dirname(cls, **_: object) -> str:
        """Return the folder of the test file's goldens."""
        return str(cls.context.folder / Path(cls.context.test).parent)

    @classmethod
    def get_snapshot_name(cls, *, index: int | str = 0, **_: object) -> str:
        """Return the file name of one assertion of the test, without its ending."""
        suffix = f"[{index}]" if isinstance(index, str) else f".{index}" if index else ""
        return file_name(Path(cls.context.test).name + suffix)

    @classmethod
    def matches_test_location(cls, **_: object) -> bool:
        """Accept every golden: its path was made from the test's own."""
        return True

    @classmethod
    def write_snapshot(cls, *, snapshot_location: str, snapshots: list[Any], **_: object) -> None:
        """Hold the run until the test has passed (`GoldenContext.prepare_writes`)."""
        for run, _location, _index in snapshots:
            cls.context.pending[Path(snapshot_location)] = run

    def discover_snapshots(self, **_: object) -> SnapshotCollections:
        """Offer nothing to syrupy's clean-up, which deletes what it calls unused."""
        return SnapshotCollections()

    def delete_snapshots(self, *, snapshot_location: str, **_: object) -> None:
        """Refuse: only ``--nnsight-prune`` deletes goldens."""
        raise GoldenError(f"refused to delete golden {snapshot_location}")

    def read_snapshot_data_from_location(self, *, snapshot_location: str, **_: object) -> Any:
        """Return the golden's text, or the text that this test already wants to write there."""
        path = self._location = Path(snapshot_location)
        if path in self.context.pending:
            return encode(self.context.pending[path])
        check_inside(self.context.readable(path), self.context.goldens)
        return read_text(self.context.readable(path))

    def serialize(self, data: Any, **_: object) -> Any:
        """Turn what the test asserts into a run that carries the rules to compare it by."""
        run, settings = self.context.live_host.as_run(data), self.context.settings
        tolerance = settings.tolerance if run.tolerance is None else run.tolerance
        run = replace(run, tolerance=tolerance, tokens=settings.tokens)
        return replace(run, is_exact=settings.exact, structure=settings.structure)

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        """Compare the received run with the golden.

        A golden that cannot be read does not match, so that an update can replace it.
        """
        context, received = self.context, serialized_data
        name = context.display(self._location)
        try:
            golden = decode(snapshot_data, name)
        except GoldenError as error:
            self._finding = Finding(name, error=str(error))
            return False
        if golden.calibration:
            context.replaced.setdefault(self._location, golden)
        if is_foreign(golden, received):
            before, now = (f"{m.model_class} ({m.spec})" for m in (golden.model, received.model))
            message = (
                f"{name} is the golden of another model: {before}, this run is of {now}; "
                "give one of them a name of its own: --nnsight-model NAME=SPEC"
            )
            self._finding = Finding(name, error=message)
            return False
        if context.settings.rebaseline or context.settings.calibrate:
            run = with_weights(received, context.read_weights([received])[0])
            return bool(encode(carry_noise(golden, run)) == snapshot_data)
        finding = self._finding = self._compare(name, golden, received)
        assert finding.comparison is not None
        if finding.comparison.matches:
            self._finding = None
            context.live_host.note_match(finding)
        return finding.comparison.matches

    def _compare(self, name: str, golden: Run, received: Run) -> Finding:
        """Compare once; read the weights only if something fails and they matter."""
        fingerprint, parameters = received.model.weights, dict[str, str]()

        def read_weights() -> str | None:
            nonlocal fingerprint, parameters
            fingerprint, parameters = self.context.read_weights([received])
            return fingerprint

        # An update reports nothing; there only half types need the weights, to tell what matches.
        is_needed = not self.context.is_updating or has_half_type(golden, received)
        comparison = compare(golden, received, read_weights if is_needed else None)
        return Finding(
            name,
            golden=golden,
            received=with_weights(received, fingerprint),
            comparison=comparison,
            received_weights=parameters,
        )

    def finding_of(self, result: AssertionResult) -> Finding:
        """Describe the comparison that was made last and failed."""
        path = Path(result.snapshot_location)
        name = self.context.display(path)
        if isinstance(result.exception, NnsightPluginError):
            return Finding(name, error=str(result.exception))
        if result.exception is not None:
            kind = type(result.exception).__name__
            return Finding(name, error=f"{kind}: {one_line(result.exception)}")
        if result.recalled_data is None:
            return Finding(name, error=self._missing(path, name))
        finding, folder = self._finding, self.context.read_from or self.context.folder
        assert finding is not None
        if finding.received is None:
            return finding
        exact = self._exact_distances(path, result.recalled_data, finding.received)
        return replace(finding, golden_weights=read_weights(folder), exact=exact)

    def _exact_distances(self, path: Path, text: Any, received: Run) -> dict[str, Distance]:
        """Return the exact distances of the tensors that both golden and run have stored whole."""
        if not received.tensors:
            return {}
        try:
            tensors = self.context.live_host.whole_tensors(received)
            return exact_distances(self.context.readable(path), text, tensors)
        except GoldenError as error:
            warnings.warn(f"no exact numbers: {error}", stacklevel=1)
            return {}

    def _missing(self, path: Path, name: str) -> str:
        """Say how to write a golden, and which other variant has one."""
        folder = self.context.folder
        others = sorted(
            other.name
            for other in folder.parent.glob("*-*")
            if (other / path.relative_to(folder)).is_file()
        )
        also = ""
        if others and self.context.read_from is None:
            also = f"there is one for {', '.join(others)}: compare with --nnsight-golden-from, or "
        return f"no golden {name}; {also}write it with --snapshot-update"


def is_foreign(golden: Run, received: Run) -> bool:
    """Tell whether a golden was made by another model: other class, and few modules in common."""
    same = golden.model.model_class == received.model.model_class
    if same or "tensors" in (golden.kind, received.kind):
        return False
    before, now = set(golden.paths), set(received.paths)
    return len(before & now) < 0.5 * min(len(before), len(now))
