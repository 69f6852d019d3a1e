"""The golden files: their format, where they are, and their life under syrupy.

In: a run that a test asserts, and a `GoldenHost`, the test itself. Out: files, and a `Finding` for
each comparison. Works on files alone: must not import torch, nnsight, or the plugin.
"""
