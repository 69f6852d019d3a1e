"""What the life of a golden needs from the test that asserts it."""

from __future__ import annotations

from typing import Any, Protocol

from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.golden.stored_tensors import Tensors
from pytest_nnsight.run import Run


class GoldenHost(Protocol):
    """One test with its model, implemented by the plugin."""

    def as_run(self, data: Any) -> Run:
        """Return what the test asserts as a run. Raise `UsageError` if it is something else."""

    def read_weights(self) -> tuple[str | None, dict[str, str]]:
        """Read the weights as they are now; return their fingerprint and that of each parameter.

        Return ``(None, {})`` for a remote model, whose weights are not on this machine.
        """

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
