"""Test helpers that pytest wants declared at the root."""

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

# The same examples in every run of CI: it says whether a change is right, not whether luck is.
settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
