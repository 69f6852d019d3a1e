"""Python's garbage collector, paused while very many objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, and collect young objects at the end.

    torch, transformers and nnsight hold over 200,000 objects. Loading a model or taking a capture
    makes thousands more, which would start full collections of all of them. nnsight 0.7 needs the
    collection at the end: only then it takes some of its hooks off a model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect(0)
