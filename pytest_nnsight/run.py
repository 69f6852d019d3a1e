"""The records: a `Run` is a list of `Call`s, a call holds `Leaf`s, a leaf has a `Summary`.

All of them are frozen and JSON-plain (numbers, text, bytes), need neither torch nor numpy, and
compare by value. Tensors that a test asked to keep ride along in `Run.kept`, outside the record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pytest_nnsight.errors import UsageError, suggest

ROOT = "<model>"
"""The path of the outermost module, which torch calls the empty string."""

NORM_FLOOR = 0.1
"""A token counts as at least this share of the median token, or noise near zero would blow up."""

BUCKETS = 61
"""How many numbers the projection of a tensor has; one a token where it has more tokens."""


def numbers_per_token(tokens: int) -> int:
    """Return how many numbers of a tensor's projection belong to each of its tokens."""
    return -(-BUCKETS // max(tokens, 1))


def token_count(shape: tuple[int, ...]) -> int:
    """Return how many tokens a tensor of ``shape`` has: axes 0 and -2 count them."""
    if len(shape) < 2:
        return 1
    return shape[0] if len(shape) == 2 else shape[0] * shape[-2]


class Summary(NamedTuple):
    """What is kept of one tensor.

    ``minimum`` to ``std`` are over the finite elements and ``None`` where there are none, or where
    the tensor has no elements. ``norms`` are the L2 norms of the tokens (`statistics.tokens_of`)
    and ``sketch`` the projections of the tokens, token by token, both as `packing` writes them;
    integers and booleans have neither, nor has what float32 cannot hold. ``digest`` is a checksum
    of the exact values, as hexadecimal digits. ``noise`` is the largest drift seen between runs
    that should be equal, where that was measured.
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

    @property
    def rms(self) -> float | None:
        """The root mean square of the finite elements; that of whole numbers is not kept."""
        if self.mean is None or self.std is None:
            return None
        return math.hypot(self.mean, self.std)


class Leaf(NamedTuple):
    """One tensor inside the value of a call: ``at`` is ``out``, ``out[0]``, ``in.mask``, ..."""

    at: str
    summary: Summary


class Call(NamedTuple):
    """One visit to one module, in execution order.

    ``output`` and ``inputs`` describe the containers, with ``tensor`` where a leaf stands:
    ``tensor``, ``(tensor, None)``, ``CausalLMOutputWithPast(logits=tensor)``. ``inputs`` is
    ``None`` where inputs were not captured.
    """

    path: str
    visit: int
    module_class: str
    output: str
    leaves: tuple[Leaf, ...] = ()
    inputs: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What two runs are aligned by."""
        return (self.path, self.visit)

    @property
    def label(self) -> str:
        """``model.layers.3.mlp``, with ``#2`` behind it for the third visit."""
        return self.path if self.visit == 0 else f"{self.path}#{self.visit}"


def with_noise(calls: Iterable[Call], noise_of: Callable[[Call, Leaf], float]) -> tuple[Call, ...]:
    """Return the calls with noise in their summaries, by the first place of each.

    A summary that several places share, being one tensor, stays shared.
    """
    made: dict[int, Summary] = {}

    def noisy(call: Call, leaf: Leaf) -> Leaf:
        key = id(leaf.summary)
        if key not in made:
            made[key] = leaf.summary._replace(noise=noise_of(call, leaf))
        return leaf._replace(summary=made[key])

    return tuple(
        call._replace(leaves=tuple(noisy(call, leaf) for leaf in call.leaves)) for call in calls
    )


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Which model made a run. ``spec`` never holds a path outside the project.

    ``modules`` counts the modules of each class by their own settings, as torch prints them:
    ``{"LayerNorm": {"(64,), eps=1e-05": 5}}``. ``generation`` are the checkpoint's own settings for
    generating.
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
    """Where a run was made; what may move numbers without anybody's fault.

    ``kernels`` are the settings that choose between implementations of one operation.
    """

    versions: Mapping[str, str]
    device: str
    dtype: str
    attention: str
    threads: int
    cpu: str
    kernels: str = ""

    @property
    def variant(self) -> str:
        """The folder of goldens that can be compared with each other: ``cpu-float32``."""
        return f"{self.device}-{self.dtype}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What went in: the prompt as written, the ids that reached the model, how it generated.

    ``token_ids`` has one row a prompt, without padding, and ``pieces`` the text of each id.
    ``tensors`` are the other whole numbers that entered the model, row by row: its mask, positions
    and the like; ``digests`` are of every other tensor, such as a picture. ``generation`` holds
    ``max_new_tokens``, ``do_sample``, the seed where it sampled, and whatever else the test passed
    on. ``intervention`` is the name of the function that intervened, and ``intervention_code`` a
    digest of its source.
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
    """What came out of ``generate``: one row a prompt, new tokens only, ``pieces`` one by one.

    ``margins`` are the differences of the two highest logits at each step (float32 bytes): how
    near the choice was to falling the other way.
    """

    token_ids: tuple[tuple[int, ...], ...] = ()
    text: tuple[str, ...] = ()
    margins: tuple[bytes, ...] = ()
    pieces: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What one ``trace`` or ``generate`` (or a dict of tensors) produced.

    ``calibration`` names the changes under which the noise in its summaries was measured.
    ``tolerance``, ``tokens`` and ``is_exact`` say how it is to be compared; see
    `compare.comparison`.
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
    kept: Mapping[tuple[str, int], Any] = field(default_factory=dict, compare=False, repr=False)

    def within(self, tolerance: float) -> Run:
        """Return the same run with its own tolerance: ``assert run.within(1e-3) == golden``."""
        if not 0 <= tolerance < 1:
            raise UsageError(f"tolerance must be in [0, 1), got {tolerance!r}")
        return replace(self, tolerance=tolerance)

    @property
    def text(self) -> Any:
        """The new text alone; a list of texts where several prompts were given."""
        return self._of_each("text")

    @property
    def token_ids(self) -> Any:
        """The new token ids as a list; a list of lists where several prompts were given."""
        value = self._of_each("token_ids")
        return [list(row) for row in value] if self.prompt.is_batch else list(value)

    @property
    def paths(self) -> list[str]:
        """The paths of the modules that were called, each once, in order of their first call."""
        return list(dict.fromkeys(call.path for call in self.calls))

    def __getitem__(self, key: str | tuple[str, int]) -> CallView:
        """Return one call: ``run["transformer.h.3"]``, or ``run["transformer.h.3", 2]``."""
        path, visit = (key, 0) if isinstance(key, str) else key
        for call in self.calls:
            if call.key == (path, visit):
                return CallView(call, self.kept)
        visits = sum(call.path == path for call in self.calls)
        if visits:
            raise UsageError(f"{path} was called {visits} times, there is no visit {visit}")
        near = suggest(path, self.paths)
        raise UsageError(f"{path} is not in this run; nearest: {near}")

    def _of_each(self, name: str) -> Any:
        if self.generated is None:
            raise UsageError(
                f"run.{name} needs nnsight_capture.generate, this run is a {self.kind}"
            )
        rows = getattr(self.generated, name)
        return list(rows) if self.prompt.is_batch else rows[0]


@dataclass(frozen=True, slots=True)
class CallView:
    """One call with the tensors that the test kept of it."""

    call: Call
    kept: Mapping[tuple[str, int], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """The kept output as the module returned it: tensor, tuple, dict or model output."""
        if self.call.key not in self.kept:
            raise UsageError(
                f"{self.call.label} was summarised but not kept; "
                f"capture with keep={self.call.path!r} to get its tensors"
            )
        return self.kept[self.call.key]

    @property
    def output(self) -> Any:
        """The kept output tensor; the first one where the module returned several."""
        return first_tensor(self.value)


def first_tensor(value: Any) -> Any:
    """Return the first tensor inside nested containers, depth first, or ``None``."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return value if hasattr(value, "shape") else None


def with_weights(run: Run, fingerprint: str | None) -> Run:
    """Return a run with the fingerprint of the weights that it was made with."""
    return replace(run, model=replace(run.model, weights=fingerprint))
