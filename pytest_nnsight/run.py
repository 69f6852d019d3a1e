"""The records of a run: a `Run` has `Call`s, a call has `Leaf`s, a leaf has a `Summary`.

They are plain, frozen data that compares by value. It must not import torch or numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pytest_nnsight.errors import UsageError, suggest

ROOT = "<model>"  # the path of the model itself, which is the empty string in torch
NORM_FLOOR = 0.1  # the smallest norm of a token in a comparison, relative to the median norm
BUCKETS = 61  # the length of a tensor's sketch; with more tokens, one number per token


def numbers_per_token(tokens: int) -> int:
    """Return how many numbers of a tensor's sketch belong to each token."""
    return -(-BUCKETS // max(tokens, 1))


def token_count(shape: tuple[int, ...]) -> int:
    """Return the number of tokens of a tensor: the product of axes 0 and -2 of its shape."""
    if len(shape) < 2:
        return 1
    return shape[0] if len(shape) == 2 else shape[0] * shape[-2]


class Summary(NamedTuple):
    """The statistics and the sketch of one tensor.

    ``minimum`` to ``std`` are over the finite elements, ``None`` if there are none. ``norms`` are
    the L2 norms of the tokens (`statistics.tokens_of`), ``sketch`` has the random projection of
    each token; `packing` encodes both. Both are empty for integers, for booleans and for values
    outside float32. ``digest`` is a checksum of the exact values, in hexadecimal. ``noise`` is the
    largest drift between runs that should be equal, if it was measured. ``rows`` has a number of 32
    bits for each token of a mask or of integers (`statistics.row_numbers`).
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    nan: int = 0
    inf: int = 0
    norms: bytes = b""
    sketch: bytes = b""
    digest: str = ""
    noise: float = 0.0
    rows: bytes = b""

    @property
    def rms(self) -> float | None:
        """The root mean square of the finite elements; ``None`` without mean and std."""
        if self.mean is None or self.std is None:
            return None
        return math.hypot(self.mean, self.std)


class Leaf(NamedTuple):
    """One tensor of a call. ``at`` says where: ``out``, ``out[0]``, ``in.mask``, ..."""

    at: str
    summary: Summary


class Call(NamedTuple):
    """One visit to one module, in execution order.

    ``output`` and ``inputs`` describe the structure of what the module returned and received:
    ``tensor``, ``(tensor, None)``, ``CausalLMOutputWithPast(logits=tensor)``. ``inputs`` is
    ``None`` if inputs were not captured.
    """

    path: str
    visit: int
    module_class: str
    output: str
    leaves: tuple[Leaf, ...] = ()
    inputs: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The path and the visit, by which the calls of two runs are paired."""
        return (self.path, self.visit)

    @property
    def label(self) -> str:
        """The path, and the visit if it is not the first: ``model.layers.3.mlp#2`` is the third."""
        return self.path if self.visit == 0 else f"{self.path}#{self.visit}"


def with_noise(calls: Iterable[Call], noise_of: Callable[[Call, Leaf], float]) -> tuple[Call, ...]:
    """Return the calls with noise in their summaries; leaves that share one still share it."""
    replaced: dict[int, Summary] = {}

    def noisy(call: Call, leaf: Leaf) -> Leaf:
        key = id(leaf.summary)
        if key not in replaced:
            replaced[key] = leaf.summary._replace(noise=noise_of(call, leaf))
        return leaf._replace(summary=replaced[key])

    return tuple(
        call._replace(leaves=tuple(noisy(call, leaf) for leaf in call.leaves)) for call in calls
    )


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The model of a run. ``spec`` never contains a path outside the project.

    ``modules`` counts the modules of each class by the settings that torch prints for them:
    ``{"LayerNorm": {"(64,), eps=1e-05": 5}}``. ``generation`` is the generation config of the
    checkpoint.
    """

    spec: str
    model_class: str
    config: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    weights: str | None = None
    parameters: int = 0
    modules: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Environment:
    """The libraries and the machine of a run: differences here may change numbers slightly."""

    versions: Mapping[str, str]
    device: str
    dtype: str
    attention: str
    threads: int
    cpu: str
    kernels: str = ""  # torch's settings that choose between implementations of an operation

    @property
    def variant(self) -> str:
        """The folder of goldens that can be compared with this run: ``cpu-float32``."""
        return f"{self.device}-{self.dtype}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The inputs of a run: the prompt as written, the token ids, how it generated.

    ``token_ids`` has one tuple for each prompt of a batch, without padding; ``pieces`` has the text
    of each id. ``tensors`` are the other integer inputs of the model, such as its mask and
    positions, by batch index; ``digests`` has a checksum for each float input, such as a picture.
    ``generation`` has ``max_new_tokens``, ``do_sample``, the seed if it sampled, and the other
    arguments of the test. ``intervention`` is the name of the function that intervened, and
    ``intervention_code`` a digest of its source.
    """

    text: Any = None
    token_ids: tuple[tuple[int, ...], ...] = ()
    pieces: tuple[tuple[str, ...], ...] = ()
    tensors: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    is_batch: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)
    intervention: str | None = None
    intervention_code: str = ""


@dataclass(frozen=True, slots=True)
class Generated:
    """The new tokens of ``generate``, by batch index; ``pieces`` has the text of each token.

    ``margins`` are the differences of the two highest logits at each step, as float32 bytes: a
    small margin means that another token was nearly chosen.
    """

    token_ids: tuple[tuple[int, ...], ...] = ()
    text: tuple[str, ...] = ()
    margins: tuple[bytes, ...] = ()
    pieces: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one ``trace`` or ``generate``, or of a dict of tensors.

    ``calibration`` names the settings that were varied to measure the noise in the summaries.
    ``tolerance`` to ``structure`` say how to compare it, see `compare.comparison`.
    ``tensors`` has the outputs that the test asked to keep, by path and visit; not compared.
    """

    kind: str
    model: ModelRecord
    environment: Environment
    prompt: Prompt
    generated: Generated | None
    calls: tuple[Call, ...]
    calibration: tuple[str, ...] = ()
    tolerance: float | None = field(default=None, compare=False)
    tokens: str = field(default="auto", compare=False)
    is_exact: bool = field(default=False, compare=False)
    structure: str = field(default="strict", compare=False)
    tensors: Mapping[tuple[str, int], Any] = field(default_factory=dict, compare=False, repr=False)

    def within(self, tolerance: float) -> Run:
        """Return the same run with another tolerance: ``assert run.within(1e-3) == golden``."""
        if not 0 <= tolerance < 1:
            raise UsageError(f"tolerance must be in [0, 1), got {tolerance!r}")
        return replace(self, tolerance=tolerance)

    @property
    def text(self) -> Any:
        """The generated text, without the prompt; a list of texts for a batch."""
        return self._generated("text")

    @property
    def token_ids(self) -> Any:
        """The generated token ids as a list; a list of lists for a batch."""
        value = self._generated("token_ids")
        return [list(ids) for ids in value] if self.prompt.is_batch else list(value)

    @property
    def paths(self) -> list[str]:
        """The paths of the modules that were called, in the order of their first calls."""
        return list(dict.fromkeys(call.path for call in self.calls))

    def __getitem__(self, key: str | tuple[str, int]) -> CallView:
        """Return one call: ``run["transformer.h.3"]``, or ``run["transformer.h.3", 2]``."""
        path, visit = (key, 0) if isinstance(key, str) else key
        for call in self.calls:
            if call.key == (path, visit):
                return CallView(call, self.tensors)
        visits = sum(call.path == path for call in self.calls)
        if visits:
            raise UsageError(f"{path} has visits 0 to {visits - 1}, there is no visit {visit}")
        raise UsageError(f"{path} is not in this run; nearest: {suggest(path, self.paths)}")

    def _generated(self, name: str) -> Any:
        """Return a field of `Generated`: a list for a batch, one value for a single prompt."""
        if self.generated is None:
            raise UsageError(
                f"run.{name} needs nnsight_capture.generate, this run is a {self.kind}"
            )
        values = getattr(self.generated, name)
        return list(values) if self.prompt.is_batch else values[0]


@dataclass(frozen=True, slots=True)
class CallView:
    """One call of a run, with its output if the test asked to keep it."""

    call: Call
    tensors: Mapping[tuple[str, int], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """The output as the module returned it; raise `UsageError` if the test did not keep it."""
        if self.call.key not in self.tensors:
            raise UsageError(
                f"{self.call.label} was summarised but not kept; "
                f"capture with keep={self.call.path!r} to get its tensors"
            )
        return self.tensors[self.call.key]

    @property
    def output(self) -> Any:
        """The output tensor; the first one if the module returned several."""
        return first_tensor(self.value)


def first_tensor(value: Any) -> Any:
    """Return the first tensor in nested containers, depth first; ``None`` if there is none."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return value if hasattr(value, "shape") else None


def with_weights(run: Run, fingerprint: str | None) -> Run:
    """Return a run with the fingerprint of the weights of its model."""
    return replace(run, model=replace(run.model, weights=fingerprint))
