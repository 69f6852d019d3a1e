"""Hangs and crashes are kept in a worker: the runner always ends, and names what did not run."""
