"""Check one shared model from test to test, and find which test changed its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard import model_state, process_state, weights
from pytest_nnsight.guard.leak import Leak, Severity, listed, take_snapshots

_SNAPSHOTS = (
    process_state.snapshot_patches,
    model_state.snapshot_edits,
    model_state.snapshot_modules,
    model_state.snapshot_gradients,
    model_state.snapshot_configs,
    model_state.snapshot_unsaved,
    model_state.snapshot_tokenizer,
    process_state.snapshot_settings,
    process_state.snapshot_random_state,
    weights.snapshot_tensors,
)
_BY_TEST, _BETWEEN = "weights changed by this test", "weights changed between tests"


class Guard:
    """Restore one model after each test, and tell which test changed its weights.

    Only fixtures may change weights, for their tests. ``change`` says how the weights differ from
    the expected ones and which test may have changed them; it is empty while they do not differ.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._begin()

    def _begin(self) -> None:
        self._module = nnsight_api.torch_module(self.model)
        self._weights = weights.Weights(self.model)
        self._loaded = self._weights.digests
        # As loaded, or as a fixture changed them.
        self._expected: Mapping[str, str | None] = self._loaded
        self._tests: list[str] = []  # since all weights were last read
        self._unchecked: list[str] = []  # tests that turned the check off
        self._threads: dict[threading.Thread, str] = {}  # still running, with the test's name
        self.change = ""

    def enter(self, test: str) -> Callable[[], list[Leak]]:
        """Begin a test; return a function that restores the model and returns the leaks.

        ``change`` is set if the weights were changed between tests.
        """
        self._set_change(_BETWEEN, self._weights.update())
        self._tests.append(test)
        before, expected = self._weights.digests, self._expected
        threads = set(threading.enumerate())
        restore = take_snapshots(_SNAPSHOTS, self.model)

        def leave() -> list[Leak]:
            if self._was_dispatched():
                return []
            leaks = restore()
            self._expected = expected
            self._weights.update()
            if not weights.different(expected, self._weights.digests):
                self.change = ""
            written = weights.different(before, self._weights.digests)
            if written and not self.change:
                text = f"weights changed: {self._weights.describe(written)}{self._by('or by')}"
                leaks.append(Leak(text, Severity.LOST))
            left = dict.fromkeys(set(threading.enumerate()) - threads, test)
            self._threads = {t: by for t, by in (self._threads | left).items() if t.is_alive()}
            return leaks

        return leave

    def skip(self, test: str) -> None:
        """Remember a test that uses the model and turned the check off."""
        self._unchecked.append(f"{test} (leaks off)")

    def begin_call(self, test: str) -> None:
        """Accept what a test's fixtures changed; called between its setup and its call."""
        if self.is_checking(test):
            self._accept_written()

    def check_fixture(self, name: str) -> Iterator[str]:
        """Check a fixture of wider scope, which may change weights for its tests.

        Advance before its setup, after it, and after its teardown: then this yields a message about
        weights that the fixture did not restore.
        """
        self._set_change(_BETWEEN, self._weights.update())
        before = self._expected
        yield ""
        changed = self._accept_written()
        yield ""
        self._accept_written()
        left = [key for key in changed if before.get(key) != self._expected.get(key)]
        text = f"fixture {name!r} left weights changed: {self._weights.describe(left)}"
        yield text if left else ""

    def read(self, what: str = _BY_TEST) -> dict[str, str]:
        """Read all weights; return the digest of each, and set ``change``."""
        if self._was_dispatched():
            return self._weights.digests
        if unseen := self._weights.read_all():
            tests = f"{len(self._tests)} tests: {listed(self._tests[::-1], 10)}"
            by = self._tests[0] if len(self._tests) == 1 else f"one of {tests}"
            self.change = f"weights changed unseen: {self._weights.describe(unseen)}, by {by}"
        unexpected = weights.different(self._expected, self._weights.digests)
        self._set_change(what, unexpected)
        if not unexpected:
            self.change = ""
        self._tests = self._tests[-1:]
        return self._weights.digests

    def is_as_loaded(self) -> bool:
        """Tell whether the weights, as last read, are those that were loaded."""
        return not weights.different(self._loaded, self._weights.digests)

    def is_checking(self, test: str) -> bool:
        """Tell whether this test was the last to enter."""
        return self._tests[-1:] == [test]

    def end(self) -> str:
        """Read all weights once more; return how they differ from the loaded ones, in words."""
        if not (self._tests or self._unchecked) or self.change:
            return ""
        self._expected = self._loaded
        self.read(_BETWEEN)
        return self.change

    def _accept_written(self) -> list[str]:
        """Expect the values that were written since the last check; return their names."""
        names = self._weights.update()
        self._expected = {**self._expected, **{n: self._weights.digests.get(n) for n in names}}
        return names

    def _set_change(self, what: str, names: list[str]) -> None:
        if names and not self.change:
            by = self._by("or by") if what == _BY_TEST else self._by("by", self._unchecked)
            self.change = f"{what}{by}: {self._weights.describe(names)}"

    def _by(self, words: str, others: Iterable[str] = ()) -> str:
        """Name the threads that tests left running, and others that may have changed weights."""
        threads = (f"thread {t.name!r} that {by} left running" for t, by in self._threads.items())
        suspects = " or ".join([*threads, *others])
        return f", {words} {suspects}" if suspects else ""

    def _was_dispatched(self) -> bool:
        """Begin again if the weights of a model without weights were loaded since."""
        is_replaced = nnsight_api.torch_module(self.model) is not self._module
        if not is_replaced or not any(tensor.is_meta for tensor in self._module.parameters()):
            return False
        self._begin()
        return True
