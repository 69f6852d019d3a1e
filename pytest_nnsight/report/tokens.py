"""The token of a drift -> its place in the prompt and its text."""

from __future__ import annotations

from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.run import Call, Run, token_count


def worst_token(golden: Run, drift: Drift) -> str:
    """Name the token that drifts most: ``token 5 ' Paris'``, ``token 2 of prompt 1 ' is'``.

    Empty where a tensor has but one token, or where there is nothing to name.
    """
    apart = drift.distance
    token = apart.pooled_token if drift.rel == apart.pooled else apart.token
    if token is None or not 0 <= drift.position < len(golden.calls):
        return ""
    call = golden.calls[drift.position]
    at = drift.label.partition(" ")[2] or "out"
    shape = next((leaf.summary.shape for leaf in call.leaves if leaf.at == at), ())
    if len(shape) < 2:
        return ""
    width = _tokens_a_prompt(golden, shape)
    row, place = divmod(token, width)
    prompt = f" of prompt {row}" if golden.prompt.is_batch else ""
    padding = _padding_before(golden, row, width)
    if place < padding:
        return f"the padding{prompt}"
    piece = _piece(golden, call, row, place - padding, width)
    return f"token {place - padding}{prompt}" + (f" {piece!r}" if piece else "")


def token_names(golden: Run, call: Call, shape: tuple[int, ...]) -> list[str]:
    """Return the texts of all tokens of a tensor; numbers where there are none."""
    width = _tokens_a_prompt(golden, shape) if len(shape) > 1 else 1
    names = []
    for token in range(token_count(shape)):
        row, place = divmod(token, width)
        place -= _padding_before(golden, row, width)
        named = _piece(golden, call, row, place, width) if place >= 0 else "(padding)"
        names.append(named or f"#{place}")
    return names


def _tokens_a_prompt(golden: Run, shape: tuple[int, ...]) -> int:
    """Return how many tokens of a tensor belong to one prompt.

    Two dimensions hold the tokens of all prompts of a batch, as in a mixture of experts.
    """
    prompts = max(1, len(golden.prompt.token_ids))
    is_flat = len(shape) == 2 and shape[0] % prompts == 0
    return shape[0] // prompts if is_flat else shape[-2]


def _padding_before(golden: Run, row: int, width: int) -> int:
    """Return how many tokens of padding stand before a prompt in a batch."""
    masks = golden.prompt.tensors.get("attention_mask", ())
    if row >= len(masks) or len(masks[row]) != width or 1 not in masks[row]:
        return 0
    return masks[row].index(1)


def _piece(golden: Run, call: Call, row: int, place: int, width: int) -> str:
    """Return the text of one token, where the tensor's tokens are those of the prompt."""
    if call.visit and width == 1 and golden.generated is not None:
        made = golden.generated.pieces
        in_range = row < len(made) and call.visit - 1 < len(made[row])
        return made[row][call.visit - 1] if in_range else ""
    pieces = golden.prompt.pieces[row] if row < len(golden.prompt.pieces) else ()
    if width == 1 and len(pieces) > 1 and golden.generated is not None:
        return pieces[-1]  # of a head, which generation asks for the last token alone
    fits = width == len(pieces) or golden.prompt.is_batch
    return pieces[place] if fits and 0 <= place < len(pieces) else ""
