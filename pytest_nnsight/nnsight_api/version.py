"""Which nnsight is installed, and how it is imported."""

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

    nnsight 0.8 mounts ``save`` on ``object``, which anyio's typed attributes take for one of their
    own unless they were created before. Goes when nnsight no longer mounts on ``object``.
    """
    try:
        import anyio.abc
        import anyio.streams.file
        import anyio.streams.tls

        for owner, name in (
            (anyio.abc, "SocketAttribute"),
            (anyio.streams.tls, "TLSAttribute"),
            (anyio.streams.file, "FileStreamAttribute"),
        ):
            getattr(owner, name)
    except (ImportError, TypeError):  # not installed, or nnsight was imported first by a test
        pass
    import nnsight

    return nnsight
