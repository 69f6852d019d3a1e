"""Make a worker's messages sendable: execnet refuses lone surrogates and unknown objects."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pytest_nnsight.errors import text_of


def allow_any_value(config: pytest.Config) -> None:
    """Let a worker send any text and object, which would end the session otherwise (xdist 3.8)."""
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":
            plugin.sendevent = partial(_send, plugin.sendevent)


def _send(send: Any, name: str, **values: object) -> None:
    send(name, **sendable(values))


def sendable(value: Any) -> Any:
    """Return a value with surrogates escaped, and with text for what execnet cannot send."""
    if value is None or type(value) in (bool, int, float, complex, bytes):
        return value
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(sendable, value))
    return text_of(value).encode(errors="backslashreplace").decode()
