"""Test helpers that pytest wants declared at the root."""

pytest_plugins = ["pytester"]
