"""Run x run x tolerance -> drifts. Neither torch nor pytest is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_nnsight.distance import relative_drift, telling_statistics
from pytest_nnsight.run import Call, Leaf, Run, Summary

TOLERANCES = {
    "float64": 1e-6,
    "float32": 1e-5,
    "float16": 5e-3,
    "bfloat16": 3e-2,
}
"""What equal models may differ by on other kernels, by the coarsest dtype involved."""
_COARSEST = 1e-1


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between golden and received.

    ``kind`` is ``values``, ``container``, ``shape``, ``dtype``, ``class``, ``order``, ``missing``,
    ``added``, ``ids``, ``settings`` or ``kind``. ``rel`` is the relative drift of values and
    ``allowed`` its tolerance; ``token`` is the token whose norm moved most. A ``note`` does not
    fail.
    """

    kind: str
    label: str
    rel: float = 0.0
    allowed: float = 0.0
    expected: str = ""
    received: str = ""
    token: int | None = None
    note: bool = False
    position: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs, in the golden's order of execution.

    ``calls`` counts those of either run; ``noise`` is the largest drift that was allowed.
    """

    drifts: tuple[Drift, ...]
    calls: int
    tolerance: float
    noise: float = 0.0

    @property
    def failures(self) -> tuple[Drift, ...]:
        """The drifts that make a test fail."""
        return tuple(drift for drift in self.drifts if not drift.note)

    @property
    def matches(self) -> bool:
        """Whether the received run is as good as the golden."""
        return not self.failures


def default_tolerance(golden: Run, received: Run) -> float:
    """Return the tolerance for the coarser of the two dtypes that the models ran in."""
    return max(
        TOLERANCES.get(
            run.environment.dtype, _COARSEST if run.environment.dtype != "none" else 1e-5
        )
        for run in (golden, received)
    )


def compare(golden: Run, received: Run) -> Comparison:
    """Compare two runs; ``received.tolerance`` overrules the default of their dtypes."""
    explicit = received.tolerance
    tolerance = default_tolerance(golden, received) if explicit is None else explicit
    drifts = list(_inputs(golden, received))
    drifts += _generated(golden, received)
    received_calls = {call.key: call for call in received.calls}
    worst = 0.0
    for position, call in enumerate(golden.calls):
        other = received_calls.pop(call.key, None)
        if other is None:
            drifts.append(Drift("missing", call.label, expected=call.output, position=position))
            continue
        for drift in _call(call, other, tolerance, position):
            worst = max(worst, drift.rel if drift.rel <= drift.allowed else 0.0)
            if not (drift.kind == "values" and drift.rel <= drift.allowed):
                drifts.append(drift)
    drifts += [
        Drift("added", call.label, received=call.output, position=len(golden.calls))
        for call in received_calls.values()
    ]
    drifts += _order(golden, received)
    calls = len(golden.calls) + len(received_calls)
    return Comparison(tuple(drifts), calls, tolerance, worst)


def _order(golden: Run, received: Run) -> Iterator[Drift]:
    """Note where the calls that both runs have come in another order."""
    keys = {call.key for call in golden.calls} & {call.key for call in received.calls}
    before = [call.label for call in golden.calls if call.key in keys]
    now = [call.label for call in received.calls if call.key in keys]
    for position, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            yield Drift("order", old, expected=old, received=new, note=True, position=position)
            return


def _inputs(golden: Run, received: Run) -> Iterator[Drift]:
    if golden.kind != received.kind:
        yield Drift("kind", "run", expected=golden.kind, received=received.kind)
    if golden.prompt.token_ids != received.prompt.token_ids:
        expected, got = _first_difference(golden.prompt.token_ids, received.prompt.token_ids)
        yield Drift("ids", "prompt", expected=expected, received=got)
    before, now = golden.prompt.generation, received.prompt.generation
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield Drift("settings", key, expected=str(before.get(key)), received=str(now.get(key)))
    asked = [any(call.inputs is not None for call in run.calls) for run in (golden, received)]
    if asked[0] != asked[1]:
        yield Drift("settings", "inputs", expected=str(asked[0]), received=str(asked[1]))
    if golden.prompt.intervention != received.prompt.intervention:
        names = (str(golden.prompt.intervention), str(received.prompt.intervention))
        yield Drift("settings", "intervention", expected=names[0], received=names[1])


def _generated(golden: Run, received: Run) -> list[Drift]:
    if golden.generated is None or received.generated is None:
        return []
    before, now = golden.generated.token_ids, received.generated.token_ids
    if before == now:
        return []
    expected, got = _first_difference(before, now)
    return [Drift("ids", "generated", expected=expected, received=got)]


def _first_difference(
    before: tuple[tuple[int, ...], ...], now: tuple[tuple[int, ...], ...]
) -> tuple[str, str]:
    """Say where two lists of id rows part: ``41 ids, at 0: 504`` against ``42 ids, at 0: 1``."""
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
            f"{len(ids)} ids{where}, at {at}: {ids[at] if at < len(ids) else 'end'}"
            for ids in (old, new)
        )
    return "", ""


def _call(golden: Call, received: Call, tolerance: float, position: int) -> Iterator[Drift]:
    if golden.module_class != received.module_class:
        yield Drift(
            "class",
            golden.label,
            expected=golden.module_class,
            received=received.module_class,
            position=position,
        )
    pairs, container = _pair(golden, received)
    if container is not None:
        yield Drift(
            "container",
            golden.label,
            expected=golden.output,
            received=received.output,
            note=container == "note",
            position=position,
        )
    for old, new in pairs:
        yield compare_summaries(_place(golden, old), old.summary, new.summary, tolerance, position)


def _place(call: Call, leaf: Leaf) -> str:
    """Return ``path`` for the only output, else with the place behind it: ``path out[1]``."""
    return call.label if leaf.at == "out" else f"{call.label} {leaf.at}"


def _pair(golden: Call, received: Call) -> tuple[list[tuple[Leaf, Leaf]], str | None]:
    """Pair the tensors of two calls; say whether their containers differ.

    Tensors pair by place where the containers agree, else in order: a 1-tuple against a tensor
    hides no value. An output that was ``None`` in the golden and is a tensor now (eager attention
    returns its weights) is a note.
    """
    entering = _pair_places(golden, received, "in")
    old = [leaf for leaf in golden.leaves if not leaf.at.startswith("in")]
    new = [leaf for leaf in received.leaves if not leaf.at.startswith("in")]
    if golden.output == received.output:
        return entering + list(zip(old, new, strict=False)), None
    by_place = {leaf.at: leaf for leaf in new}
    if all(leaf.at in by_place for leaf in old):
        only_added = _only_filled(golden.output, received.output)
        pairs = [(leaf, by_place[leaf.at]) for leaf in old]
        return entering + pairs, "note" if only_added else "fail"
    return entering + list(zip(old, new, strict=False)), "fail"


def _pair_places(golden: Call, received: Call, prefix: str) -> list[tuple[Leaf, Leaf]]:
    places = {leaf.at: leaf for leaf in received.leaves if leaf.at.startswith(prefix)}
    return [(leaf, places[leaf.at]) for leaf in golden.leaves if leaf.at in places]


def _only_filled(before: str, now: str) -> bool:
    """Tell whether ``now`` is ``before`` with some ``None`` replaced by tensors."""
    old, new = before.split("None"), now
    for index, piece in enumerate(old):
        if not new.startswith(piece):
            return False
        new = new[len(piece) :]
        if index < len(old) - 1:
            filled = next((word for word in ("None", "tensor") if new.startswith(word)), None)
            if filled is None:
                return False
            new = new[len(filled) :]
    return new == ""


def compare_summaries(
    label: str, golden: Summary, received: Summary, tolerance: float, position: int = 0
) -> Drift:
    """Return the drift between two summaries of one tensor, zero or more."""
    if golden.shape != received.shape:
        return Drift(
            "shape",
            label,
            expected=str(list(golden.shape)),
            received=str(list(received.shape)),
            position=position,
        )
    if golden.dtype != received.dtype and bool(golden.digest) != bool(received.digest):
        return Drift(
            "dtype", label, expected=golden.dtype, received=received.dtype, position=position
        )
    rel, token = relative_drift(golden, received)
    exact = bool(golden.digest)
    expected, got = telling_statistics(golden, received) if rel else ("", "")
    return Drift(
        "values",
        label,
        rel=rel,
        allowed=0.0 if exact else tolerance,
        expected=expected,
        received=got,
        token=token,
        position=position,
    )
