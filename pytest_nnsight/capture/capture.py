"""The helper behind the ``nnsight_capture`` fixture."""

from __future__ import annotations

from collections.abc import Callable, MutableSet, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakSet

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.calibration import calibrate
from pytest_nnsight.capture.collector import gc_paused
from pytest_nnsight.capture.gradients import Gradients, Objectives
from pytest_nnsight.capture.recorder import ChangedInPlaceError
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.scanning import need_weights
from pytest_nnsight.capture.steps import Wish as StepsWish
from pytest_nnsight.capture.taking import Identify, Taking
from pytest_nnsight.capture.wanted import Globs, Wanted
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Run

Intervene = Callable[..., Any] | None
Intervenes = Intervene | Sequence[Intervene]


@dataclass(frozen=True, slots=True)
class Capture:
    """Captures what every module of one model computes.

    ``modules`` and ``keep`` are globs over module paths (``transformer.h.*``, ``**.mlp``), or lists
    of globs. ``keep`` (or ``keep=True`` for all of them) keeps the tensors themselves in the run,
    besides the summaries. What enters the modules is summarised too, where it is not the very
    tensor of an earlier output: that is how the start of a drift is told from what follows of it;
    ``inputs=False`` leaves it out. Behind its first two steps a generation records only the inputs
    that no other module gave, unless ``inputs=True`` asks for all or ``steps`` chooses some.
    ``operations`` are globs over what a module's forward calls:
    ``transformer.h.*.attn.source.attention_interface``, and ``.source.`` once more for what that
    calls. ``intervene`` is called inside the trace with the model (and the tracer, where it takes
    two arguments).
    """

    model: Any
    identify: Identify
    seed: int = 0
    calibrates: Callable[[str], None] | None = None
    """Where progress goes when each run is to be calibrated, see `calibration`."""
    reached: Callable[[str], None] | None = None
    """Is told the path of each module as its value is handed over."""
    remote: Remote | None = None
    """Where the model runs, if not here."""
    changing: MutableSet[Any] = field(default_factory=WeakSet)
    """The models that were seen to change in place what a module gave, which is then copied."""

    def __repr__(self) -> str:
        """Stay short: pytest prints a failing test's fixtures."""
        return f"nnsight_capture({type(nnsight_api.torch_module(self.model)).__name__})"

    def of(self, model: Any) -> Capture:
        """Return the capture of a copy of the model: one that was edited, or has other names.

        Its runs are compared as the model's own: paths are those of torch, whatever the names.
        Raise `UsageError` for another model, whose goldens would lie among those of this one.
        """
        if not nnsight_api.is_copy(model, self.model):
            raise UsageError(
                f"nnsight_capture.of takes a copy of the model of this test, got "
                f"{type(model).__name__}; for another model define a fixture nnsight_model"
            )
        return replace(self, model=model)

    @property
    def can_generate(self) -> bool:
        """Whether the model generates text, so that `generate` works."""
        module = nnsight_api.torch_module(self.model)
        return bool(getattr(module, "can_generate", lambda: False)())

    def trace(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        intervene: Intervene = None,
        gradient_of: Objectives = None,
    ) -> Run:
        """Run one forward pass and return what every module computed.

        ``prompt`` is text, a list of texts, chat messages, token ids, or a dict of tensors.
        ``gradient_of`` is called inside the trace and returns a scalar, or is a dict of such
        functions by name; its gradient with respect to the output of each module is captured as a
        call ``gradient.transformer.h.3`` (``gradient.NAME.transformer.h.3``). Raise `UsageError`
        for an empty or too long prompt, a glob that matches nothing, or what is no scalar.
        """
        wanted = Wanted(modules, inputs, keep, operations, intervene)

        def take(wanted: Wanted) -> list[Run]:
            own = wanted.with_gradients(Gradients.of(gradient_of))  # of this very run
            return [self._taking(own).trace(prompt)]

        return self._measured(wanted, take)[0]

    def trace_each(
        self,
        prompts: Sequence[Any],
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        intervene: Intervenes = None,
    ) -> list[Run]:
        """Run several prompts in one padded forward pass; return a run for each, without padding.

        Each equals a trace of its prompt alone, within noise, where the model takes no notice of
        padding. ``intervene`` may be a list with a function, or ``None``, for each prompt, which is
        then called in an invoke of its own; with a third argument it is given a barrier for them.
        """
        wanted = Wanted(modules, inputs, keep, operations, intervene)
        return self._measured(wanted, lambda own: self._taking(own).trace_each(prompts))

    def scan(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        intervene: Intervene = None,
    ) -> Run:
        """Return structure, shapes and dtypes of what every module gives; nothing is computed.

        Works without weights too. Raise `UsageError` for a model whose code asks for a number.
        """
        return self._taking(Wanted(modules, inputs, intervene=intervene)).scan(prompt)

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int = 16,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        steps: StepsWish = None,
        intervene: Intervene = None,
        intervene_at: StepsWish = None,
        seed: int | None = None,
        **generation: Any,
    ) -> Run:
        """Generate, and return what every module computed at every step.

        Greedy unless ``do_sample=True`` is given; a sampled run is seeded with ``seed``, which is
        kept in the golden. ``steps`` are those that are recorded, ``intervene_at`` those at which
        ``intervene`` is called: a number, a list or a slice, counted from 0, the prompt's own;
        without, all are recorded, and ``intervene`` is called once, at the beginning. Further
        keywords go to transformers' ``generate``.
        """
        wanted = Wanted(modules, inputs, keep, operations, intervene)
        settings = {"max_new_tokens": max_new_tokens, **generation}
        wanted = self._generating(wanted, settings, seed, steps, intervene_at)
        return self._measured(wanted, lambda own: [self._taking(own).generate(prompt)])[0]

    def generate_each(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int = 16,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        steps: StepsWish = None,
        intervene: Intervenes = None,
        intervene_at: StepsWish = None,
        seed: int | None = None,
        **generation: Any,
    ) -> list[Run]:
        """Generate for several prompts in one batch; return a run for each, to its own end.

        As `trace_each` and `generate`.
        """
        wanted = Wanted(modules, inputs, keep, operations, intervene)
        settings = {"max_new_tokens": max_new_tokens, **generation}
        wanted = self._generating(wanted, settings, seed, steps, intervene_at)
        return self._measured(wanted, lambda own: self._taking(own).generate_each(prompts))

    def _generating(
        self,
        wanted: Wanted,
        settings: dict[str, Any],
        seed: int | None,
        steps: StepsWish,
        at: StepsWish,
    ) -> Wanted:
        """Add what a generation is asked for: greedy, or with a seed where it is sampled."""
        settings = {"do_sample": False, **settings}
        own = self.seed if seed is None else seed
        return wanted.generating(settings, own if settings["do_sample"] else None, steps, at)

    def _taking(self, wanted: Wanted) -> Taking:
        module = nnsight_api.torch_module(self.model)
        is_training = any(part.training for part in module.modules())
        holds = wanted.may_run_twice and not is_training and module not in self.changing
        return Taking(self.model, self.identify, wanted, self.reached, self.remote, holds)

    def _measured(self, wanted: Wanted, take: Callable[[Wanted], list[Run]]) -> list[Run]:
        """Run once, and where noise is to be measured again under every benign change."""
        if self.remote is None:
            need_weights(self.model)
        with gc_paused():
            first = self._taken(wanted, take)
        if self.calibrates is None:
            return first

        def again(row: int) -> Run:
            return self._taken(wanted.without_keeping(), take)[row]

        return [
            calibrate(self.model, run, partial(again, row), self.calibrates)
            for row, run in enumerate(first)
        ]

    def _taken(self, wanted: Wanted, take: Callable[[Wanted], list[Run]]) -> list[Run]:
        """Run once, and once more for a model that turns out to change in place what it gave."""
        try:
            return take(wanted)
        except ChangedInPlaceError:
            self.changing.add(nnsight_api.torch_module(self.model))
            return take(wanted)
