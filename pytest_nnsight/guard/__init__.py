"""Find what a test left changed on the shared model, restore it, and name it.

In: a loaded nnsight model, and the tests that enter and leave. Out: `Leak` records.
Must not import pytest, `golden`, `capture` or `report`.
"""
