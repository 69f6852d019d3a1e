"""Whether a worker that was forked would have imported the libraries as they were."""

from __future__ import annotations

import os
import sys

from pytest_nnsight.forking import server

_OF_PYTEST = "PYTEST_"  # what pytest and its plugins tell a worker, or what runs in it
LIBRARIES = ("torch", "transformers")


def what_changed() -> str:
    """Name what is not as it was when the libraries were imported; empty for nothing.

    A variable that a test file sets, the folder from which one of them would come by now.
    """
    was = server.imported_in
    if not was:
        return ""
    names = sorted({*was, *os.environ})
    changed = [name for name in names if was.get(name) != os.environ.get(name)]
    changed = [f"${name}" for name in changed if not name.startswith(_OF_PYTEST)]
    return ", ".join(changed + [f"the place of {name}" for name in LIBRARIES if _has_moved(name)])


def _has_moved(name: str) -> bool:
    """Tell whether a library would be imported from elsewhere."""
    found = (finder.find_spec(name, None) for finder in sys.meta_path)
    spec = next((spec for spec in found if spec is not None), None)
    return spec is None or spec.origin != sys.modules[name].__file__
