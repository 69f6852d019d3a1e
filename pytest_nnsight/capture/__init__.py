"""Run ``trace`` and ``generate`` through nnsight and return a `Run`."""
