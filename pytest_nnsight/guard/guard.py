"""One shared model, checked from test to test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.belongings import snapshot_configs, snapshot_edits, snapshot_tokenizer
from pytest_nnsight.guard.leak import Leak, Restore, Severity, listed
from pytest_nnsight.guard.parts import snapshot_gradients, snapshot_parts
from pytest_nnsight.guard.patches import snapshot_patches
from pytest_nnsight.guard.process import snapshot_seeds, snapshot_switches
from pytest_nnsight.guard.unsaved import snapshot_unsaved
from pytest_nnsight.guard.weights import Weights

_SNAPSHOTS: tuple[Callable[[Any], Restore], ...] = (
    snapshot_patches,
    snapshot_edits,
    snapshot_parts,
    snapshot_gradients,
    snapshot_configs,
    snapshot_tokenizer,
    snapshot_unsaved,
    snapshot_switches,
    snapshot_seeds,
)
_BY_TEST, _BETWEEN = "weights changed by this test", "weights changed between tests"


class Guard:
    """Checks and restores one model around each test, and knows which test changed its weights.

    Fixtures may change weights for their tests; nothing else may. ``change`` says how the weights
    differ from what they should be, and which test may have done it; empty while they do not.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._begin()

    def _begin(self) -> None:
        self._module = nnsight_api.torch_module(self.model)
        self._weights = Weights(self.model)
        self._loaded = dict(self._weights.digests)
        self._expected = dict(self._loaded)  # as loaded, or as a fixture changed them
        self._tests: list[str] = []  # that ran since all weights were last read
        self._unchecked: list[str] = []  # tests that turned the check off
        self._threads: dict[threading.Thread, str] = {}  # left running, and by which test
        self.change = ""

    def enter(self, test: str) -> Callable[[], list[Leak]]:
        """Begin a test that uses the model; return the function that ends it.

        That function restores what the test changed, and returns it. ``change`` is not empty where
        the weights were changed between tests.
        """
        self._note(_BETWEEN, self._weights.update())
        self._tests.append(test)
        before, expected = dict(self._weights.digests), dict(self._expected)
        threads = set(threading.enumerate())
        restores = [*(take(self.model) for take in _SNAPSHOTS), self._weights.snapshot()]

        def leave() -> list[Leak]:
            if self._was_dispatched():
                return []
            leaks = [leak for restore in restores for leak in restore()]
            self._expected = expected
            self._weights.update()
            if not self._weights.differing(expected):
                self.change = ""
            written = self._weights.differing(before)
            if written and not self.change:
                text = f"weights changed: {self._weights.count(written)}{self._or_thread()}"
                leaks.append(Leak(text, Severity.LOST))
            left = dict.fromkeys(set(threading.enumerate()) - threads, test)
            self._threads = {t: by for t, by in (self._threads | left).items() if t.is_alive()}
            return leaks

        return leave

    def skip(self, test: str) -> None:
        """Note a test that uses the model and turned the check off."""
        self._unchecked.append(test)

    def begin_call(self, test: str) -> None:
        """Accept what the fixtures of a test changed: called between its setup and its call."""
        if self._tests[-1:] == [test]:
            self._accept(self._weights.update())

    def enter_fixture(self, name: str) -> tuple[Callable[[], None], Callable[[], str]]:
        """Begin the setup of a fixture of wider scope, which may change the model for its tests.

        Return what is called after its setup, and what is called after its teardown and says what
        the fixture did not restore.
        """
        self._note(_BETWEEN, self._weights.update())
        before = dict(self._expected)
        changed: list[str] = []

        def after_setup() -> None:
            changed.extend(self._weights.update())
            self._accept(changed)

        def after_teardown() -> str:
            self._accept(self._weights.update())
            left = [name for name in changed if before.get(name) != self._expected.get(name)]
            if not left:
                return ""
            return f"fixture {name!r} left weights changed: {self._weights.count(left)}"

        return after_setup, after_teardown

    def read(self, what: str = _BY_TEST) -> dict[str, str]:
        """Read all weights; return the digest of each, and set ``change``."""
        if self._was_dispatched():
            return self._weights.digests
        hidden = self._weights.read_all()
        if hidden:
            tests = f"{len(self._tests)} tests: {listed(self._tests[::-1], 10)}"
            by = self._tests[0] if len(self._tests) == 1 else f"one of {tests}"
            self.change = f"weights changed unseen: {self._weights.count(hidden)}, by {by}"
        unexpected = self._weights.differing(self._expected)
        self._note(what, unexpected)
        if not unexpected:
            self.change = ""
        self._tests = self._tests[-1:]
        return self._weights.digests

    def is_as_loaded(self) -> bool:
        """Tell whether the weights, as last read, are those that were loaded."""
        return not self._weights.differing(self._loaded)

    def checks(self, test: str) -> bool:
        """Tell whether a test is checked: it entered last."""
        return self._tests[-1:] == [test]

    def end(self) -> str:
        """Read all weights once more; return how they differ from what was loaded, in words."""
        if not (self._tests or self._unchecked) or self.change:
            return ""
        self._expected = dict(self._loaded)
        self.read(_BETWEEN)
        return self.change

    def _accept(self, names: Iterable[str]) -> None:
        """Expect the weights as they are now."""
        for name in names:
            self._expected.pop(name, None)
            if name in self._weights.digests:
                self._expected[name] = self._weights.digests[name]

    def _note(self, what: str, names: list[str]) -> None:
        if names and not self.change:
            by = self._or_thread() if what == _BY_TEST else self._by_others()
            self.change = f"{what}{by}: {self._weights.count(names)}"

    def _by_others(self) -> str:
        """Name what may have changed weights while no test was running."""
        suspects = [*self._running_threads(), *(f"{t} (leaks off)" for t in self._unchecked)]
        return f", by {' or '.join(suspects)}" if suspects else ""

    def _or_thread(self) -> str:
        threads = self._running_threads()
        return f", or by {' or '.join(threads)}" if threads else ""

    def _running_threads(self) -> list[str]:
        return [f"thread {t.name!r} that {test} left running" for t, test in self._threads.items()]

    def _was_dispatched(self) -> bool:
        """Begin anew where the weights of a model without any were loaded since."""
        if nnsight_api.torch_module(self.model) is self._module:
            return False
        if not any(tensor.is_meta for tensor in self._module.parameters()):
            return False
        self._begin()
        return True
