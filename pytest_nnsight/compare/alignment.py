"""Two module trees with other names -> which module of the one is which of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pytest_nnsight.run import Call, Run


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the modules of one run are called in another; those of either without a partner."""

    names: Mapping[str, str]
    only_golden: tuple[str, ...]
    only_received: tuple[str, ...]

    def renamed(self, run: Run) -> Run:
        """Return the received run with the golden's names, where it has them."""
        calls = (call._replace(path=self.names.get(call.path, call.path)) for call in run.calls)
        return replace(run, calls=tuple(calls))

    def parameters(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return the fingerprints of the received parameters by the golden's names."""
        return {self._parameter(name): digest for name, digest in digests.items()}

    def _parameter(self, name: str) -> str:
        module, _, own = name.rpartition(".")
        return f"{self.names.get(module, module)}.{own}" if module else own


def align(golden: Run, received: Run) -> Alignment:
    """Find the partner of each module: of the same name, of another prefix, or in order.

    One prefix stands for another where that brings most modules together, as of an adapter's
    wrapper. Between two modules with partners, those left pair in order where they are as many and
    give values of the same shapes.
    """
    old, new = _first_calls(golden), _first_calls(received)
    names = {path: path for path in new if path in old}
    names |= _by_prefix([p for p in old if p not in names], [p for p in new if p not in names])
    names |= dict(_in_order(old, new, names))
    partners = set(names.values())
    return Alignment(
        names,
        tuple(path for path in old if path not in partners),
        tuple(path for path in new if path not in names),
    )


def _first_calls(run: Run) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for call in run.calls:
        calls.setdefault(call.path, call)
    return calls


def _by_prefix(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Pair paths that agree behind a prefix, by the pair of prefixes that does so most often."""
    ends: dict[str, list[str]] = {}
    for path in old:
        ends.setdefault(path.rpartition(".")[2], []).append(path)
    prefixes = Counter(
        _prefixes(theirs, path) for path in new for theirs in ends.get(path.rpartition(".")[2], ())
    )
    if not prefixes:
        return {}
    before, now = prefixes.most_common(1)[0][0]
    there = set(old)
    renamed = {path: before + path.removeprefix(now) for path in new if path.startswith(now)}
    return {path: name for path, name in renamed.items() if name in there}


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Return what stands before the longest end, of whole parts, that two paths share."""
    left, right = old.split("."), new.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    return "".join(f"{part}." for part in left), "".join(f"{part}." for part in right)


def _in_order(
    old: Mapping[str, Call], new: Mapping[str, Call], names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    before, now = [*old], [*new]
    at = {path: index for index, path in enumerate(before)}
    anchors = [(-1, -1)]
    for index, path in enumerate(now):
        place = at.get(names.get(path, ""), -1)
        if place > anchors[-1][0]:
            anchors.append((place, index))
    for (left, low), (right, high) in pairwise([*anchors, (len(before), len(now))]):
        theirs, ours = before[left + 1 : right], now[low + 1 : high]
        same = [*map(_shapes, map(old.__getitem__, theirs))] == [
            *map(_shapes, map(new.__getitem__, ours))
        ]
        if same:
            yield from zip(ours, theirs, strict=True)


def _shapes(call: Call) -> list[tuple[int, ...]]:
    return [leaf.summary.shape for leaf in call.leaves if leaf.at.startswith("out")]
