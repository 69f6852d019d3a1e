"""Run x run -> drifts. Neither torch nor pytest is needed."""
