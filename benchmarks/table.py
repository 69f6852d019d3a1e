"""Format rows as aligned text."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.row import HEADER, Row

_WIDTHS = (74, 9, 11, 11, 8)


def heading() -> str:
    """Return the first line of the table."""
    return _line(HEADER)


def line(row: Row) -> str:
    """Return one row as a line."""
    return _line(row.cells)


def _line(cells: Iterable[str]) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(cell.rjust(width) for cell, width in others)
