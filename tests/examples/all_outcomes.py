"""One test of each outcome: where ``CHANGE`` is set, they drift, fail, hang or crash."""

import ctypes
import os
import time

import pytest


@pytest.fixture(scope="session", autouse=True)
def changes(nnsight_model):
    if "CHANGE" in os.environ:
        nnsight_model._module.transformer.h[1].mlp.c_fc.weight.data[3, 5] += 0.01
    yield
    if "CHANGE" in os.environ:
        nnsight_model._module.transformer.h[1].mlp.c_fc.weight.data[3, 5] -= 0.01


@pytest.mark.parametrize("number", [1, 2])
def test_golden(nnsight_capture, nnsight_golden, number):
    assert nnsight_capture.trace([number]) == nnsight_golden


def test_new(nnsight_capture, nnsight_golden):
    if "NEW" in os.environ:
        assert nnsight_capture.trace([5]) == nnsight_golden


def test_plain():
    assert "CHANGE" not in os.environ, "plainly"


def test_skipped():
    pytest.skip("not today")


def test_hangs():
    if "CHANGE" in os.environ:
        time.sleep(50)


def test_crashes():
    if "CHANGE" in os.environ:
        ctypes.string_at(0)
