"""Find out which nnsight is installed, and import it."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any


@cache
def version() -> tuple[int, int]:
    """Return nnsight's major and minor version."""
    major, minor = metadata.version("nnsight").split(".")[:2]
    return int(major), int(minor)


def import_nnsight() -> Any:
    """Import nnsight without breaking anyio.

    nnsight 0.8 adds ``save`` to ``object``. anyio takes it for one of its typed attributes, unless
    their classes were created before. Can go when nnsight no longer adds to ``object``.
    """
    try:
        from anyio.abc import SocketAttribute  # noqa: F401
        from anyio.streams.file import FileStreamAttribute  # noqa: F401
        from anyio.streams.tls import TLSAttribute  # noqa: F401
    except (ImportError, TypeError):  # not installed, or a test has imported nnsight before
        pass
    import nnsight

    return nnsight
