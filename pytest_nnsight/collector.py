"""Python's garbage collector, kept from going through all of torch and transformers again.

There are a million objects in these that live as long as their process does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def off() -> Iterator[None]:
    """Put the collector off where very many objects are made, each some thousand would set it off.

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
