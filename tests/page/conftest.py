"""Open the pages of real sessions in a browser: ``make test-page``.

Needs Debian's ``chromium`` and the extra ``page``; without them the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SESSION = """
import ctypes, os, time, pytest

@pytest.fixture(scope="session", autouse=True)
def changes(nnsight_model):
    if "CHANGE" in os.environ:
        nnsight_model._module.transformer.h[1].mlp.c_fc.weight.data[3, 5] += 0.5
    yield

def test_stream(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello <script>alert(1)</script>") == nnsight_golden

def test_text(nnsight_capture, nnsight_golden):
    assert nnsight_capture.generate("Once upon a time", max_new_tokens=8) == nnsight_golden

@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>"])
def test_same(nnsight_capture, nnsight_golden, text):
    if "CHANGE" not in os.environ:
        assert nnsight_capture.trace(text) == nnsight_golden

def test_hangs():
    if "CHANGE" in os.environ:
        time.sleep(60)

def test_crashes():
    if "CHANGE" in os.environ:
        ctypes.string_at(0)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests in this folder if there is no browser."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        reason = f"{error}; pip install 'pytest-nnsight[page]'"
    else:
        reason = "" if CHROMIUM else "there is no chromium on the path"
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def session(folder: Path, *arguments: str, **environ: str) -> None:
    """Run pytest on the tests in a folder."""
    command = [sys.executable, "-m", "pytest", "--nnsight-model=tiny:gpt2", *arguments]
    inherited = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST_")}
    more = {"HF_HUB_OFFLINE": "1", "PYTEST_NNSIGHT_LEAKS": "off", **environ}
    subprocess.run(command, cwd=folder, env=inherited | more, capture_output=True, check=False)


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of a session without drift, of one with drift, and of an upgrade."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "test_it.py").write_text(SESSION)
    session(folder, "--snapshot-update")
    session(folder, "--nnsight-report=clean.html")
    report = ("--nnsight-report=drift.html", "--nnsight-report=drift.json")
    session(folder, "--nnsight-timeout=5", *report, CHANGE="1")
    session(folder, "--nnsight-report=clean.json")
    (folder / "grid.json").write_text(json.dumps(grid_of(folder)))
    command = "from pytest_nnsight.cli import main; main()"
    made = [sys.executable, "-c", command, "report", "grid.json", "--html"]
    subprocess.run(made, cwd=folder, check=True)
    return folder


def grid_of(folder: Path) -> dict[str, Any]:
    """Return the report of `upgrade` for three combinations, one of them not installed."""

    def entry(number: int, worst: str, name: str = "", failure: str = "") -> dict[str, Any]:
        report = json.loads((folder / name).read_text()) if name else None
        label = f"transformers==5.{number}"
        found = {"combination": [label], "label": label, "worst": worst, "failure": failure}
        return {**found, "results": [], "report": report}

    entries = [entry(1, "same", "clean.json"), entry(2, "crashed", "drift.json")]
    entries.append(entry(99, "not installed", failure="cannot be installed: no such version"))
    return {"format": 1, "kind": "upgrade", "trials": entries}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages; fail if one logs an error, opens a dialog or requests another address."""
    problems: list[str] = []
    pages = []

    def open_page(path: Path, hash_: str = "", **context: Any) -> Any:
        page = browser.new_page(**context)
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
        page.on(
            "request", lambda r: None if r.url.startswith(path.as_uri()) else problems.append(r.url)
        )
        page.goto(path.as_uri() + hash_)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
