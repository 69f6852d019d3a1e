"""Turn tensors into summaries, and weights into fingerprints.

In: tensors on any device. Out: `run.Summary` records, packed norms and sketches, digests. Must not
import pytest or nnsight; `packing` must not import torch either, since goldens are read without.
"""
