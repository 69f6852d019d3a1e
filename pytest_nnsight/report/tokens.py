"""Name the token of a drift by its index in the prompt and its text."""

from __future__ import annotations

from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.run import Call, Run, token_count


def worst_token(golden: Run, drift: Drift) -> str:
    """Name the token that drifts most: ``token 5 ' Paris'``, ``token 2 of prompt 1 ' is'``.

    Return an empty string for a tensor with a single token, or without tokens.
    """
    distance = drift.distance
    token = distance.pooled_token if drift.rel == distance.pooled else distance.token
    if token is None or not 0 <= drift.position < len(golden.calls):
        return ""
    call = golden.calls[drift.position]
    location = drift.label.partition(" ")[2] or "out"
    shape = next((leaf.summary.shape for leaf in call.leaves if leaf.at == location), ())
    if len(shape) < 2:
        return ""
    prompt, index, piece = _find_token(golden, call, shape, token)
    of_prompt = f" of prompt {prompt}" if golden.prompt.is_batch else ""
    if index < 0:
        return f"the padding{of_prompt}"
    return f"token {index}{of_prompt}" + (f" {piece!r}" if piece else "")


def token_names(golden: Run, call: Call, shape: tuple[int, ...]) -> list[str]:
    """Return the text of each token of a tensor, its index if the text is unknown."""
    found = (_find_token(golden, call, shape, token) for token in range(token_count(shape)))
    return ["(padding)" if index < 0 else piece or f"#{index}" for _, index, piece in found]


def _find_token(
    golden: Run, call: Call, shape: tuple[int, ...], token: int
) -> tuple[int, int, str]:
    """Return the prompt of a token, its index there, negative in the padding, and its text."""
    # A tensor of two dimensions may hold all prompts of a batch, as in a mixture of experts.
    prompts = max(1, len(golden.prompt.token_ids))
    is_flat = len(shape) == 2 and shape[0] % prompts == 0
    width = 1 if len(shape) < 2 else shape[0] // prompts if is_flat else shape[-2]
    prompt, index = divmod(token, width)
    index -= _left_padding(golden, prompt, width)
    return prompt, index, _piece(golden, call, prompt, index, width)


def _left_padding(golden: Run, prompt: int, width: int) -> int:
    """Return the number of padding tokens before a prompt of a batch."""
    masks = golden.prompt.tensors.get("attention_mask", ())
    mask = masks[prompt] if prompt < len(masks) else ()
    return mask.index(1) if len(mask) == width and 1 in mask else 0


def _piece(golden: Run, call: Call, prompt: int, index: int, width: int) -> str:
    """Return the text of a token; empty if the tensor's tokens are not those of the prompt."""
    if call.visit and width == 1 and golden.generated is not None:
        generated = golden.generated.pieces
        in_range = prompt < len(generated) and call.visit - 1 < len(generated[prompt])
        return generated[prompt][call.visit - 1] if in_range else ""
    pieces = golden.prompt.pieces[prompt] if prompt < len(golden.prompt.pieces) else ()
    if width == 1 and len(pieces) > 1 and golden.generated is not None:
        return pieces[-1]  # generation computes the logits of the last token only
    fits = width == len(pieces) or golden.prompt.is_batch
    return pieces[index] if fits and 0 <= index < len(pieces) else ""
