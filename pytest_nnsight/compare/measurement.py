"""Two runs -> all that differs and by how much, before anything is said about what is allowed.

This is the expensive half of a comparison: `comparison.judge` then applies a tolerance to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

from pytest_nnsight.compare.bits import Bits, count_bits, numeric_differences
from pytest_nnsight.compare.distance import Distance, distances
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.compare.pooling import pool
from pytest_nnsight.compare.run_inputs import compare_inputs
from pytest_nnsight.compare.timeline import LeafKey, Value, timeline
from pytest_nnsight.compare.token_divergence import (
    TokenDivergence,
    calls_until,
    divergence_location,
    first_divergence,
    last_shared_step,
)
from pytest_nnsight.run import Call, Leaf, Run

Pairs = dict[LeafKey, tuple[Leaf, Leaf]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The differences of two runs and the distances of their tensors.

    ``calls`` are the golden's calls that can be compared: after a generated token that differs, the
    two runs continue different texts. ``pairs`` and ``distances`` are by the location of the tensor
    in the golden. ``before`` are the drifts of inputs and structure, ``after`` those of added calls
    and of the order of calls; neither depends on a tolerance. ``call_count`` counts the calls of
    either run.
    """

    golden: Run
    calls: Sequence[Call]
    call_count: int
    pairs: Mapping[LeafKey, tuple[Leaf, Leaf]]
    distances: Mapping[LeafKey, Distance]
    timeline: tuple[Value, ...]
    bits: Bits
    divergence: TokenDivergence | None
    before: tuple[Drift, ...]
    after: tuple[Drift, ...]


def measure(golden: Run, received: Run) -> Measurement:
    """Pair the calls and tensors of two runs and estimate the distance of each pair."""
    calls: Sequence[Call] = golden.calls
    parted = divergence_location(golden, received)
    if parted is not None:
        calls = calls[: calls_until(golden, last_shared_step(golden, received, parted))]
    others = {call.key: call for call in received.calls}
    change = EnvironmentChange.between(golden, received)
    before, pairs = [*compare_inputs(golden, received)], Pairs()
    for position, call in enumerate(calls):
        before += _compare_structure(position, call, others.get(call.key), change, pairs)
    estimates = distances([(old.summary, new.summary) for old, new in pairs.values()])
    apart = dict(zip(pairs, estimates, strict=True))
    in_time = timeline(
        _without_unpaired_inputs(calls, others),
        {key: id(new.summary) for key, (_, new) in pairs.items()},
    )
    apart |= pool(in_time, apart)
    added = set() if parted is not None else others.keys() - {call.key for call in calls}
    return Measurement(
        golden,
        calls,
        call_count=len(golden.calls) + len(added),
        pairs=pairs,
        distances=apart,
        timeline=tuple(in_time),
        bits=count_bits(
            calls, apart, numeric_differences(golden.environment, received.environment)
        ),
        divergence=first_divergence(golden, received, apart),
        before=tuple(before),
        after=(*_added_calls(golden, received, added, change), *_changed_order(golden, received)),
    )


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """What differs between two environments, so that what follows from it is not a drift.

    ``common`` are the modules that both runs call.
    """

    dtype: bool
    attention: bool
    common: Set[str]

    @classmethod
    def between(cls, golden: Run, received: Run) -> EnvironmentChange:
        """Compare the environments of two runs; a scan is made to compare dtypes too."""
        before, now = golden.environment, received.environment
        is_scan = golden.kind == received.kind == "scan"
        common = {call.path for call in golden.calls} & {call.path for call in received.calls}
        attention = before.attention != now.attention
        return cls(before.dtype != now.dtype and not is_scan, attention, common)

    def explains(self, path: str) -> bool:
        """Tell whether a call may be missing or new because the attention implementation changed.

        Some implementations call a dropout or a norm as a module of its own, others do not.
        """
        return self.attention and path.rpartition(".")[0] in self.common


def leaf_label(call: Call, leaf: Leaf) -> str:
    """Name a tensor: the call alone for its only output, otherwise ``path out[1]``."""
    return call.label if leaf.at == "out" else f"{call.label} {leaf.at}"


def _compare_structure(
    position: int, golden: Call, received: Call | None, change: EnvironmentChange, pairs: Pairs
) -> Iterator[Drift]:
    """Yield how two calls differ apart from their numbers; add comparable tensors to ``pairs``."""
    drift = partial(Drift, label=golden.label, path=golden.path, position=position)
    if received is None:
        yield drift("missing", expected=golden.output, note=change.explains(golden.path))
        return
    if golden.module_class != received.module_class:
        yield drift("class", expected=golden.module_class, received=received.module_class)
    leaves, container = pair(golden, received, may_lose=change.attention)
    if container is not None:
        note = container == "note"
        yield drift("container", expected=golden.output, received=received.output, note=note)
    for old, new in leaves:
        before, now = old.summary, new.summary
        drift = partial(Drift, label=leaf_label(golden, old), path=golden.path, position=position)
        is_comparable = before.dtype == now.dtype or bool(before.sketch) == bool(now.sketch)
        if before.dtype != now.dtype and (not change.dtype or not is_comparable):
            yield drift("dtype", expected=before.dtype, received=now.dtype)
        if before.shape != now.shape:
            yield drift("shape", expected=str(list(before.shape)), received=str(list(now.shape)))
        elif is_comparable:
            pairs[position, old.at] = (old, new)


def _without_unpaired_inputs(
    calls: Sequence[Call], others: Mapping[tuple[str, int], Call]
) -> list[Call]:
    """Drop the inputs of a call whose inputs the received run did not record.

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


def _added_calls(
    golden: Run, received: Run, added: Set[tuple[str, int]], change: EnvironmentChange
) -> Iterator[Drift]:
    """Yield the calls that the golden lacks, at the position of the call before them."""
    positions = {call.key: position for position, call in enumerate(golden.calls)}
    last = 0
    for call in received.calls:
        last = positions.get(call.key, last)
        if call.key in added:
            drift = partial(Drift, "added", call.label, call.path, position=last)
            yield drift(received=call.output, note=change.explains(call.path))


def _changed_order(golden: Run, received: Run) -> Iterator[Drift]:
    """Yield a note at the first call that comes in another order, of those that both runs have."""
    keys = {call.key for call in golden.calls} & {call.key for call in received.calls}
    before = [call.label for call in golden.calls if call.key in keys]
    now = [call.label for call in received.calls if call.key in keys]
    for position, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            yield Drift("order", old, expected=old, received=new, note=True, position=position)
            return
