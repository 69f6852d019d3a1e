"""When Python collects garbage: not while a model is loaded or runs, nor what is there to stay.

torch, transformers and nnsight have 200,000 objects and more, which live as long as their process
does; the collector goes through all of them again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def put_off() -> Iterator[None]:
    """Put off collecting where very many objects are made, and every few hundred would set it off.

    What is young is collected in the end: nnsight 0.7 takes some of its hooks off a model only
    then.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            gc.collect(0)


def leave() -> None:
    """Leave out what is there now: it lives as long as the process, which is about to end.

    pytest collects twice in the end of a session, to hear of what nobody has handled: after the
    first time there is nothing to find.
    """
    gc.freeze()
