"""What a worker sends: execnet refuses lone surrogates and objects, which pytest itself shows."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest


def send_anything(config: pytest.Config) -> None:
    """Let xdist's side of a worker send any text and any object.

    Otherwise a failure's message, a warning or a recorded property ends the run with an internal
    error (pytest-xdist 3.8, execnet 2.1).
    """
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":
            plugin.sendevent = partial(_send, plugin.sendevent)


def _send(send: Any, name: str, **kwargs: object) -> None:
    send(name, **sendable(kwargs))


def sendable(value: Any) -> Any:
    """Return a value with surrogates escaped, and as text what execnet cannot send."""
    if value is None or type(value) in (bool, int, float, complex, bytes):
        return value
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(sendable(item) for item in value)
    try:
        text = str(value)
    except Exception:
        text = object.__repr__(value)
    return text.encode(errors="backslashreplace").decode()
