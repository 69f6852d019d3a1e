"""Render a report as one HTML page that needs no server, no network and no other file.

The page holds its data as JSON, which the scripts in `assets` draw. Text from goldens and tests
reaches the page only as text, never as HTML.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from time import gmtime, strftime
from typing import Any

from pytest_nnsight import __version__
from pytest_nnsight.report import outcomes
from pytest_nnsight.report.terminal import environment_changes, sparkline

MOST_BYTES = 880_000
"""The size that a page's details may have; the details of the best tests are dropped first."""

# The scripts in `assets`, in the order in which the page holds them.
_LIBRARIES = ("dom", "decode", "depth", "heat", "generated", "calls", "tree", "settings", "tests")
_GOLDEN = "golden"  # shown instead of a verdict where a golden was not compared
_IN_DETAIL = ("then", "now", "depth", "worst")  # the detail of a golden has them too
_TEXT_COLUMNS = ("path", "class", "part", "output", "shape", "state")
_ORDER = (_GOLDEN, *outcomes.VERDICTS)
_WHOLE = "the whole session"  # the row of the grid for sessions that failed
# Nothing in the JSON may end the script element that holds it.
_IN_SCRIPT = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
_EMPTY: dict[str, Any] = {"tests": [], "errors": [], "not_run": [], "versions": {}, "models": []}
View = dict[str, Any]


def render_page(document: dict[str, Any]) -> str:
    """Return the page of a session's report, of an upgrade's, or of a single golden."""
    view: View = {"grid": None, "is_golden": False, "order": _ORDER}
    views = {"report": _report_view, "upgrade": _upgrade_view, "golden": _golden_view}
    view |= views[document["kind"]](document)
    tests = [(session, test) for session in view["sessions"] for test in session["tests"]]
    goldens = [golden for _, test in tests for golden in test["goldens"]]
    view["words"] = _share_words(goldens)
    _drop_details(view, [test for _, test in tests], goldens)
    items = [
        f"{session['label']} {test['verdict']}: {test['test']} {test['message']}"
        for session, test in tests
    ]
    assets, scripts = files("pytest_nnsight.report") / "assets", (*_LIBRARIES, "page")
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(view["title"]),
        facts=html.escape(view["facts"]),
        version=__version__,
        style=(assets / "page.css").read_text(encoding="utf-8"),
        list="\n".join(f"<li>{html.escape(item.strip())}</li>" for item in items),
        report=_compact(view).translate(_IN_SCRIPT),
        script="\n".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in scripts),
    )


def pytest_html_extras(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return extras for pytest-html: each verdict as HTML, and each record as JSON."""
    from pytest_html import extras

    found = []
    for record in records:
        changes = ", ".join(environment_changes(record))
        lines = [record["verdict"], record.get("line", ""), changes]
        if record.get("depth"):
            lines.append(f"drift over depth {sparkline(record['depth'])}")
        text = "<br>".join(html.escape(line) for line in lines if line)
        found.append(extras.html(f"<p>{text}</p>"))
        found.append(extras.json(json.dumps(record, indent=1), name=f"nnsight {record['golden']}"))
    return found


def _report_view(report: dict[str, Any]) -> View:
    session = _session(report, "")
    view = {"title": _headline([session]), "facts": _facts(report)}
    return {**view, "sessions": [session], "grid": _grid_by_model(session)}


def _upgrade_view(document: dict[str, Any]) -> View:
    sessions = []
    for entry in document["trials"]:
        session = _session(entry["report"] or _EMPTY, entry["label"])
        sessions.append({**session, "failure": entry["failure"], "worst": entry["worst"]})
    reports = (entry["report"] for entry in document["trials"] if entry["report"])
    return {
        "title": f"{len(sessions)} combinations: {_headline(sessions)}",
        "facts": _facts(next(reports, _EMPTY)),
        "sessions": sessions,
        "grid": _grid_by_version(sessions),
    }


def _golden_view(document: dict[str, Any]) -> View:
    name, detail = document["golden"], document["detail"]
    golden = {"golden": name, "verdict": _GOLDEN, "detail": detail}
    empty = dict.fromkeys(("message", "text", "command", "hint"), "")
    test = {"test": name, "verdict": _GOLDEN, **empty, "goldens": [golden]}
    session = {
        "label": "",
        "failure": "",
        "tests": [test],
        "structure": [],
        "errors": [],
        "not_run": [],
    }
    title = f"{detail['kind']} of {detail['model']['spec']}"
    return {"title": title, "facts": name, "sessions": [session], "is_golden": True}


def _session(report: dict[str, Any], label: str) -> View:
    return {
        "label": label,
        "failure": "",
        "tests": [_test(test) for test in report["tests"]],
        "structure": outcomes.structural_changes(report),
        "errors": [f"{error['file']}: {error['line']}" for error in report["errors"]],
        "not_run": report["not_run"],
    }


def _test(test: dict[str, Any]) -> View:
    verdict, line = outcomes.verdict_of(test)
    goldens = [{k: v for k, v in g.items() if k not in _IN_DETAIL} for g in test["goldens"]]
    return {
        "test": test["test"],
        "verdict": verdict,
        "message": line,
        "seconds": test.get("seconds"),
        **{key: test.get(key, "") for key in ("text", "command", "hint")},
        "model": next((golden.get("model", "") for golden in goldens), ""),
        "goldens": goldens,
    }


def _headline(sessions: Sequence[View]) -> str:
    """Return the number of tests by verdict, the worst first: ``2 tests: 1 drift, 1 same``."""
    verdicts = [test["verdict"] for session in sessions for test in session["tests"]]
    for session in sessions:
        verdicts += [outcomes.ERROR] * len(session["errors"])
        verdicts += [outcomes.NOT_RUN] * len(session["not_run"])
    counts = ", ".join(f"{n} {verdict}" for verdict, n in outcomes.count_verdicts(verdicts).items())
    return f"{len(verdicts)} test{'s' * (len(verdicts) != 1)}: {counts or 'none ran'}"


def _facts(report: dict[str, Any]) -> str:
    """Return models, versions, date and duration of a session in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    day = strftime("%Y-%m-%d %H:%M UTC", gmtime(report["started"])) if "started" in report else ""
    seconds = f"{report['seconds']:.0f} s" if "seconds" in report else ""
    return " \u00b7 ".join(x for x in (", ".join(report["models"]), versions, day, seconds) if x)


def _grid_by_version(sessions: Sequence[View]) -> View:
    """Return a grid of tests by combination; failed sessions show in a row of their own."""
    columns: list[tuple[str, dict[str, View]]] = []
    for at, session in enumerate(sessions):
        cells = {test["test"]: _cell(test, at) for test in session["tests"]}
        if session["failure"]:
            cells[_WHOLE] = _cell({"test": None, "verdict": session["worst"]}, at)
        columns.append((session["label"], cells))
    names = dict.fromkeys(name for _, cells in columns for name in cells)
    return _grid("Tests by versions", sorted(names, key=lambda name: name != _WHOLE), columns)


def _grid_by_model(session: View) -> View | None:
    """Return a grid of tests by model, ``None`` for fewer than two models."""
    models: dict[str, dict[str, View]] = {}
    names: dict[str, None] = {}
    for test in session["tests"]:
        if model := test["model"]:
            name = test["test"].replace(f"[{model}]", "").replace(f"{model}-", "")
            name = name.replace(f"-{model}", "")
            names[name] = None
            models.setdefault(model, {})[name] = _cell(test, 0)
    if len(models) < 2:
        return None
    return _grid("Tests by models", names, [*models.items()])


def _cell(test: View, session: int) -> View:
    """Return the cell that links to a test of a session."""
    return {"session": session, "test": test["test"], "verdict": test["verdict"]}


def _grid(title: str, names: Iterable[str], columns: list[tuple[str, dict[str, View]]]) -> View:
    rows = [{"name": name, "cells": [cells.get(name) for _, cells in columns]} for name in names]
    return {"title": title, "columns": [label for label, _ in columns], "rows": rows}


def _share_words(goldens: Iterable[View]) -> list[str]:
    """Replace the texts of all modules by indices into the list that is returned.

    The modules of a model have the same names in each test; their texts were half of a page.
    """
    words: dict[str, int] = {}
    for golden in goldens:
        if golden.get("detail") is not None:
            columns = dict(golden["detail"]["modules"])
            for name in _TEXT_COLUMNS:
                columns[name] = [words.setdefault(word, len(words)) for word in columns[name]]
            golden["detail"] = {**golden["detail"], "modules": columns}
    return list(words)


def _drop_details(view: View, tests: Sequence[View], goldens: Sequence[View]) -> None:
    """Drop details until the page is small enough, those of good tests first.

    The text of a drift goes before its details, which say the same.
    """
    left = MOST_BYTES - _size(view) + sum(_size(golden.get("detail")) for golden in goldens)
    for test in tests if left < MOST_BYTES / 2 else ():
        if test["verdict"] in (outcomes.DRIFT, outcomes.STRUCTURE):
            left += _size(test["text"])
            test["text"] = ""
    for golden in sorted(goldens, key=lambda g: -_ORDER.index(g["verdict"])):
        size = _size(golden.get("detail"))
        if golden.get("detail") is not None and size > left:
            golden["detail"], golden["left_out"] = None, True
        else:
            left -= size


def _size(part: Any) -> int:
    return len(_compact(part).encode())


def _compact(part: Any) -> str:
    return json.dumps(part, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
