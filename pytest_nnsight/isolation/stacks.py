"""Reduce Python stacks to the frames of the test."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_LINES = 24
# Frames of the test runner, around those of the test.
_RUNNER = re.compile(
    r"[/\\](_pytest|pluggy|xdist|execnet|pytest_nnsight)[/\\]"
    r"|[/\\](runpy|threading|importlib[/\\]__init__)\.py|<(string|frozen \w+(\.\w+)*)>"
)
_FAULT = re.compile(r'^  File "([^"]*)", line (\d+) in (.*)$')


def trimmed(stack: Sequence[str]) -> list[str]:
    """Return the test's frames of a `traceback.format_stack`, innermost last."""
    frames = [frame.rstrip("\n") for frame in stack if not _RUNNER.search(frame.split("\n")[0])]
    return [line for frame in frames for line in frame.split("\n")][-MOST_LINES:]


def trimmed_fault(text: str) -> list[str]:
    """Return the test's frames, of all threads, of what `faulthandler` wrote, innermost first."""
    found = [match for line in text.splitlines() if (match := _FAULT.match(line))]
    frames = [match.groups() for match in found if not _RUNNER.search(match[1])]
    return [f'  File "{file}", line {line}, in {name}' for file, line, name in frames][:MOST_LINES]
