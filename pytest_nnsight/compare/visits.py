"""Match the visits to a module that two runs made in another order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from pytest_nnsight.compare.pairing import inputs_and_outputs
from pytest_nnsight.run import Call, Run

_Digests = tuple[str, ...]


def align_visits(golden: Run, received: Run) -> Run:
    """Return ``received`` with swapped visits where only the order differs from ``golden``.

    Some models of transformers call one rotary embedding for each kind of layer, in the order of a
    set of names (``for layer_type in set(config.layer_types)``), which differs between processes.
    Two visits are swapped if their outputs have exactly the bits of the golden's swapped visits.
    """
    before = {call.key: _digests(call) for call in golden.calls}
    calls, now = list(received.calls), [_digests(call) for call in received.calls]
    misplaced = defaultdict(set)  # the indices of calls, by their path and their bits
    for index, call in enumerate(calls):
        if now[index] != before.get(call.key, ()):
            misplaced[call.path, now[index]].add(index)
    for first in sorted(index for indices in misplaced.values() for index in indices):
        a = calls[first]
        wanted = before.get(a.key, ())
        if not wanted or now[first] == wanted or not misplaced[a.path, wanted]:
            continue
        second = min(misplaced[a.path, wanted])
        b = calls[second]
        misplaced[a.path, now[first]].discard(first)
        misplaced[a.path, wanted].discard(second)
        calls[first], calls[second] = b._replace(visit=a.visit), a._replace(visit=b.visit)
        now[first], now[second] = now[second], now[first]
        if now[second] != before.get(b.key, ()):
            misplaced[a.path, now[second]].add(second)
    return replace(received, calls=tuple(calls)) if calls != list(received.calls) else received


def _digests(call: Call) -> _Digests:
    return tuple(leaf.summary.digest for leaf in inputs_and_outputs(call)[1])
