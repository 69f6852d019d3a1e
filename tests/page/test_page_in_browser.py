"""Use the page in a browser: read, filter, sort, click, use the keyboard, print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

Opened = Callable[..., Any]
STREAM, TEXT = "test_it.py::test_stream", "test_it.py::test_text"
START = "transformer.h.1.mlp.c_fc"


def link(test: str) -> str:
    return f"#session=0&test={quote(test)}"


def verdicts(page: Any) -> list[str]:
    return [
        text.split(" ", 1)[1] for text in page.locator("tr[data-test] .verdict").all_inner_texts()
    ]


def test_worst_test_is_first_and_open(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html")
    assert page.locator("h1").inner_text() == "5 tests: 1 crashed, 1 hung, 2 drift, 1 passed"
    assert verdicts(page) == ["crashed", "hung", "drift", "drift", "passed"]
    assert "segmentation fault" in page.locator("section[aria-label='One test'] pre").inner_text()


def test_link_opens_one_test_with_its_charts(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    assert START in page.locator("p.message").inner_text()
    chart = page.locator(".chart svg").first
    assert chart.get_attribute("aria-label") == f"Drift over depth: starts at {START}"
    for part in ("attention", "mlp", "norm", "other"):
        assert chart.locator(f"path.{part}").count() == 1
    assert chart.locator("path.allowed").count() == 1
    assert "starts here" in chart.locator("text.start").text_content()
    colours = page.evaluate(
        "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 20, 5).data]"
    )
    assert len({tuple(colours[i : i + 3]) for i in range(0, len(colours), 4)}) > 2


def test_tests_can_be_filtered_and_sorted(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html")
    page.locator("#filter").fill("c_fc")
    assert verdicts(page) == ["drift", "drift"]
    page.locator("#filter").fill("")
    page.locator("#verdict").select_option("hung")
    assert verdicts(page) == ["hung"]
    page.locator("#verdict").select_option("")
    page.locator("#sort").select_option("in order of execution")
    assert verdicts(page) == ["drift", "drift", "passed", "hung", "crashed"]


def test_click_on_the_chart_selects_the_module(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    chart = page.locator(".chart svg").first
    line = chart.locator("line.start")
    at = line.bounding_box()["x"] - chart.bounding_box()["x"]
    chart.click(position={"x": at + 1, "y": 60})
    assert page.locator("tr.here[data-path]").get_attribute("data-path") == START
    assert page.evaluate("document.activeElement.dataset.path") == START


def test_keyboard_moves_through_the_chart_and_the_map(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    slider = page.locator("input[type=range]")
    assert START in slider.get_attribute("aria-valuetext")
    slider.press("ArrowRight")
    assert "transformer.h.1.mlp.act" in slider.get_attribute("aria-valuetext")
    slider.press("Enter")
    assert (
        page.locator("tr.here[data-path]").get_attribute("data-path") == "transformer.h.1.mlp.act"
    )
    page.locator("canvas").first.press("ArrowDown")
    page.locator("canvas").first.press("ArrowRight")
    text = page.locator(".heat + output").first.inner_text()
    assert text.startswith("transformer.wpe, token 1 ")


def test_modules_can_be_filtered_and_sorted(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    rows = page.locator("tr[data-path]")
    assert rows.count() == 31
    page.get_by_label("only modules that drift").check()
    assert 5 < rows.count() < 20
    page.get_by_role("button", name="drift", exact=True).click()
    assert rows.first.get_attribute("data-path") == START
    assert page.locator("th[aria-sort='descending']").inner_text() == "drift"
    page.get_by_label("Filter modules").fill("lm_head")
    assert rows.count() == 1


def test_generated_text_is_shown_side_by_side(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(TEXT))
    sides = page.locator(".sides > div")
    assert sides.count() == 2
    report = json.loads((reports / "drift.json").read_text())
    test = next(test for test in report["tests"] if test["test"] == TEXT)
    divergence = test["goldens"][0]["detail"]["generated"]["flip"]
    if divergence is None:
        assert page.locator(".token.differs").count() == 0
    else:
        assert page.locator(".token.differs").count() == 2


def test_norms_of_the_golden_can_be_chosen(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    page.get_by_label("norms of the golden").check()
    assert "Norms, token by layer" in page.locator("h3").all_inner_texts()
    assert page.locator(".chart path.allowed").count() == 0


def test_session_without_drift_shows_norms(reports: Path, opened: Opened) -> None:
    page = opened(reports / "clean.html")
    assert page.locator("h1").inner_text() == "5 tests: 3 same, 2 passed"
    assert page.get_by_label("norms of the golden").is_checked()
    assert set(page.locator("tr[data-path] .verdict").all_inner_texts()) == {"= same"}


def test_module_tree_links_to_the_table(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    page.get_by_text("Module tree").click()
    page.get_by_label("show transformer.h.1.mlp in the table").evaluate("x => x.click()")
    assert page.locator("tr.here[data-path]").get_attribute("data-path") == "transformer.h.1.mlp"


def test_text_of_prompts_stays_text(reports: Path, opened: Opened) -> None:
    page = opened(
        reports / "clean.html", link("test_it.py::test_same[<img src=x onerror=alert(1)>]")
    )
    assert "<img src=x" in page.locator("h2").last.inner_text()
    assert page.locator("img").count() == 0
    page.goto(page.url.partition("#")[0] + link(STREAM))
    assert "<script>alert(1)</script>" in page.locator("main").inner_text()


def test_back_button_returns_to_the_previous_test(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM))
    page.get_by_role("link", name=TEXT).first.click()
    assert TEXT in page.locator("section[aria-label='One test'] h2").inner_text()
    page.go_back()
    assert STREAM in page.locator("section[aria-label='One test'] h2").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["drift.html", "clean.html", "grid.html"])
def test_labels_contrast_and_width(
    reports: Path, opened: Opened, name: str, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page = opened(reports / name, link(STREAM), **context)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    problems = [(each["id"], node["html"][:120]) for each in found for node in each["nodes"]]
    assert problems == []


def test_grid_links_to_each_test_under_each_version(reports: Path, opened: Opened) -> None:
    page = opened(reports / "grid.html")
    grid = page.locator("table.grid")
    assert grid.locator("thead th").all_inner_texts()[1:] == [
        "transformers==5.1",
        "transformers==5.2",
        "transformers==5.99",
    ]
    assert grid.locator("tbody tr").first.inner_text().split() == [
        *("the", "whole", "session"),
        *("\u2298", "not", "installed"),
    ]
    page.locator(f"table.grid a[href='{link(STREAM).replace('session=0', 'session=1')}']").click()
    assert page.locator("h2", has_text="transformers==5.2").count() == 1
    assert START in page.locator("p.message").inner_text()
    page.locator(f"table.grid a[href='{link(STREAM)}']").click()
    assert page.locator("h2", has_text="transformers==5.1").count() == 1
    assert page.locator("section[aria-label='One test'] .verdict").first.inner_text() == "= same"
    page.goto(page.url.partition("#")[0] + "#session=2")
    assert "no such version" in page.locator("p.message").inner_text()


def test_print_shows_everything_on_white(reports: Path, opened: Opened) -> None:
    page = opened(reports / "drift.html", link(STREAM), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".tools").first.is_hidden()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_verdicts_are_shown_without_javascript(reports: Path, browser: Any) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((reports / "drift.html").as_uri())
    items = page.locator("noscript li, main li").all_inner_texts()
    page.close()
    assert len(items) == 5
    assert any(re.search(rf"drift: {STREAM} golden drift: .*{START}", text) for text in items)
