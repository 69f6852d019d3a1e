"""The life of a golden under syrupy: found, compared, written after the test has passed.

What syrupy would do differently, and why it does not here:

- it deletes snapshots that a run did not use, also those of failed, deselected and crashed tests.
  A golden is never offered for that: `GoldenExtension.discover_snapshots` finds none;
- it writes while the test still runs. A golden is written when the test has passed, its teardown
  too, in one step;
- it names files by the stem of the test file, so that two folders collide. Here the relative
  folder of the test is mirrored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from syrupy.assertion import DiffMode, SnapshotAssertion
from syrupy.data import SnapshotCollections
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError, NnsightPluginError, one_line
from pytest_nnsight.golden.context import GoldenContext
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.golden.noise import carry_noise
from pytest_nnsight.golden.storage import (
    check_inside,
    file_name,
    read_text,
    read_weights,
)
from pytest_nnsight.golden.stored_tensors import exact_distances
from pytest_nnsight.run import Run, with_weights


class GoldenAssertion(SnapshotAssertion):
    """What the ``nnsight_golden`` fixture gives: ``assert run == nnsight_golden``."""

    def __eq__(self, other: object) -> bool:
        """Compare, and keep at hand what is to be said where the test does not ask for it."""
        matches = super().__eq__(other)
        if not matches:
            assert isinstance(self.extension, GoldenExtension)
            self.extension.context.unreported = self.get_assert_diff
        return matches

    def __repr__(self) -> str:
        """Stay short: pytest prints a failing test's fixtures."""
        assert issubclass(self.extension_class, GoldenExtension)
        return f"nnsight_golden({self.extension_class.context.test})"

    def get_assert_diff(self, *, diff_mode: DiffMode = DiffMode.DETAILED) -> list[str]:
        """Return the report of the last mismatch, verdict first; syrupy asks for it twice."""
        extension, number = self.extension, self.num_executions - 1
        assert isinstance(extension, GoldenExtension)
        extension.context.unreported = None
        if number not in extension.told:
            result = self.executions[number]
            finding = extension.find(
                Path(result.snapshot_location), result.recalled_data, result.exception
            )
            extension.told[number] = extension.context.explain(finding)
        return extension.told[number]

    def release(self) -> None:
        """Let go of model, runs and texts; syrupy keeps every assertion to the session's end."""
        assert isinstance(self.extension, GoldenExtension)
        for result in self.executions.values():
            result.asserted_data = result.recalled_data = None
            self.extension.context.count_as_failed(result)
        self.extension._received = None
        self.extension.context.release()


class GoldenExtension(SingleFileSnapshotExtension):
    """Stores a `Run` as a golden; what syrupy calls serialized data is the run itself."""

    file_extension = "json"
    _write_mode = WriteMode.TEXT
    context: ClassVar[GoldenContext]
    told: ClassVar[dict[int, list[str]]]
    _received: Run | None = None
    _location: Path

    @classmethod
    def bound_to(cls, context: GoldenContext) -> type[GoldenExtension]:
        """Return a class for one test: syrupy makes extensions without arguments."""
        return type("BoundGoldenExtension", (cls,), {"context": context, "told": {}})

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        """Return the folder of the test file's goldens."""
        return str(cls.context.folder / Path(cls.context.test).parent)

    @classmethod
    def get_snapshot_name(cls, *, test_location: Any, index: Any = 0) -> str:
        """Return the file name of one assertion of the test, without its ending."""
        suffix = f"[{index}]" if isinstance(index, str) else f".{index}" if index else ""
        return file_name(Path(cls.context.test).name + suffix)

    @classmethod
    def matches_test_location(cls, *, test_location: Any, snapshot_location: str) -> bool:
        """Hold every golden for its test's: its path was made from the test's own."""
        return True

    @classmethod
    def write_snapshot(cls, *, snapshot_location: str, snapshots: Iterable[Any], **_: Any) -> None:
        """Keep the run until the test has passed (`GoldenContext.commit`)."""
        for run, _location, _index in snapshots:
            cls.context.pending[Path(snapshot_location)] = run

    def discover_snapshots(
        self, *, test_location: Any, ignore_extensions: list[str] | None = None
    ) -> SnapshotCollections:
        """Offer nothing to syrupy's clean-up, which deletes what it calls unused."""
        return SnapshotCollections()

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        """Refuse: nothing but an explicit prune deletes a golden."""
        raise GoldenError(f"refused to delete golden {snapshot_location}")

    def read_snapshot_data_from_location(
        self, *, snapshot_location: str, snapshot_name: str, session_id: str
    ) -> Any:
        """Return the golden's text, or what this test has already asked to write there."""
        path = self._location = Path(snapshot_location)
        if path in self.context.pending:
            return encode(self.context.pending[path])
        check_inside(self._readable(path), self.context.goldens)
        return read_text(self._readable(path))

    def _readable(self, path: Path) -> Path:
        """Return the file to compare with: that of another variant, where one was asked for."""
        if self.context.read_from is None:
            return path
        return self.context.read_from / path.relative_to(self.context.folder)

    def serialize(self, data: Any, **_: Any) -> Any:
        """Make a run of what the test asserts, with the tolerance that holds for the test."""
        run, settings = self.context.as_run(data), self.context.settings
        tolerance = settings.tolerance if run.tolerance is None else run.tolerance
        self._received = replace(
            run, tolerance=tolerance, tokens=settings.tokens, is_exact=settings.exact
        )
        return self._received

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        """Compare the received run with the golden, within its tolerance.

        A golden that cannot be read does not match, so that an update can replace it.
        """
        try:
            golden = decode(snapshot_data, "golden")
        except GoldenError:
            return False
        if is_foreign(golden, serialized_data):
            return False
        if self.context.settings.rebaseline or self.context.settings.calibrate:
            run = carry_noise(golden, self._with_weights(serialized_data)[0])
            return bool(encode(run) == snapshot_data)
        comparison = compare(golden, serialized_data)
        if not comparison.matches and comparison.depends_on_weights:
            comparison = compare(golden, self._with_weights(serialized_data)[0])
        if comparison.matches:
            name = self.context.display(self._readable(self._location))
            self.context.note(
                Finding(name, golden=golden, received=serialized_data, comparison=comparison)
            )
        return comparison.matches

    def find(self, path: Path, text: Any, exception: Exception | None) -> Finding:
        """Say what is wrong between the golden at ``path`` and the run received last."""
        name = self.context.display(self._readable(path))
        if exception is not None:
            known = isinstance(exception, NnsightPluginError)
            reason = (
                str(exception) if known else f"{type(exception).__name__}: {one_line(exception)}"
            )
            return Finding(name, error=reason)
        assert self._received is not None
        if text is None:
            return Finding(name, error=self._missing(path, name))
        try:
            golden = decode(text, name)
        except GoldenError as error:
            return Finding(name, error=str(error))
        if is_foreign(golden, self._received):
            return Finding(name, error=_foreign(name, golden, self._received))
        received, parameters = self._with_weights(self._received)
        return Finding(
            name,
            golden=golden,
            received=received,
            comparison=compare(golden, received),
            golden_weights=read_weights(self.context.read_from or self.context.folder),
            received_weights=parameters,
            exact=self._exact(path, text),
        )

    def _with_weights(self, run: Run) -> tuple[Run, dict[str, str]]:
        """Return a run with the fingerprint of the weights as they are now, and all of them."""
        fingerprint, parameters = self.context.weights([run])
        return with_weights(run, fingerprint), parameters

    def _exact(self, path: Path, text: str) -> dict[str, Distance]:
        """Return exact numbers for the tensors that are stored and that this run kept."""
        assert self._received is not None
        if not self._received.tensors:
            return {}
        try:
            tensors = self.context.whole_tensors(self._received)
            return exact_distances(self._readable(path), text, tensors)
        except GoldenError as error:
            warnings.warn(f"no exact numbers: {error}", stacklevel=1)
            return {}

    def _missing(self, path: Path, name: str) -> str:
        """Say how to make a golden, and which other variant has one."""
        relative = path.relative_to(self.context.folder)
        others = sorted(
            folder.name
            for folder in self.context.folder.parent.glob("*-*")
            if (folder / relative).is_file()
        )
        if others and self.context.read_from is None:
            also = f"there is one for {', '.join(others)}: compare with --nnsight-golden-from, or"
            return f"no golden {name}; {also} write it with --snapshot-update"
        return f"no golden {name}; write it with --snapshot-update"


def is_foreign(golden: Run, received: Run) -> bool:
    """Tell whether a golden was made by another model: other class, and few modules in common."""
    same = golden.model.model_class == received.model.model_class
    if same or "tensors" in (golden.kind, received.kind):
        return False
    before, now = set(golden.paths), set(received.paths)
    return len(before & now) < 0.5 * min(len(before), len(now))


def _foreign(name: str, golden: Run, received: Run) -> str:
    return (
        f"{name} is the golden of another model: {golden.model.model_class} ({golden.model.spec}), "
        f"this run is of {received.model.model_class} ({received.model.spec}); "
        "give one of them a name of its own: --nnsight-model NAME=SPEC"
    )
