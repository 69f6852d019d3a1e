"""Run a prompt and a `CaptureRequest` through nnsight and return a `Run`.

In: an nnsight model and a prompt. Out: `run.Run` records. Uses `nnsight_api` and `summary`; must
not import pytest, nor any other service: models, golden, report, guard, isolation.
"""
