"""A report -> one HTML page that needs nothing else: no server, no network, no other file.

All that a page shows stands in it as JSON; scripts of `assets` draw it. What comes from goldens
and tests reaches the page as text only.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from string import Template
from time import gmtime, strftime
from typing import Any

from pytest_nnsight import __version__
from pytest_nnsight.report.outcomes import DRIFT, ERROR, NOT_RUN, STRUCTURE, VERDICTS, verdict_of

MOST_BYTES = 880_000
"""What the details on a page may take; those of the best tests are left out first."""

_SCRIPTS = (
    "dom",
    "decode",
    "depth",
    "heat",
    "generated",
    "calls",
    "tree",
    "settings",
    "tests",
    "page",
)
_RUN = "run"
_NOT_SHOWN = ("then", "now", "depth", "worst")  # which the details have
_TEXTS = ("path", "class", "part", "output", "shape", "state")
_ORDER = (_RUN, *VERDICTS)
View = dict[str, Any]


def page_of(document: dict[str, Any]) -> str:
    """Return the page of a session's report, of an upgrade's, or of one golden's."""
    view = _VIEWS[document["kind"]](document)
    view = {"grid": None, "is_run": False, "order": _ORDER, **view}
    view["words"] = _share_words(view)
    _leave_out(view)
    tests = [(trial, test) for trial in view["trials"] for test in trial["tests"]]
    items = [
        f"{trial['label']} {test['verdict']}: {test['test']} {test['said']}"
        for trial, test in tests
    ]
    assets = files("pytest_nnsight.report") / "assets"
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(view["title"]),
        facts=html.escape(view["facts"]),
        version=__version__,
        style=(assets / "page.css").read_text(encoding="utf-8"),
        list="\n".join(f"<li>{html.escape(item.strip())}</li>" for item in items),
        report=_inside_script(_compact(view)),
        script="\n".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS),
    )


def _inside_script(data: str) -> str:
    """Write JSON so that nothing in it can end the element that it stands in."""
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return data


def _of_session(report: dict[str, Any]) -> View:
    trial = _trial(report, report.get("title", ""))
    return {
        "title": _headline([trial]),
        "facts": _facts(report),
        "trials": [trial],
        "grid": _grid_of_models(trial),
    }


def _of_upgrade(document: dict[str, Any]) -> View:
    trials = []
    for each in document["trials"]:
        label = each.get("label") or ", ".join(each["combination"])
        trial = _trial(each["report"] or _EMPTY, label)
        trials.append({**trial, "failure": each["failure"], "worst": each["worst"]})
    first: dict[str, Any] = next((t["report"] for t in document["trials"] if t["report"]), _EMPTY)
    return {
        "title": f"{len(trials)} combinations: {_headline(trials)}",
        "facts": _facts(first),
        "trials": trials,
        "grid": _grid_of_trials(trials),
    }


def _of_golden(document: dict[str, Any]) -> View:
    golden = {"golden": document["golden"], "verdict": _RUN, "detail": document["detail"]}
    test = {
        "test": document["golden"],
        "verdict": _RUN,
        "said": "",
        "text": "",
        "command": "",
        "hint": "",
        "goldens": [golden],
    }
    trial = {"label": "", "failure": "", "tests": [test], "errors": [], "not_run": []}
    model = document["detail"]["model"]
    title = f"{document['detail']['kind']} of {model['spec']}"
    return {"title": title, "facts": document["golden"], "trials": [trial], "is_run": True}


_VIEWS: dict[str, Callable[[dict[str, Any]], View]] = {
    "report": _of_session,
    "upgrade": _of_upgrade,
    "golden": _of_golden,
}
_EMPTY: dict[str, Any] = {"tests": [], "errors": [], "not_run": [], "versions": {}, "models": []}


def _trial(report: dict[str, Any], label: str) -> View:
    return {
        "label": label,
        "failure": "",
        "tests": [_test(test) for test in report["tests"]],
        "errors": [f"{error['file']}: {error['line']}" for error in report["errors"]],
        "not_run": report["not_run"],
    }


def _test(test: dict[str, Any]) -> View:
    verdict, line = verdict_of(test)
    goldens = [{k: v for k, v in g.items() if k not in _NOT_SHOWN} for g in test["goldens"]]
    return {
        "test": test["test"],
        "verdict": verdict,
        "said": line,
        "seconds": test.get("seconds"),
        "text": test.get("text", ""),
        "command": test.get("command", ""),
        "hint": test.get("hint", ""),
        "model": next((golden.get("model", "") for golden in goldens), ""),
        "goldens": goldens,
    }


def _headline(trials: Sequence[View]) -> str:
    """Say in one line what all tests came to, the worst first."""
    found = Counter(test["verdict"] for trial in trials for test in trial["tests"])
    found[ERROR] += sum(len(trial["errors"]) for trial in trials)
    found[NOT_RUN] += sum(len(trial["not_run"]) for trial in trials)
    told = [f"{found[verdict]} {verdict}" for verdict in reversed(VERDICTS) if found[verdict]]
    return f"{found.total()} test{'s' * (found.total() != 1)}: {', '.join(told) or 'none ran'}"


def _facts(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    day = strftime("%Y-%m-%d %H:%M UTC", gmtime(report["started"])) if "started" in report else ""
    took = f"{report['seconds']:.0f} s" if "seconds" in report else ""
    return " \u00b7 ".join(x for x in (", ".join(report["models"]), versions, day, took) if x)


def _grid_of_trials(trials: Sequence[View]) -> View:
    """Return tests by combinations; one that has no results has its failure in a row of its own."""
    names = dict.fromkeys(test["test"] for trial in trials for test in trial["tests"])
    found = [{test["test"]: test for test in trial["tests"]} for trial in trials]
    rows = [
        {
            "name": name,
            "cells": [
                {"trial": at, "test": name, "verdict": tests[name]["verdict"]}
                if name in tests
                else None
                for at, tests in enumerate(found)
            ],
        }
        for name in names
    ]
    if any(trial["failure"] for trial in trials):
        cells = [
            {"trial": at, "test": None, "verdict": trial["worst"]} if trial["failure"] else None
            for at, trial in enumerate(trials)
        ]
        rows.insert(0, {"name": "the run itself", "cells": cells})
    return {
        "title": "Tests by versions",
        "columns": [trial["label"] for trial in trials],
        "rows": rows,
    }


def _grid_of_models(trial: View) -> View | None:
    """Return tests by models, where there are several."""
    models = [*dict.fromkeys(test["model"] for test in trial["tests"] if test["model"])]
    if len(models) < 2:
        return None
    rows: dict[str, dict[str, View]] = {}
    for test in trial["tests"]:
        if test["model"]:
            name = test["test"].replace(f"[{test['model']}]", "").replace(f"{test['model']}-", "")
            rows.setdefault(name.replace(f"-{test['model']}", ""), {})[test["model"]] = test
    return {
        "title": "Tests by models",
        "columns": models,
        "rows": [
            {"name": name, "cells": [_cell(cells.get(model)) for model in models]}
            for name, cells in rows.items()
        ],
    }


def _cell(test: View | None) -> View | None:
    return None if test is None else {"trial": 0, "test": test["test"], "verdict": test["verdict"]}


def _share_words(view: View) -> list[str]:
    """Write the texts of all modules as numbers, and return what the numbers stand for.

    The names of a model's modules are the same in each of its tests, and half of the details.
    """
    words: dict[str, int] = {}

    def numbered(column: list[str]) -> list[int]:
        return [words.setdefault(word, len(words)) for word in column]

    for golden in (
        g for trial in view["trials"] for test in trial["tests"] for g in test["goldens"]
    ):
        if golden.get("detail") is not None:
            modules = golden["detail"]["modules"]
            shared = {name: numbered(modules[name]) for name in _TEXTS}
            golden["detail"] = {**golden["detail"], "modules": {**modules, **shared}}
    return list(words)


def _leave_out(view: View) -> None:
    """Drop what a page can do without until the rest fits, of the good tests first.

    What pytest said of a drift goes before its details, which say the same.
    """
    tests = [test for trial in view["trials"] for test in trial["tests"]]
    goldens = [golden for test in tests for golden in test["goldens"]]
    left = MOST_BYTES - _bytes(view) + sum(_bytes(golden.get("detail")) for golden in goldens)
    for test in tests if left < MOST_BYTES / 2 else ():
        if test["verdict"] in (DRIFT, STRUCTURE):
            left += _bytes(test["text"])
            test["text"] = ""
    for golden in sorted(goldens, key=lambda g: -_ORDER.index(g["verdict"])):
        length = _bytes(golden.get("detail"))
        if golden.get("detail") is not None and length > left:
            golden["detail"], golden["left_out"] = None, True
        else:
            left -= length


def _bytes(part: Any) -> int:
    return len(_compact(part).encode())


def _compact(part: Any) -> str:
    return json.dumps(part, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
