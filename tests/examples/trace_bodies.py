"""Tests whose trace body does not end at its last line."""

import sys

import pytest


def test_fail(nnsight_model):
    with nnsight_model.trace("Hello"):
        pytest.fail("not good")


def test_skip(nnsight_model):
    with nnsight_model.trace("Hello"):
        pytest.skip("not now")


def test_return(nnsight_model):
    with nnsight_model.trace("Hello"):
        nnsight_model.transformer.h[0].output.save()
        return


def test_exit(nnsight_model):
    with nnsight_model.trace("Hello"):
        sys.exit(3)


def test_interrupt(nnsight_model):
    with nnsight_model.trace("Hello"):
        raise KeyboardInterrupt


def test_steps(nnsight_model):
    with nnsight_model.generate("Hello", max_new_tokens=3) as tracer:
        for _ in tracer.iter[:]:
            pass


def test_lives(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
