"""Drifts -> terminal (and, later, JSON and HTML)."""
