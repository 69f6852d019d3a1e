"""Run tests in workers, so that a hang or crash ends one test and not the session.

In: pytest's hooks, in the controller and in each worker. Out: reports of hung and crashed tests.
Must not import torch, nor any other service: models, capture, golden, report, guard.
"""
