"""Format results as tables: a row for each strategy, then misses, alarms and wrong names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.faults.bench import OURS, OURS_WITH_BITS
from benchmarks.faults.result import Result, Results

_COLUMNS = ("strategy", "found", "first module right", "cause right", "wrong, certain")
_MORE = ("false alarms", "bytes a module")


def report(results: Results, line: float) -> str:
    """Return all tables as text."""
    faults, benign = results.above(line), [r for r in results.benign if not r.error]
    parts = [
        heading(results, line),
        strategy_table(faults, benign),
        model_table(faults, benign),
        *results.curves,
        *listings(results, faults, benign, line),
    ]
    return "\n\n".join(part for part in parts if part)


def heading(results: Results, line: float) -> str:
    """Say how many faults and changes were tried."""
    names = {result.name for result in results.faults}
    harmless = {result.name.removesuffix(", the other way round") for result in results.benign}
    return (
        f"{len(names)} faults in {len(results.faults)} cases, "
        f"{len(results.below(line))} of them below {line:g} in every token and not counted; "
        f"{len(harmless)} benign changes in {len(results.benign)} cases"
    )


def strategy_table(faults: Sequence[Result], benign: Sequence[Result]) -> str:
    """Return one row for each strategy."""
    rows = [(*_COLUMNS, *_MORE)]
    for name in dict.fromkeys(key for result in (*faults, *benign) for key in result.verdicts):
        judged = [r for r in faults if r.verdicts[name] is not None]
        found = [r for r in judged if _found(r, name)]
        right = [r for r in found if _named(r, name) in r.starts]
        names_any = any(_named(r, name) for r in found)
        alarms = [r for r in benign if r.verdicts[name] is not None]
        size = sum(r.bytes_a_module[name] for r in judged) / max(1, len(judged))
        rows.append(
            (
                name,
                f"{len(found)} of {len(judged)}",
                f"{len(right)} of {len(judged)}" if names_any else "-",
                *_cause_columns(name, judged, found),
                f"{sum(_found(r, name) for r in alarms)} of {len(alarms)}",
                f"{size:,.0f}" if size >= 1 else f"{size:.1g}",
            )
        )
    return aligned(rows)


def _cause_columns(name: str, judged: Sequence[Result], found: Sequence[Result]) -> tuple[str, str]:
    if name not in (OURS, OURS_WITH_BITS):
        return "-", "-"
    right = sum(r.is_cause_right for r in found)
    wrong = sum(r.cause is not None and not r.is_cause_right and r.is_certain for r in found)
    return f"{right} of {len(judged)}", str(wrong)


def model_table(faults: Sequence[Result], benign: Sequence[Result]) -> str:
    """Return our own row for each model."""
    rows = [("ours, by model", "found", "first module right", "cause right", "false alarms")]
    for model in dict.fromkeys(result.model for result in faults):
        cases = [r for r in faults if r.model == model]
        harmless = [r for r in benign if r.model == model]
        found = [r for r in cases if _found(r, OURS)]
        rows.append(
            (
                model,
                f"{len(found)} of {len(cases)}",
                f"{sum(r.where in r.starts for r in found)} of {len(cases)}",
                f"{sum(r.is_cause_right for r in found)} of {len(cases)}",
                f"{sum(_found(r, OURS) for r in harmless)} of {len(harmless)}",
            )
        )
    return aligned(rows)


def listings(
    results: Results, faults: Sequence[Result], benign: Sequence[Result], line: float
) -> list[str]:
    """Return the misses, alarms, wrong answers and errors, by name."""
    found = [r for r in faults if _found(r, OURS)]
    return [
        by_name("missed by ours", [r for r in faults if not _found(r, OURS)], _size),
        by_name(
            "missed even with bits", [r for r in faults if not _found(r, OURS_WITH_BITS)], _size
        ),
        by_name("alarms of ours", [r for r in benign if _found(r, OURS)], _answer),
        by_name(
            "alarms of ours by bits alone",
            [r for r in benign if _found(r, OURS_WITH_BITS) and not _found(r, OURS)],
            lambda r: f"first {r.first_differing}",
        ),
        by_name(
            "another module named by ours", [r for r in found if r.where not in r.starts], _location
        ),
        by_name("another cause named by ours", [r for r in found if not r.is_cause_right], _cause),
        by_name(f"below the line of {line:g}, not counted", results.below(line), _size),
        by_name("raised", results.broken, lambda r: r.error.splitlines()[0]),
        "\n".join(results.notes),
    ]


def by_name(
    title: str, results: Sequence[Result], detail: Callable[[Result], str], most: int = 3
) -> str:
    """List cases, one line for each name, with the details of the first few."""
    if not results:
        return ""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.name, []).append(result)
    lines = [f"{title}: {len(groups)} by name, {len(results)} cases"]
    for name, group in groups.items():
        shown = "; ".join(f"{r.case}: {detail(r)}" for r in group[:most])
        rest = f"; and {len(group) - most} more" if len(group) > most else ""
        lines.append(f"  {name} | {shown}{rest}")
    return "\n".join(lines)


def _found(result: Result, strategy: str) -> bool:
    verdict = result.verdicts[strategy]
    return verdict is not None and verdict[0]


def _named(result: Result, strategy: str) -> str | None:
    verdict = result.verdicts[strategy]
    return None if verdict is None else verdict[1]


def _size(result: Result) -> str:
    return f"size {result.size:.1e}, seen {result.noise:.1e}"


def _answer(result: Result) -> str:
    return f"size {result.size:.1e}, {result.where}, {result.cause} ({result.evidence})"


def _location(result: Result) -> str:
    return f"{result.where}, truly {' or '.join(result.starts)}"


def _cause(result: Result) -> str:
    sure = "" if result.is_certain else "perhaps "
    return f"{sure}{result.cause}, truly {' or '.join(result.causes)}"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return rows with aligned columns: the first one left, the others right."""
    table = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
