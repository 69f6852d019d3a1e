"""Run x run -> drifts. Neither torch nor pytest is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from pytest_nnsight.compare.bits import Bits, count_bits, numeric_differences
from pytest_nnsight.compare.distance import Distance, distances, telling_statistics
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.compare.pooling import pool
from pytest_nnsight.compare.run_inputs import compare_inputs, first_difference
from pytest_nnsight.compare.timeline import Place, Value, timeline
from pytest_nnsight.compare.token_divergence import (
    TokenDivergence,
    calls_until,
    divergence_place,
    first_divergence,
    shared_step,
)
from pytest_nnsight.compare.tolerance import ROUNDINGS, Tolerance, tolerance_for
from pytest_nnsight.run import Call, Leaf, Run

Pairs = dict[Place, tuple[Leaf, Leaf]]


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """What differs between two environments, so that what follows from it is no drift.

    ``common`` are the modules that both runs call.
    """

    dtype: bool
    attention: bool
    common: Set[str]

    def excuse(self, path: str) -> bool:
        """Tell whether a call may come or go: what is inside of a module that is compared.

        Another attention is other code; some call a dropout or a norm of their own, some do not.
        """
        return self.attention and path.rpartition(".")[0] in self.common


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs.

    ``values`` are the distances of all tensors that were compared, by the place of the golden's.
    ``calls`` counts those of either run. ``flip`` is the first generated token that fell the other
    way; calls after it are not compared, since their past is another. ``timeline`` are the golden's
    values in order of time.
    """

    drifts: tuple[Drift, ...]
    calls: int
    tolerance: Tolerance
    bits: Bits
    values: Mapping[Place, Distance] = field(default_factory=dict, repr=False)
    divergence: TokenDivergence | None = None
    timeline: tuple[Value, ...] = field(default=(), repr=False)

    @property
    def failures(self) -> tuple[Drift, ...]:
        """The drifts that make a test fail."""
        return tuple(drift for drift in self.drifts if not drift.note)

    @property
    def matches(self) -> bool:
        """Whether the received run is as good as the golden."""
        return not self.failures

    @property
    def depends_on_weights(self) -> bool:
        """Whether all that fails may be rounding, if only the weights are known to be the same."""
        return self.tolerance.is_coarse and all(
            drift.kind == "values" and drift.allowed < self.tolerance.rel for drift in self.failures
        )

    @property
    def noise(self) -> float:
        """The largest drift of a tensor; within what is allowed where the runs match."""
        return max((value.rms for value in self.values.values()), default=0.0)


def compare(golden: Run, received: Run) -> Comparison:
    """Compare two runs by the rules that ``received`` carries.

    ``received.tolerance`` overrules the default of the dtypes. ``received.tokens`` is ``exact``, or
    ``close`` where a token may fall the other way in a near tie; after it nothing is compared. By
    itself, ``auto``, it is close in half types where something else moves numbers.
    ``received.is_exact`` makes every bit that should be equal count.
    """
    reason = numeric_differences(golden.environment, received.environment)
    tolerance = tolerance_for(golden, received, bits_are_expected=not reason)
    parted = divergence_place(golden, received)
    calls = golden.calls
    if parted is not None:
        calls = calls[: calls_until(golden, shared_step(golden, received, parted))]
    others = {call.key: call for call in received.calls}
    added = {} if parted is not None else dict(others)
    drifts = list(compare_inputs(golden, received))
    pairs: Pairs = {}
    moves = _moves(golden, received)
    for position, call in enumerate(calls):
        added.pop(call.key, None)
        drifts += _structure(position, call, others.get(call.key), moves, pairs)
    apart = distances([(old.summary, new.summary) for old, new in pairs.values()])
    values = dict(zip(pairs, apart, strict=True))
    shared = _with_shared_inputs(calls, others)
    in_time = timeline(shared, {at: id(new.summary) for at, (_, new) in pairs.items()})
    values |= pool(in_time, values)
    bits = count_bits(calls, values, reason)
    limits = tolerance.onsets(in_time, values)
    if received.is_exact and bits.is_expected:
        limits = dict.fromkeys(values, 0.0)
    drifts += _values(calls, pairs, values, tolerance, limits)
    drifts += _added(golden, received, added, moves)
    drifts += _order(golden, received)
    divergence = first_divergence(golden, received, values)
    drifts += _generated(golden, received, divergence, reason)
    count = len(golden.calls) + len(added)
    return Comparison(tuple(drifts), count, tolerance, bits, values, divergence, tuple(in_time))


def _with_shared_inputs(
    calls: Sequence[Call], others: Mapping[tuple[str, int], Call]
) -> list[Call]:
    """Drop the inputs of a call that the received run did not record.

    A generation may record inputs at fewer steps. An input without a partner would count as equal,
    and a drift that comes in with it would seem to start in the call.
    """
    return [
        call if _has_inputs(others.get(call.key, call)) else _without_inputs(call) for call in calls
    ]


def _has_inputs(call: Call) -> bool:
    return call.inputs is not None or any(map(is_input, call.leaves))


def _without_inputs(call: Call) -> Call:
    return call._replace(leaves=tuple(leaf for leaf in call.leaves if not is_input(leaf)))


def _moves(golden: Run, received: Run) -> EnvironmentChange:
    before, now = golden.environment, received.environment
    common = {call.path for call in golden.calls} & {call.path for call in received.calls}
    is_scan = golden.kind == received.kind == "scan"  # there the dtype is what is compared
    return EnvironmentChange(
        before.dtype != now.dtype and not is_scan, before.attention != now.attention, common
    )


def _structure(
    position: int, golden: Call, received: Call | None, moves: EnvironmentChange, pairs: Pairs
) -> Iterator[Drift]:
    """Compare what a call is, not its numbers; put the tensors to be compared into ``pairs``."""
    found = partial(Drift, label=golden.label, path=golden.path, position=position)
    if received is None:
        yield found("missing", expected=golden.output, note=moves.excuse(golden.path))
        return
    if golden.module_class != received.module_class:
        yield found("class", expected=golden.module_class, received=received.module_class)
    leaves, container = pair(golden, received, may_lose=moves.attention)
    if container is not None:
        note = container == "note"
        yield found("container", expected=golden.output, received=received.output, note=note)
    for old, new in leaves:
        before, now = old.summary, new.summary
        if before.shape == now.shape and before.dtype == now.dtype:
            pairs[position, old.at] = (old, new)
            continue
        found = partial(Drift, label=place(golden, old), path=golden.path, position=position)
        comparable = bool(before.sketch) == bool(now.sketch) or before.dtype == now.dtype
        if before.dtype != now.dtype and (not moves.dtype or not comparable):
            yield found("dtype", expected=before.dtype, received=now.dtype)
        if before.shape != now.shape:
            yield found("shape", expected=str(list(before.shape)), received=str(list(now.shape)))
        elif comparable:
            pairs[position, old.at] = (old, new)


def place(call: Call, leaf: Leaf) -> str:
    """Return ``path`` for the only output, else with the place behind it: ``path out[1]``."""
    return call.label if leaf.at == "out" else f"{call.label} {leaf.at}"


def _values(
    calls: Sequence[Call],
    pairs: Pairs,
    values: Mapping[Place, Distance],
    tolerance: Tolerance,
    limits: Mapping[Place, float],
) -> Iterator[Drift]:
    """Yield the tensors that drift by more than is allowed, or than their own ``limits``."""
    told: dict[tuple[int, int], tuple[str, str]] = {}  # one tensor is often seen at several places
    for (position, at), (old, new) in pairs.items():
        apart, call = values[position, at], calls[position]
        limit = limits.get((position, at))
        if apart.is_same or (limit is None and not tolerance.exceeded(apart, old.summary)):
            continue
        allowed = tolerance.of(old.summary) if old.summary.sketch else 0.0
        both = (id(old.summary), id(new.summary))
        if both not in told:
            told[both] = telling_statistics(old.summary, new.summary)
        yield Drift(
            "values",
            place(call, old),
            call.path,
            apart,
            allowed if limit is None else limit,
            *told[both],
            position=position,
        )


def _added(
    golden: Run, received: Run, added: Mapping[tuple[str, int], Call], moves: EnvironmentChange
) -> Iterator[Drift]:
    """Yield the calls that the golden lacks, placed behind the call that they came after."""
    positions = {call.key: position for position, call in enumerate(golden.calls)}
    last = 0
    for call in received.calls:
        last = positions.get(call.key, last)
        if call.key in added:
            note = moves.excuse(call.path)
            found = partial(Drift, "added", call.label, call.path, position=last)
            yield found(received=call.output, note=note)


def _order(golden: Run, received: Run) -> Iterator[Drift]:
    """Note where the calls that both runs have come in another order."""
    keys = {call.key for call in golden.calls} & {call.key for call in received.calls}
    before = [call.label for call in golden.calls if call.key in keys]
    now = [call.label for call in received.calls if call.key in keys]
    for position, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            yield Drift("order", old, expected=old, received=new, note=True, position=position)
            return


def _generated(
    golden: Run, received: Run, divergence: TokenDivergence | None, reason: str
) -> list[Drift]:
    """Compare what was generated; a near tie is a note where tokens may be close.

    ``reason`` is why numbers may move, if they may.
    """
    if divergence is None or golden.generated is None or received.generated is None:
        return []
    before, now = golden.generated.token_ids, received.generated.token_ids
    expected, got = first_difference(before, now)
    dtypes = {golden.environment.dtype, received.environment.dtype}
    is_close = reason and not dtypes.isdisjoint(ROUNDINGS)
    rule = received.tokens if received.tokens != "auto" else "close" if is_close else "exact"
    note = rule == "close" and divergence.is_near_tie
    return [Drift("ids", "generated", expected=expected, received=got, note=note)]
