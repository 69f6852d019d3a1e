"""Workers that share what importing torch and transformers takes, forked from one process.

`nodes` is in the process that hands out tests. It starts `server`, which imports the libraries once
and forks, and lets pytest-xdist start `launcher` where it would start a Python. `staleness` is in
the worker: it tells whether a worker would have imported the same.
"""
