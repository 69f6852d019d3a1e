"""Copy a model that shares its weights, to change it before nnsight wraps it.

The clean model is never changed. A copy has its own parameters, which share the clean model's
values until `writable` copies them. A forward is replaced before nnsight wraps the copy: replacing
it later makes its module invisible to nnsight 0.8.
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

from benchmarks.faults.probe import Probe
from benchmarks.faults.roles import Roles, submodule
from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.spec import ModelSpec
from pytest_nnsight.run import Run


class Variant:
    """Hold one changed model and its probe; a context manager that undoes the changes.

    Change ``config`` before the first use of ``module``, which is built from it. ``probe`` and
    ``tokenizer`` may be replaced. ``prepare`` holds functions to call with the wrapped model.
    ``wrapped`` is a model that nnsight has loaded itself, to be used instead of the copy.
    """

    def __init__(self, clean: Any, spec: ModelSpec, roles: Roles, probe: Probe) -> None:
        self.clean: Any = nnsight_api.torch_module(clean)
        self.tokenizer: Any = clean.tokenizer
        self.spec, self.roles, self.probe = spec, roles, probe
        self.config: Any = copy.deepcopy(self.clean.config)
        self.prepare: list[Callable[[Any], Any]] = []
        self.wrapped: Any = None
        self._writable: set[int] = set()
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
        for name, buffer in module.named_buffers():  # casting the whole model has cast them too
            buffer.data = buffer.data.to(dtypes.get(name, buffer.dtype))
        if hasattr(self.clean, "generation_config"):
            module.generation_config = copy.deepcopy(self.clean.generation_config)
        return module.eval()

    def hold(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context that lasts until the variant has run."""
        self._stack.enter_context(context)

    def on_exit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function after the variant has run, to undo a change."""
        self._stack.callback(function, *arguments)

    def at(self, location: str) -> Any:
        """Return the module at a location."""
        return submodule(self.module, self.roles.path(location))

    def writable(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return a parameter's values, copied so that they may be changed."""
        if id(parameter) not in self._writable:
            parameter.data = parameter.data.clone()
            self._writable.add(id(parameter))
        return parameter.data

    def matrix(self, location: str) -> torch.Tensor:
        """Return the writable weight at a location as ``[outputs, inputs]``, in any layout."""
        module, third = self.at(location), self.roles.third(location)
        weight = self.writable(module.weight)
        rows = weight.t() if isinstance(module, Conv1D) else weight
        return rows if third is None else rows.chunk(3)[third]

    def head_slice(self, location: str, head: int) -> slice:
        """Return the rows of one attention head in the matrix at a location."""
        config = self.config
        heads = config.num_attention_heads
        width = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
        width = width or config.hidden_size // heads
        rows = len(self.matrix(location)) // width
        return slice(head % rows * width, (head % rows + 1) * width)

    def replace_forward(self, location: str, function: Callable[..., Any]) -> None:
        """Replace a forward by ``function(module, forward, *args, **kwargs)``."""
        module = self.at(location)
        module.forward = functools.partial(function, module, module.forward)

    def run(self) -> Run:
        """Wrap the copy and run the probe."""
        return self.probe.of(self.capture())

    def capture(self) -> Capture:
        """Wrap the copy with nnsight, prepare it, and return its capture."""
        model = self.wrapped or nnsight_api.wrap(self.module, self.tokenizer)
        for prepare in self.prepare:
            prepare(model)
        return Capture(model, lambda: identify(model, self.spec))
