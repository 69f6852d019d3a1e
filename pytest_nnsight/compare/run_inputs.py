"""Run x run -> drifts of what went in: kind of run, prompt, masks, positions, settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.run import Run

_MASK = "attention_mask"


def compare_inputs(golden: Run, received: Run) -> Iterator[Drift]:
    """Yield where two runs were asked for different things, or were given different numbers."""
    if golden.kind != received.kind:
        yield Drift("kind", "run", expected=golden.kind, received=received.kind)
    if golden.prompt.token_ids != received.prompt.token_ids and not _only_masked(golden, received):
        expected, got = _ids_difference(golden, received)
        yield Drift("ids", "prompt", expected=expected, received=got)
    else:
        yield from _tensors(golden, received)
    before, now = golden.prompt.generation, received.prompt.generation
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield Drift("settings", key, expected=str(before.get(key)), received=str(now.get(key)))
    asked = [any(call.inputs is not None for call in run.calls) for run in (golden, received)]
    if asked[0] != asked[1] and golden.calls and received.calls:
        yield Drift("settings", "inputs", expected=str(asked[0]), received=str(asked[1]), note=True)
    if golden.prompt.intervention != received.prompt.intervention:
        names = (str(golden.prompt.intervention), str(received.prompt.intervention))
        yield Drift("settings", "intervention", expected=names[0], received=names[1])


def _only_masked(golden: Run, received: Run) -> bool:
    """Tell whether the same ids went in, of which a mask hides others.

    Ids are kept without those that are hidden; those that both masks show must be the same.
    """
    before, now = _shown(golden), _shown(received)
    if golden.prompt.tensors.get(_MASK) == received.prompt.tensors.get(_MASK):
        return False
    return len(before) == len(now) and all(
        len(old) == len(new)
        and all(a == b for a, b in zip(old, new, strict=True) if a is not None and b is not None)
        for old, new in zip(before, now, strict=True)
    )


def _shown(run: Run) -> list[list[int | None]]:
    """Return the ids at the places of the mask, ``None`` where it hides one."""
    masks, rows = run.prompt.tensors.get(_MASK, ()), []
    for mask, ids in zip(masks, run.prompt.token_ids, strict=False):
        left = iter(ids)
        rows.append([next(left, None) if shows else None for shows in mask])
    return rows


def _tensors(golden: Run, received: Run) -> Iterator[Drift]:
    """Compare masks and positions; one that only one side was given may mean the same."""
    before, now = golden.prompt.tensors, received.prompt.tensors
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            both = name in before and name in now
            expected, got = first_difference(before.get(name, ()), now.get(name, ()), "values")
            yield Drift("tensors", name, expected=expected, received=got, note=not both)
    yield from _digests(golden, received)


def _digests(golden: Run, received: Run) -> Iterator[Drift]:
    """Compare pictures and the like; what may drift a little is a note, its values fail or not."""
    before, now = golden.prompt.digests, received.prompt.digests
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            note = before[name].startswith(("float", "bfloat"))
            yield Drift("tensors", name, expected=before[name], received=now[name], note=note)


def _ids_difference(golden: Run, received: Run) -> tuple[str, str]:
    """Say where two prompts part, with the text of the first token that differs."""
    expected, got = first_difference(golden.prompt.token_ids, received.prompt.token_ids)
    texts = []
    for text, run, other in ((expected, golden, received), (got, received, golden)):
        rows = zip(run.prompt.token_ids, other.prompt.token_ids, run.prompt.pieces, strict=False)
        places = (
            pieces[at]
            for ids, others, pieces in rows
            for at in range(min(len(ids), len(pieces)))
            if at >= len(others) or ids[at] != others[at]
        )
        piece = next(places, "")
        texts.append(f"{text} ({piece!r})" if piece else text)
    return texts[0], texts[1]


def first_difference(
    before: Sequence[Sequence[int]], now: Sequence[Sequence[int]], noun: str = "ids"
) -> tuple[str, str]:
    """Say where two lists of rows part: ``41 ids, at 0: 504`` against ``42 ids, at 0: 1``."""
    if len(before) != len(now):
        return f"{len(before)} prompts", f"{len(now)} prompts"
    for row, (old, new) in enumerate(zip(before, now, strict=True)):
        if old == new:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
            min(len(old), len(new)),
        )
        where = f" of prompt {row}" if len(before) > 1 else ""
        return tuple(  # type: ignore[return-value]
            f"{len(ids)} {noun}{where}, at {at}: {ids[at] if at < len(ids) else 'end'}"
            for ids in (old, new)
        )
    return "", ""
