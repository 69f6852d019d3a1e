"""Pause Python's garbage collector while very many objects are created."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, and collect young objects at the end.

    torch, transformers and nnsight hold over 200,000 objects. Loading a model or running a capture
    creates thousands more, which would start full collections of all of them. The collection at the
    end can go with nnsight 0.7, which removes some of its hooks from a model only then.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect(0)
