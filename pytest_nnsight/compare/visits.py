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
    calls = list(received.calls)
    misplaced = defaultdict(list)
    for index, call in enumerate(calls):
        if _digests(call) != before.get(call.key, ()):
            misplaced[call.path].append(index)
    for indices in misplaced.values():
        for first in indices:
            wanted = before.get(calls[first].key, ())
            for second in indices if wanted and _digests(calls[first]) != wanted else ():
                is_free = _digests(calls[second]) != before.get(calls[second].key, ())
                if is_free and _digests(calls[second]) == wanted:
                    a, b = calls[first], calls[second]
                    calls[first] = b._replace(visit=a.visit)
                    calls[second] = a._replace(visit=b.visit)
                    break
    return replace(received, calls=tuple(calls)) if calls != list(received.calls) else received


def _digests(call: Call) -> _Digests:
    return tuple(leaf.summary.digest for leaf in inputs_and_outputs(call)[1])
