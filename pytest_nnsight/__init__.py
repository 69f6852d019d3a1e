"""Test the internals of a model: capture activations, compare them with goldens, explain drifts.

Importing this package imports no torch, transformers, nnsight or numpy: pytest loads the plugin in
every project of the environment.
"""

from pytest_nnsight.errors import NnsightLeakWarning

__all__ = ["NnsightLeakWarning"]

__version__ = "0.1.0"
