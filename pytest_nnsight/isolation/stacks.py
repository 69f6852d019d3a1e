"""Python stacks -> the lines that tell a person where it was."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_LINES = 24
# Frames of what runs tests, around the test's own.
_RUNNER = re.compile(
    r"[/\\](_pytest|pluggy|xdist|execnet|pytest_nnsight)[/\\]"
    r"|[/\\](runpy|threading|importlib[/\\]__init__)\.py|<(string|frozen \w+(\.\w+)*)>"
)
_FAULT = re.compile(r'^  File "([^"]*)", line (\d+) in (.*)$')


def trimmed(stack: Sequence[str]) -> list[str]:
    """Return the frames of `traceback.format_stack` that are not the runner's, innermost last."""
    frames = [frame.rstrip("\n") for frame in stack if not _RUNNER.search(frame.split("\n")[0])]
    return [line for frame in frames for line in frame.split("\n")][-MOST_LINES:]


def trimmed_fault(text: str) -> list[str]:
    """Return the frames of what `faulthandler` wrote that are not the runner's, innermost first.

    Of many threads, those that have such frames.
    """
    lines = []
    for line in text.splitlines():
        match = _FAULT.match(line)
        if match and not _RUNNER.search(match[1]):
            lines.append(f'  File "{match[1]}", line {match[2]}, in {match[3]}')
    return lines[:MOST_LINES]
