"""Match globs over module paths: ``transformer.h.*`` is every block, ``**.mlp`` every MLP."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from pytest_nnsight.errors import UsageError, suggest


def select(globs: str | Iterable[str], paths: Sequence[str], option: str = "modules") -> list[str]:
    """Return the ``paths`` that match any of the ``globs``, in the order of ``paths``.

    ``*`` and ``?`` and ``[...]`` stay inside one part between dots, ``**`` spans any number of
    parts. Raise `UsageError`, naming the nearest paths, where a glob matches nothing.
    """
    patterns = [globs] if isinstance(globs, str) else list(globs)
    if not patterns:
        raise UsageError(f"{option}=[] selects no module; leave it out to select every module")
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UsageError(f"{option}= takes globs over module paths, got {pattern!r}")
        matching = [path for path in paths if matches(path, pattern)]
        if not matching:
            nearest = suggest(pattern.replace("**.", "").replace("*", "0"), paths)
            raise UsageError(f"{option}={pattern!r} matches no module; nearest: {nearest}")
        chosen.update(matching)
    return [path for path in paths if path in chosen]


def matches(path: str, glob: str) -> bool:
    """Tell whether a glob selects a path."""
    return _matches(path.split("."), glob.split("."))


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    first, *rest = patterns
    if first == "**":
        return any(_matches(parts[skip:], rest) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], rest)
