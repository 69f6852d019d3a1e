"""A copy of a model that shares its weights, to be changed before nnsight wraps it.

The clean model is never touched: a copy has parameters of its own whose values are the clean
model's until `own` separates them, and a forward is replaced before nnsight wraps the copy (one
that is replaced later makes its module invisible to nnsight 0.8).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

import torch
from transformers import initialization
from transformers.pytorch_utils import Conv1D

from benchmarks.faults.ask import Ask
from benchmarks.faults.roles import Roles, submodule
from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.spec import ModelSpec
from pytest_nnsight.run import Run


class Variant:
    """One changed model and what is asked of it; a context that undoes what it holds.

    Change ``config`` before the first use of ``module``, which is built from it. ``ask`` and
    ``tokenizer`` may be replaced; ``prepare`` takes functions to call with the wrapped model, and
    ``wrapped`` a model that nnsight has loaded itself, to be used in place of the copy.
    """

    def __init__(self, clean: Any, spec: ModelSpec, roles: Roles, ask: Ask) -> None:
        self.clean: Any = nnsight_api.torch_module(clean)
        self.tokenizer: Any = clean.tokenizer
        self.spec, self.roles, self.ask = spec, roles, ask
        self.config: Any = copy.deepcopy(self.clean.config)
        self.prepare: list[Callable[[Any], Any]] = []
        self.wrapped: Any = None
        self._owned: set[int] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @functools.cached_property
    def module(self) -> Any:
        """The copy, built on first use from ``config``."""
        with initialization.no_init_weights():
            module = type(self.clean)(self.config)
        module.load_state_dict(self.clean.state_dict(), assign=True, strict=False)
        module.tie_weights()
        dtypes = {name: buffer.dtype for name, buffer in self.clean.named_buffers()}
        for name, buffer in module.named_buffers():  # a model cast as a whole has cast them too
            buffer.data = buffer.data.to(dtypes.get(name, buffer.dtype))
        if hasattr(self.clean, "generation_config"):
            module.generation_config = copy.deepcopy(self.clean.generation_config)
        return module.eval()

    def hold(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context that lasts until the variant has run."""
        self._stack.enter_context(context)

    def on_exit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function when the variant has run, to undo a change."""
        self._stack.callback(function, *arguments)

    def at(self, place: str) -> Any:
        """Return the module at a place."""
        return submodule(self.module, self.roles.path(place))

    def own(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return a parameter's values, which may be changed from now on."""
        if id(parameter) not in self._owned:
            parameter.data = parameter.data.clone()
            self._owned.add(id(parameter))
        return parameter.data

    def matrix(self, place: str) -> torch.Tensor:
        """Return the own weight at a place as ``[outputs, inputs]``, however it is stored."""
        module, third = self.at(place), self.roles.third(place)
        weight = self.own(module.weight)
        rows = weight.t() if isinstance(module, Conv1D) else weight
        return rows if third is None else rows.chunk(3)[third]

    def head_slice(self, place: str, head: int) -> slice:
        """Return the rows of the matrix at a place that make one attention head."""
        config = self.config
        heads = config.num_attention_heads
        width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
        width = width or config.hidden_size // heads
        rows = len(self.matrix(place)) // width
        return slice(head % rows * width, (head % rows + 1) * width)

    def replace_forward(self, place: str, function: Callable[..., Any]) -> None:
        """Run ``function(module, forward, *args, **kwargs)`` in place of the forward at a place."""
        module = self.at(place)
        module.forward = functools.partial(function, module, module.forward)

    def run(self) -> Run:
        """Wrap the copy and ask."""
        return self.ask.of(self.capture())

    def capture(self) -> Capture:
        """Wrap the copy with nnsight, prepare it, and return its capture."""
        model = self.wrapped or nnsight_api.wrap(self.module, self.tokenizer)
        for prepare in self.prepare:
            prepare(model)
        return Capture(model, lambda: identify(model, self.spec))
