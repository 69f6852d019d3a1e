"""Judge the sessions and print one row for each architecture."""

from __future__ import annotations
def verdicts(types, results, planted): return {}
def page(x): return ""
