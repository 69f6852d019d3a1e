"""Which tokens of a run are real: not padding, and not after the end of a generated text.

Values at the other positions mean nothing, and kernels differ in what they compute there.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pytest_nnsight.run import ROOT, Call, Leaf, Run, token_count
from pytest_nnsight.summary.rows import numbers_of_sets, read_rows

_CROSS = re.compile("EncDec|encoder_attn|cross")  # attention of a decoder to its encoder
_LARGEST = 2**26  # elements of a mask that is compared with none
_CAUSAL, _BIDIRECTIONAL = re.compile("CausalLM|LMHead"), re.compile("MaskedLM")


class _Mask(NamedTuple):
    """The real tokens ``[batch, token]`` of the encoder or decoder; ``side`` is empty for any."""

    side: str
    shown: np.ndarray


class RealTokens:
    """Find the real tokens of the tensors of a run, by their shapes and places."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._has_two_sides = bool(run.model.config.get("is_encoder_decoder"))
        given = run.prompt.tensors
        all_real = [[1] * len(row) for row in given.get("decoder_input_ids", ())]
        masks = {
            "encoder" * self._has_two_sides: given.get("attention_mask", ()),
            "decoder": given.get("decoder_attention_mask", all_real),
        }
        self._prompt = [
            _Mask(side, np.array(rows, bool))
            for side, rows in masks.items()
            if len({len(row) for row in rows}) == 1 and rows[0]
        ]
        self._lengths = self._generated_lengths()
        ends_apart = len({*self._lengths}) > 1
        self._has_padding = ends_apart or not all(mask.shown.all() for mask in self._prompt)
        self._steps = steps_of_calls(run) if self._has_padding else []
        self._found: dict[tuple[object, ...], np.ndarray | None] = {}

    def of(self, position: int, leaf: Leaf) -> np.ndarray | None:
        """Return for each token of a tensor whether it is real; ``None`` if all are.

        ``position`` is the index of its call. The order is that of `token_count`, or of
        ``Summary.rows`` where that has more numbers. Where the tokens of a tensor mix positions, as
        channels do, those of a padded prompt are not real.
        """
        summary, is_mask = leaf.summary, "mask" in leaf.at
        count = len(summary.rows) // 4 or len(summary.norms) // 2
        if not self._has_padding or not count:
            return None
        side = self._side(self.run.calls[position].path, leaf.at)
        key = (self._steps[position], side, summary.shape, count, is_mask)
        if key not in self._found:
            masks = [m.shown for m in self._masks(key[0]) if not side or m.side in ("", side)]
            fitting = [_fit(shown, summary.shape, count) for shown in masks]
            if not is_mask and all(fit is None for fit in fitting):
                fitting = [_fit_mixed(shown, summary.shape, count) for shown in masks]
            known = [fit for fit in fitting if fit is not None and len(fit) == count]
            real = np.asarray(np.all(known, 0)) if known else None
            self._found[key] = None if real is None or real.all() else real
        return self._found[key]

    def is_default(self, position: int, leaf: Leaf) -> bool:
        """Tell whether a mask means what no mask means to the model: all keys, or none to come."""
        shape, numbers = leaf.summary.shape, read_rows(leaf.summary.rows)
        if len(shape) != 4 or not len(numbers) == shape[0] * shape[2] > 0:
            return False
        (batch, _, queries, count), real = shape, self.of(position, leaf)
        if queries * count > _LARGEST:
            return False
        keys = np.arange(count)
        past = keys <= np.arange(queries)[:, None] + (count - queries)
        for seen, is_causal in ((past, True), (np.ones_like(past), False)):
            for shown in (np.ones((1, 0), bool), *(each.shown for each in self._prompt)):
                width = shown.shape[1]
                if (
                    width <= count
                    and len(shown) in (1, batch)
                    and self._may_be(self.run.calls[position], is_causal)
                ):
                    wide = np.ones((len(shown), 1, count), bool)
                    wide[:, 0, :width] = shown
                    default = numbers_of_sets(seen & wide, keys)
                    same = (numbers.reshape(batch, queries) == default).ravel()
                    if np.all(same if real is None else same[real]):
                        return True
        return False

    def _may_be(self, call: Call, causal: bool) -> bool:
        """Tell whether attention in a call may be causal, or bidirectional."""
        if self._has_two_sides:
            return ("decoder" in call.path and not _CROSS.search(call.path)) == causal
        model = self.run.model
        if _CAUSAL.search(model.model_class):
            return causal
        is_encoder = model.config.get("is_decoder") is False
        return not (causal and (is_encoder or _BIDIRECTIONAL.search(model.model_class)))

    def _masks(self, step: int) -> Iterator[_Mask]:
        """Yield the masks whose tokens the tensors of a step can have."""
        decodes = "decoder" * self._has_two_sides
        if step == 0 or self._has_two_sides:
            yield from self._prompt
        if step == 0 or not self._lengths:
            return
        goes_on = np.array([[at < length for at in range(1, step + 1)] for length in self._lengths])
        yield _Mask(decodes, goes_on[:, -1:])
        yield from (
            _Mask(mask.side, np.concatenate([mask.shown, goes_on], 1))
            for mask in self._prompt
            if mask.side == decodes and len(mask.shown) == len(goes_on)
        )

    def _generated_lengths(self) -> list[int]:
        """Return how many tokens each prompt has generated; nothing if they have several beams."""
        generated, settings = self.run.generated, self.run.prompt.generation
        names = ("num_beams", "num_return_sequences")
        if generated is None or any(settings.get(name) not in (None, 1) for name in names):
            return []
        return [len(ids) for ids in generated.token_ids]

    def _side(self, path: str, at: str) -> str:
        """Return the side of an encoder-decoder that a tensor belongs to; empty if unknown."""
        if not self._has_two_sides:
            return ""
        if "encoder" in at or "key_value" in at:
            return "encoder"
        if path == ROOT and at in ("in.input_ids", "in.attention_mask"):
            return "encoder"
        if "decoder" in path:
            return "" if _CROSS.search(path) else "decoder"
        if "encoder" in path:
            return "encoder"
        return "decoder" if path == ROOT or "head" in path or "decoder" in at else ""


def steps_of_calls(run: Run) -> list[int]:
    """Return the step of generation of each call; 0 for all calls of a trace."""
    rows = run.generated.token_ids if run.generated is not None else ()
    steps = max(map(len, rows), default=0)
    if not run.calls or not steps:
        return [0] * len(run.calls)
    ends, calls_a_step = ends_of_steps(run, steps)
    return [bisect_left(ends, i) // calls_a_step for i in range(len(run.calls))]


def ends_of_steps(run: Run, steps: int) -> tuple[list[int], int]:
    """Return the calls of the module that ends each step, and how many of them a step has."""
    ends = [i for i, call in enumerate(run.calls) if call.path == run.calls[-1].path]
    return ends, max(1, len(ends) // steps)


def _fit(shown: np.ndarray, shape: tuple[int, ...], count: int) -> np.ndarray | None:
    """Return which of ``count`` tokens are real, if the shape is one of ``shown``'s tokens.

    Rows are repeated for beams and for heads that are folded into the batch. Of what all prompts
    share, such as positions, a token is real if it is so in any of them.
    """
    rows, width = shown.shape
    first = shape[0] if shape else 0
    if count == math.prod(shape) != token_count(shape):  # integers, each a token
        if len(shape) == 2 and first and first % (rows * width) == 0 and width > 1:
            return np.repeat(_repeated(shown, first // (rows * width)), shape[1])
        length = shape[-1]
    else:
        length = shape[-2] if len(shape) >= 3 else first
        if len(shape) == 2 and first and first % (rows * width) == 0:
            return _repeated(shown, first // (rows * width))
        first = first if len(shape) >= 3 else 1
    if length != width:
        return None
    if first and first % rows == 0 and len(shape) >= 2:
        return _repeated(shown, first // rows)
    return np.asarray(np.any(shown, 0)) if count == width else None


def _fit_mixed(shown: np.ndarray, shape: tuple[int, ...], count: int) -> np.ndarray | None:
    """Return which of ``count`` tokens are real if each of them mixes all positions of a prompt."""
    rows, width = shown.shape
    is_mixed = width > 1 and width in shape[1:] and shape[0] % rows == 0 and shape[0]
    if not is_mixed or count % shape[0]:
        return None
    return np.repeat(np.asarray(np.all(shown, 1)), count // rows)


def _repeated(shown: np.ndarray, times: int) -> np.ndarray:
    return np.repeat(shown, times, 0).ravel()
