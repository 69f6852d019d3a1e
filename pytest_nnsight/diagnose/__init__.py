"""Drifts -> where they start and why. Neither torch nor pytest is needed."""
