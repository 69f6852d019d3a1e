"""The built-in models in this very process, each loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec


@cache
def _capture(source: str, dtype: str, attn: str | None) -> Capture:
    spec = parse_spec(source)
    model: Any = load(spec, LoadOptions(dtype=dtype, attn=attn), lambda text: None)
    return Capture(model, lambda: identify(model, spec))


@pytest.fixture(scope="session")
def capture_of() -> Callable[..., Capture]:
    """Return the capture helper of a built-in model: ``capture_of("tiny:gpt2")``."""

    def capture_of(source: str, dtype: str = "auto", attn: str | None = None) -> Capture:
        return _capture(source, dtype, attn)

    return capture_of


@pytest.fixture
def gpt2(capture_of: Callable[..., Capture]) -> Capture:
    return capture_of("tiny:gpt2")
