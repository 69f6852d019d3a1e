"""Find where a drift starts and what caused it.

In: two runs, their `Comparison` and, where known, the fingerprints of their parameters.
Out: a `Diagnosis` with the start, the cause and the evidence for it.
Must not import: torch, pytest, or any subpackage but `compare`, `summary` and the top level.
"""
