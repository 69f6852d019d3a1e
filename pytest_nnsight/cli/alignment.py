"""Two module trees with different names -> which module of one is which of the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pytest_nnsight.run import Call, Run


@dataclass(frozen=True, slots=True)
class Alignment:
    """The partners of modules: ``names`` maps a received path to the path in the golden.

    ``only_golden`` and ``only_received`` are the modules without a partner.
    """

    names: Mapping[str, str]
    only_golden: tuple[str, ...]
    only_received: tuple[str, ...]

    def renamed(self, run: Run) -> Run:
        """Return the received run with the golden's names for modules that have a partner."""
        calls = (call._replace(path=self.names.get(call.path, call.path)) for call in run.calls)
        return replace(run, calls=tuple(calls))

    def parameters(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return the fingerprints of the received parameters by the golden's names."""
        renamed = {}
        for name, digest in digests.items():
            module, dot, last = name.rpartition(".")
            renamed[f"{self.names.get(module, module)}{dot}{last}"] = digest
        return renamed


def align(golden: Run, received: Run) -> Alignment:
    """Find the partner of each module: by name, by another prefix, or by order.

    One prefix is replaced by another, as for the wrapper of an adapter: the pair of prefixes that
    matches most modules. Modules left between two partners pair in order if both runs have the same
    number of them there, with outputs of the same shapes.
    """
    old, new = (
        {call.path: call for call in run.calls if call.visit == 0} for run in (golden, received)
    )
    names = {path: path for path in new if path in old}
    names |= _by_prefix([p for p in old if p not in names], [p for p in new if p not in names])
    names |= dict(_by_order(old, new, names))
    partners = set(names.values())
    return Alignment(
        names,
        tuple(path for path in old if path not in partners),
        tuple(path for path in new if path not in names),
    )


def _by_prefix(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Pair paths that agree after a prefix, for the pair of prefixes that is most frequent."""
    by_last_part = defaultdict(list)
    for path in old:
        by_last_part[path.rpartition(".")[2]].append(path)
    prefixes = Counter(
        _prefixes(candidate, path)
        for path in new
        for candidate in by_last_part[path.rpartition(".")[2]]
    )
    if not prefixes:
        return {}
    (before, now), _ = prefixes.most_common(1)[0]
    known = set(old)
    renamed = {path: before + path.removeprefix(now) for path in new if path.startswith(now)}
    return {path: name for path, name in renamed.items() if name in known}


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Return what is left of two paths without the longest end, of whole parts, they share."""
    left, right = old.split("."), new.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    return "".join(f"{part}." for part in left), "".join(f"{part}." for part in right)


def _by_order(
    old: Mapping[str, Call], new: Mapping[str, Call], names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield pairs (received path, golden path) of modules between those that have partners."""
    before, now = [*old], [*new]
    index_of = {path: index for index, path in enumerate(before)}
    anchors = [(-1, -1)]
    for index, path in enumerate(now):
        partner = index_of.get(names.get(path, ""), -1)
        if partner > anchors[-1][0]:
            anchors.append((partner, index))
    for (left, low), (right, high) in pairwise([*anchors, (len(before), len(now))]):
        theirs, ours = before[left + 1 : right], now[low + 1 : high]
        if [_shapes(old[path]) for path in theirs] == [_shapes(new[path]) for path in ours]:
            yield from zip(ours, theirs, strict=True)


def _shapes(call: Call) -> list[tuple[int, ...]]:
    return [leaf.summary.shape for leaf in call.leaves if leaf.at.startswith("out")]
