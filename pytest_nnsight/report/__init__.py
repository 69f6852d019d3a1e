"""Present the comparisons of a session: terminal, JSON, HTML page and CI annotations.

In: a `Finding` and its `Diagnosis`, or the report of a session as JSON.
Out: lines of text, records for the JSON report, one HTML page, Markdown.
Must not import: torch, pytest, the model; a report can be rendered anywhere.
"""
