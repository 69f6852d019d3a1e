"""The errors that a user can cause, and functions that write text for messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class NnsightPluginError(Exception):
    """A user's mistake or a damaged file. The message is shown alone, without a traceback."""


class UsageError(NnsightPluginError):
    """A wrong argument: an unknown model, a glob that matches no module, a prompt too long."""


class LoadError(NnsightPluginError):
    """A model, tokenizer or weights file that cannot be loaded."""


class GoldenError(NnsightPluginError):
    """A golden that is missing, damaged, of a newer format, of another model, or not writable."""


class LeakError(NnsightPluginError):
    """A test changed the shared model, or its weights are not those that were loaded."""


class NnsightLeakWarning(UserWarning):
    """A test left the shared model or torch's settings changed, and all of it was restored."""


class RemoteError(NnsightPluginError):
    """A run on a server that returned no result."""


def suggest(wrong: str, right: Iterable[str], limit: int = 3) -> str:
    """Return the ``right`` words nearest to the ``wrong`` one; the first ones if none is near."""
    import difflib  # takes a millisecond, and only errors need it

    candidates = list(right)
    near = difflib.get_close_matches(wrong, candidates, n=limit, cutoff=0.4) or candidates[:limit]
    return ", ".join(near)


def text_of(value: object) -> str:
    """Return ``str(value)``, or the empty string if that raises, as for some exceptions."""
    try:
        return str(value)
    except Exception:
        return ""


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """Return the first line of another library's error or text, cut to ``limit`` characters.

    After a first line that ends with a colon the second one follows, which has the reason.
    The home folder becomes ``~``, because messages are written to reports that people share.
    """
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    count = 2 if lines and lines[0].endswith(":") else 1
    text = " ".join(lines[:count]) or type(error).__name__
    return hide_home(text if len(text) <= limit else text[: limit - 3] + "...")


def visible(text: str) -> str:
    """Replace unprintable characters by escapes: ``\\x1b``, ``\\u202e``.

    Goldens come from other people, and their texts are printed on terminals and in CI logs.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def hide_home(text: str) -> str:
    """Replace the home folder by ``~``, so that no user name is in a report that people share."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
