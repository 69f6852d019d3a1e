"""Change one weight of the model under test, as a bad upgrade would (a pytest plugin).

``pytest -p examples.planted_change --nnsight-model tiny:gpt2 --nnsight-suite`` then fails, and the
first line of the failure names the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

MODULE = "transformer.h.1.mlp.c_fc"


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    """Add 0.01 to one weight after the model was loaded."""
    model: Any = yield
    if fixturedef.argname == "nnsight_model":
        model._module.get_submodule(MODULE).weight.data[3, 5] += 0.01
    return model
