"""What the assertions of one test share, and the writing of its goldens once it has passed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError, hide_home
from pytest_nnsight.golden.document import encode
from pytest_nnsight.golden.storage import check_inside, write_atomically, write_weights
from pytest_nnsight.golden.stored_tensors import Tensors, write_tensors
from pytest_nnsight.run import Run, with_noise, with_weights
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from syrupy.assertion import AssertionResult


class GoldenHost(Protocol):
    """One test with its model, implemented by the plugin."""

    def as_run(self, data: Any) -> Run:
        """Return what the test asserts as a run. Raise `UsageError` if it is something else."""

    def read_weights(self) -> tuple[str | None, dict[str, str]]:
        """Return the fingerprints of the weights now and of each parameter; none if remote."""

    def check_unchanged(self) -> bool:
        """Return whether the weights are as loaded; checked is what `read_weights` read last.

        Raise `LeakError` if the test itself changed them: then no golden may be written.
        """

    def whole_tensors(self, run: Run) -> Tensors:
        """Return the tensors that a run stored whole, by the label of their drift."""

    def explain(self, finding: Finding) -> list[str]:
        """Diagnose a failed comparison and record it; return the lines of its message."""

    def note_match(self, finding: Finding) -> None:
        """Record a run that matched its golden."""


@dataclass(slots=True)
class GoldenContext:
    """The state that the assertions of one test share.

    ``folder`` is ``golden/<model>/<device>-<dtype>``, ``test`` the path of the test below it, and
    ``read_from`` the folder of another variant to compare with. With ``is_updating`` a run that
    does not match is written, not reported. ``pending`` are the runs to write, ``replaced`` the
    calibrated goldens that they replace, ``prepared`` the writes that wait for the end of the
    teardown. ``uncounted`` are the results whose goldens are not written yet, with whether syrupy
    is to count them as created or updated. ``unreported`` returns a message nobody asked for yet.
    """

    root: Path
    folder: Path
    test: str
    host: GoldenHost | None  # until the test has ended
    settings: Settings = field(default_factory=Settings)
    read_from: Path | None = None
    is_updating: bool = False
    pending: dict[Path, Run] = field(default_factory=dict)
    replaced: dict[Path, Run] = field(default_factory=dict)
    prepared: list[Callable[[], None]] = field(default_factory=list)
    uncounted: list[tuple[AssertionResult, bool, bool]] = field(default_factory=list)
    unreported: Callable[[], list[str]] | None = None

    @property
    def goldens(self) -> Path:
        """The folder of all goldens, of any model."""
        return self.folder.parents[1]

    @property
    def live_host(self) -> GoldenHost:
        """The host of a test that still runs. Raise `GoldenError` after its end."""
        if self.host is None:
            raise GoldenError("nnsight_golden was used after its test had ended")
        return self.host

    def readable(self, path: Path) -> Path:
        """Return the file to compare with: that of another variant if one was asked for."""
        return path if self.read_from is None else self.read_from / path.relative_to(self.folder)

    def display(self, path: Path) -> str:
        """Return the name of the golden to compare with, for messages."""
        path = self.readable(path)
        is_inside = path.is_relative_to(self.root)
        return str(path.relative_to(self.root)) if is_inside else hide_home(str(path))

    def read_weights(self, runs: Iterable[Run]) -> tuple[str | None, dict[str, str]]:
        """Read the weights, unless all runs are scans: a scan computes no numbers."""
        is_scan = all(run.kind == "scan" for run in runs)
        return (None, {}) if is_scan else self.live_host.read_weights()

    def prepare_writes(self) -> None:
        """Encode the goldens to be written; call this when the test function has passed.

        Raise `LeakError` if the test changed the weights.
        """
        if not self.pending:
            return
        fingerprint, parameters = self.read_weights(self.pending.values())
        is_as_loaded = self.live_host.check_unchanged()
        for path, run in self.pending.items():
            check_inside(path, self.goldens)
            run = with_weights(run, fingerprint)
            text = encode(carry_noise(self.replaced.get(path), run))
            self.prepared.append(partial(write_atomically, path, text))
            self.prepared.append(partial(self.count_written, path))
            if self.settings.store_tensors and run.tensors:
                tensors = self.live_host.whole_tensors(run)
                self.prepared.append(partial(write_tensors, path, text, tensors))
        if parameters and is_as_loaded:
            self.prepared.append(partial(write_weights, self.folder, parameters))
        self.pending.clear()

    def write_prepared(self) -> None:
        """Write the prepared goldens; call this when the teardown has passed too."""
        for write in self.prepared:
            write()
        self.prepared.clear()

    def count_as_failed(self, result: AssertionResult) -> None:
        """Let syrupy count a golden that is to be written as failed, until `count_written`."""
        if result.created or result.updated:
            self.uncounted.append((result, result.created, result.updated))
            result.created = result.updated = result.success = False

    def count_written(self, path: Path) -> None:
        """Let syrupy count a golden as generated or updated."""
        for result, created, updated in self.uncounted:
            if Path(result.snapshot_location) == path:
                result.created, result.updated, result.success = created, updated, True

    def release(self) -> None:
        """Let go of the model and the runs; the context itself lives as long as the session."""
        self.host = self.unreported = None
        self.pending.clear()
        self.replaced.clear()


def carry_noise(earlier: Run | None, run: Run) -> Run:
    """Return ``run`` with the noise that was measured for the golden it replaces.

    A run whose noise was measured itself keeps it. Tensors are matched by call, location and shape.
    """
    if run.calibration or earlier is None or not earlier.calibration:
        return run
    noise = {
        (call.key, leaf.at, leaf.summary.shape): leaf.summary.noise
        for call in earlier.calls
        for leaf in call.leaves
    }
    calls = with_noise(
        run.calls, lambda call, leaf: noise.get((call.key, leaf.at, leaf.summary.shape), 0.0)
    )
    return replace(run, calls=calls, calibration=earlier.calibration)
