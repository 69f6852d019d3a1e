"""Test the insides of a model: captures, goldens and a diagnosis of what drifted.

Importing this package imports no torch, transformers, nnsight or numpy: pytest loads the plugin
in every project it is installed for.
"""

__version__ = "0.1.0"
