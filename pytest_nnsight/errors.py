"""What can go wrong for a user, each as one clear line."""

from __future__ import annotations

from collections.abc import Iterable


class NnsightPluginError(Exception):
    """A user's mistake or a broken file: the message is all that is shown, never a traceback."""


class UsageError(NnsightPluginError):
    """A wish that cannot be granted: unknown model, glob without match, prompt too long."""


class LoadError(NnsightPluginError):
    """A model, tokenizer or weights file that could not be loaded."""


class GoldenError(NnsightPluginError):
    """A golden that is missing, damaged, newer than this reader, foreign, or not writable."""


class LeakError(NnsightPluginError):
    """A test that left the shared model changed, or a model that is not what was loaded."""


class RemoteError(NnsightPluginError):
    """A run that was to be made elsewhere, and of which nothing came back."""


def suggest(wrong: str, right: Iterable[str], limit: int = 3) -> str:
    """Say which of the ``right`` words are nearest to the ``wrong`` one, or list the first few."""
    import difflib  # takes a millisecond, and is for mistakes

    candidates = list(right)
    near = difflib.get_close_matches(wrong, candidates, n=limit, cutoff=0.4) or candidates[:limit]
    return ", ".join(near)


def text_of(value: object) -> str:
    """Return ``str(value)``; empty if its own ``__str__`` fails, as an error's may."""
    try:
        return str(value)
    except Exception:
        return ""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the first telling line of another library's error, shortened to ``limit`` characters.

    The home folder is written as ``~``: messages end up in reports that are shared.
    """
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return hide_home(text if len(text) <= limit else text[: limit - 3] + "...")


def visible(text: str) -> str:
    """Write what a terminal would act on, or not show, as an escape: ``\\x1b``, ``\\u202e``.

    Goldens come from other people, and their texts end up on screens and in CI logs.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def hide_home(text: str) -> str:
    """Replace the home folder in ``text`` by ``~``, so that no user name reaches a file."""
    from pathlib import Path

    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
