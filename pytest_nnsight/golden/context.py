"""What the assertions of one test share, and the writing of its goldens once it has passed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError, hide_home
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.golden.noise import carry_noise
from pytest_nnsight.golden.storage import check_inside, read_text, write_atomically, write_weights
from pytest_nnsight.golden.stored_tensors import Tensors, write_tensors
from pytest_nnsight.run import Run, with_weights
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from syrupy.assertion import AssertionResult


class UncountedResult(NamedTuple):
    """A result of syrupy's whose golden is not written yet, and what it is once it is."""

    result: AssertionResult
    created: bool
    updated: bool


@dataclass(slots=True)
class GoldenContext:
    """What the assertions of one test share.

    ``folder`` is ``golden/<model>/<device>-<dtype>`` and ``test`` the path of the test below it.
    ``read_from`` is the folder of another variant to compare with, where that was asked for.
    ``as_run`` makes a run of what is asserted, ``fingerprint`` reads the weights as they are now,
    ``check_unchanged`` raises where the test changed them and tells whether they are as loaded,
    ``whole_tensors`` gives the tensors that a run kept, by label. ``note`` is told of a
    run that matched its golden. ``uncounted`` are the results whose goldens are not written yet.
    ``unsaid`` gives what the last comparison came to, where it has failed and nothing has asked for
    it yet.
    """

    root: Path
    folder: Path
    test: str
    as_run: Callable[[Any], Run]
    fingerprint: Callable[[], tuple[str | None, dict[str, str]]]
    check_unchanged: Callable[[], bool]
    explain: Callable[[Finding], list[str]]
    whole_tensors: Callable[[Run], Tensors]
    note: Callable[[Finding], None]
    settings: Settings = field(default_factory=Settings)
    read_from: Path | None = None
    pending: dict[Path, Run] = field(default_factory=dict)
    prepared: list[Callable[[], None]] = field(default_factory=list)
    uncounted: list[UncountedResult] = field(default_factory=list)
    unreported: Callable[[], list[str]] | None = None

    @property
    def goldens(self) -> Path:
        """The folder of all goldens, of any model."""
        return self.folder.parents[1]

    def prepare_writes(self) -> None:
        """Make ready what the test's assertions asked for; called once its call has passed."""
        if not self.pending:
            return
        fingerprint, parameters = self.weights(self.pending.values())
        is_as_loaded = self.check_unchanged()
        for path, run in self.pending.items():
            check_inside(path, self.goldens)
            text = encode(self.to_write(path, run, fingerprint))
            self.prepared.append(partial(write_atomically, path, text))
            self.prepared.append(partial(self.count_written, path))
            if self.settings.store_tensors and run.tensors:
                self.prepared.append(partial(write_tensors, path, text, self.whole_tensors(run)))
        if parameters and is_as_loaded:
            self.prepared.append(partial(write_weights, self.folder, parameters))
        self.pending.clear()

    def weights(self, runs: Iterable[Run]) -> tuple[str | None, dict[str, str]]:
        """Read the weights; nothing where no run has numbers, or where they are not at hand."""
        if all(run.kind == "scan" for run in runs):
            return None, {}
        return self.fingerprint()

    def discard_if(self, is_wrong: object) -> bool:
        """Drop what was made ready where something is wrong; return whether there was anything."""
        had_any = bool(is_wrong and self.prepared)
        if is_wrong:
            self.prepared.clear()
        return had_any

    def commit(self) -> None:
        """Write what was made ready; called once the test has passed its teardown too."""
        for write in self.prepared:
            write()
        self.prepared.clear()

    def count_as_failed(self, result: AssertionResult) -> None:
        """Let syrupy count a golden as failed until `count_written`, where one is to be written."""
        if result.created or result.updated:
            self.uncounted.append(UncountedResult(result, result.created, result.updated))
            result.created = result.updated = result.success = False

    def count_written(self, path: Path) -> None:
        """Let syrupy count a golden as generated or updated."""
        for result, created, updated in self.uncounted:
            if Path(result.snapshot_location) == path:
                result.created, result.updated, result.success = created, updated, True

    def to_write(self, path: Path, run: Run, fingerprint: str | None) -> Run:
        """Return what stands in the golden of a run: with weights, and noise measured before."""
        run = with_weights(run, fingerprint)
        try:
            earlier = read_text(path)
            return run if earlier is None else carry_noise(decode(earlier, "golden"), run)
        except GoldenError:  # what is replaced may be damaged
            return run

    def release(self) -> None:
        """Let go of the model, which the functions of a context refer to."""
        self.as_run = self.fingerprint = self.check_unchanged = self.explain = _released
        self.whole_tensors = self.note = _released
        self.unreported = None

    def display(self, path: Path) -> str:
        """Return a golden's path as a message should call it."""
        return (
            str(path.relative_to(self.root))
            if path.is_relative_to(self.root)
            else hide_home(str(path))
        )


def _released(*_: Any) -> Any:
    raise GoldenError("nnsight_golden was used after its test had ended")
