"""Tests that each pass one wrong argument."""

import pytest


def test_glob(nnsight_capture):
    nnsight_capture.trace("Hello", modules="transformer.g.*")


def test_keep(nnsight_capture):
    nnsight_capture.trace("Hello", modules="transformer.wte", keep="transformer.wtf")


def test_empty(nnsight_capture):
    nnsight_capture.trace("")


def test_empty_in_list(nnsight_capture):
    nnsight_capture.trace(["Hello", ""])


def test_no_ids(nnsight_capture):
    nnsight_capture.trace([])


def test_number(nnsight_capture):
    nnsight_capture.trace(3.5)


def test_too_long(nnsight_capture):
    nnsight_capture.trace("a" * 600)


def test_too_long_to_generate(nnsight_capture):
    nnsight_capture.generate("a" * 500, max_new_tokens=20)


def test_no_new_tokens(nnsight_capture):
    nnsight_capture.generate("Hello", max_new_tokens=0)


def test_not_kept(nnsight_capture):
    _ = nnsight_capture.trace("Hello")["transformer.wte"].output


def test_not_called(nnsight_capture):
    nnsight_capture.trace("Hello")["transformer.wtf"]


def test_no_text(nnsight_capture):
    _ = nnsight_capture.trace("Hello").text


@pytest.mark.nnsight(tolerence=1e-3)
def test_marker(nnsight_model):
    pass


def test_compare_list(nnsight_golden):
    assert [1] == nnsight_golden  # noqa: SIM300  # as users write it


def test_compare_object(nnsight_golden):
    assert {"name": [object()]} == nnsight_golden
