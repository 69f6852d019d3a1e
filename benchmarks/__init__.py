"""Measure what pytest-nnsight costs, and in `benchmarks.faults` what it finds."""
