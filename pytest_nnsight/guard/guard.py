"""One shared model, watched from test to test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.belongings import keep_configs, keep_edits, keep_tokenizer
from pytest_nnsight.guard.leak import Leak, PutBack, listed
from pytest_nnsight.guard.parts import keep_gradients, keep_parts
from pytest_nnsight.guard.process import keep_seeds, keep_switches
from pytest_nnsight.guard.weights import Weights

_KEEPERS: tuple[Callable[[Any], PutBack], ...] = (
    keep_edits,
    keep_parts,
    keep_gradients,
    keep_configs,
    keep_tokenizer,
    keep_switches,
    keep_seeds,
)


class Guard:
    """Keeps a model as it was from test to test, and knows who may have changed it.

    ``unseen`` says, once all weights were read, what had changed without a trace, and in which
    tests that may have been; empty while nothing has.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._begin()

    def _begin(self) -> None:
        self._module = nnsight_api.torch_module(self._model)
        self._weights = Weights(self._model)
        self._loaded = dict(self._weights.digests)
        self._tests: list[str] = []
        self.unseen = ""

    def enter(self, test: str) -> Callable[[], list[Leak]]:
        """Note a test that is about to use the model; return what is to be called after it.

        That puts back what the test has changed, and returns it.
        """
        self._tests.append(test)
        kept = [*(keep(self._model) for keep in _KEEPERS), self._weights.keep()]

        def leave() -> list[Leak]:
            if nnsight_api.torch_module(self._model) is not self._module:
                self._begin()  # it was loaded when it was first used
                return []
            return [leak for put_back in kept for leak in put_back()]

        return leave

    def read(self) -> dict[str, str]:
        """Read all weights as they are; return the digest of each, and remember what is unseen."""
        hidden = self._weights.verify()
        if hidden:
            tests = f"{len(self._tests)} tests: {listed(self._tests[::-1], 10)}"
            by = self._tests[0] if len(self._tests) == 1 else f"one of {tests}"
            self.unseen = f"weights changed unseen: {self._weights.counted(hidden)}, by {by}"
        self._tests = self._tests[-1:]
        return self._weights.digests

    def end(self) -> str:
        """Read all weights once more; return what is not as it was loaded, in words."""
        if not self._tests or self.unseen:
            return ""
        digests = self.read()
        names = {*digests, *self._loaded}
        differ = sorted(n for n in names if digests.get(n) != self._loaded.get(n))
        if self.unseen or not differ:
            return self.unseen
        return f"weights changed by a fixture of wider scope: {self._weights.counted(differ)}"
