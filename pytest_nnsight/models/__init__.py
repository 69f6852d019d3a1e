"""Load a model from its spec, once per session; build the tiny built-in models.

In: a model spec and load options. Out: a dispatched nnsight model, and what a golden says of it.
Must not import pytest, nor any other service: capture, golden, report, guard, isolation.
"""
