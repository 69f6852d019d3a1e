"""What pytest-nnsight costs (``python -m benchmarks``) and finds (``benchmarks.faults``)."""
