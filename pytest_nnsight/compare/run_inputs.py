"""Two runs -> drifts of their inputs: kind of run, prompt, masks, positions, settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.token_divergence import first_mismatch
from pytest_nnsight.run import Run

_MASK = "attention_mask"
Batch = Sequence[Sequence[int]]
Texts = Sequence[Sequence[str]]


def compare_inputs(golden: Run, received: Run) -> Iterator[Drift]:
    """Yield the differences of what two runs were asked for and of what entered the model."""
    if golden.kind != received.kind:
        yield Drift("kind", "run", expected=golden.kind, received=received.kind)
    if golden.prompt.token_ids != received.prompt.token_ids and not _only_masked(golden, received):
        ids, now_ids = golden.prompt.token_ids, received.prompt.token_ids
        pieces = (golden.prompt.pieces, received.prompt.pieces)
        expected, got = first_difference(ids, now_ids, pieces=pieces)
        yield Drift("ids", "prompt", expected=expected, received=got)
    else:
        yield from _tensors(golden, received)
    before, now = golden.prompt.generation, received.prompt.generation
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield Drift("settings", key, expected=str(before.get(key)), received=str(now.get(key)))
    old, new = (any(call.inputs is not None for call in run.calls) for run in (golden, received))
    if old != new and golden.calls and received.calls:
        yield Drift("settings", "inputs", expected=str(old), received=str(new), note=True)
    if golden.prompt.intervention != received.prompt.intervention:
        names = (str(golden.prompt.intervention), str(received.prompt.intervention))
        yield Drift("settings", "intervention", expected=names[0], received=names[1])


def _only_masked(golden: Run, received: Run) -> bool:
    """Tell whether the token ids differ only because another mask hides some of them.

    A run stores the ids that its mask shows; those that both masks show must be equal.
    """
    before, now = _ids_by_position(golden), _ids_by_position(received)
    if golden.prompt.tensors.get(_MASK) == received.prompt.tensors.get(_MASK):
        return False
    return [*map(len, before)] == [*map(len, now)] and all(
        None in (a, b) or a == b
        for old, new in zip(before, now, strict=True)
        for a, b in zip(old, new, strict=True)
    )


def _ids_by_position(run: Run) -> list[list[int | None]]:
    """Return the ids at each position of the mask, ``None`` if the mask hides it."""
    masks, prompts = run.prompt.tensors.get(_MASK, ()), []
    for mask, token_ids in zip(masks, run.prompt.token_ids, strict=False):
        ids = iter(token_ids)
        prompts.append([next(ids, None) if is_shown else None for is_shown in mask])
    return prompts


def _tensors(golden: Run, received: Run) -> Iterator[Drift]:
    """Compare masks, positions, and the digests of pictures and the like.

    A tensor that only one run has is a note: the model may compute the same without it. So is one
    of floats, since its values are compared.
    """
    before, now = golden.prompt.tensors, received.prompt.tensors
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            both = name in before and name in now
            expected, got = first_difference(before.get(name, ()), now.get(name, ()), "values")
            note = not both or _differ_in_padding(golden, received, name)
            yield Drift("tensors", name, expected=expected, received=got, note=note)
    old, new = golden.prompt.digests, received.prompt.digests
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            note = old[name].startswith(("float", "bfloat"))
            yield Drift("tensors", name, expected=old[name], received=new[name], note=note)


def _differ_in_padding(golden: Run, received: Run, name: str) -> bool:
    """Tell whether an input, such as positions, has the same values wherever the mask is not 0."""
    mask_name = f"decoder_{_MASK}" if name.startswith("decoder_") else _MASK
    mask, other, before, now = (
        run.prompt.tensors.get(key, ()) for key in (mask_name, name) for run in (golden, received)
    )
    if len(before) == 1 and mask == other:  # positions of all prompts
        mask = other = (tuple(map(any, zip(*mask, strict=False))),)
    sizes = [[len(row) for row in rows] for rows in (mask, before, now)]
    return (
        name != mask_name
        and mask == other
        and sizes[0] == sizes[1] == sizes[2]
        and all(
            old == new or not is_shown
            for rows in zip(before, now, mask, strict=True)
            for old, new, is_shown in zip(*rows, strict=True)
        )
    )


def first_difference(
    before: Batch, now: Batch, noun: str = "ids", pieces: tuple[Texts, Texts] = ((), ())
) -> tuple[str, str]:
    """Describe the first difference of two batches: ``41 ids, at 0: 504``, ``42 ids, at 0: 1``.

    ``pieces`` are the texts of the ids in both batches, if known.
    """
    if len(before) != len(now):
        return f"{len(before)} prompts", f"{len(now)} prompts"
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        if old == new:
            continue
        at = first_mismatch(old, new)
        prompt = f" of prompt {index}" if len(before) > 1 else ""
        expected, received = (
            f"{len(ids)} {noun}{prompt}, at {at}: {_described(ids, at, *texts[index : index + 1])}"
            for ids, texts in zip((old, new), pieces, strict=True)
        )
        return expected, received
    return "", ""


def _described(ids: Sequence[int], at: int, texts: Sequence[str] = ()) -> str:
    """Return one id of a prompt with its text, if known, or ``end``."""
    text = "".join(texts[at : at + 1])
    if at >= len(ids):
        return "end"
    return f"{ids[at]} ({text!r})" if text else str(ids[at])
