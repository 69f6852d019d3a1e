"""Globs over module paths: ``transformer.h.*`` is every block, ``**.mlp`` every MLP."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.run import ROOT


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
        expression = re.compile(_translate(pattern))
        matching = [path for path in paths if expression.fullmatch(path)]
        if not matching:
            raise UsageError(
                f"{option}={pattern!r} matches no module; nearest: {_nearest(pattern, paths)}"
            )
        chosen.update(matching)
    return [path for path in paths if path in chosen]


def _translate(pattern: str) -> str:
    if pattern == ROOT:
        return re.escape(ROOT)
    parts = []
    for part in pattern.split("."):
        if part == "**":
            parts.append("**")
        else:
            inner = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z")
            parts.append(inner.replace(".*", "[^.]*") if "*" in part else inner)
    if parts == ["**"]:
        return ".*"
    text = r"\.".join(parts)
    text = re.sub(r"^\*\*\\\.", r"(?:.+\\.)?", text)
    text = re.sub(r"\\\.\*\*$", r"(?:\\..+)?", text)
    return text.replace(r"\.**\.", r"\.(?:.+\.)?")


def _nearest(pattern: str, paths: Sequence[str]) -> str:
    plain = pattern.replace("**.", "").replace("*", "0")
    return suggest(plain, paths)
