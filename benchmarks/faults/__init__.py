"""Faults planted in real models, and changes that are none: what each way of testing notices."""
