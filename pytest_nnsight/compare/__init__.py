"""Compare two runs: calls and tensors are paired, measured, and judged by a tolerance.

In: two `Run` records. Out: a `Comparison` with its drifts. Works without the model's libraries:
must not import torch, nnsight or pytest.
"""
