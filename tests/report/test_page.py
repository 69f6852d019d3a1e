"""The page is one file, shows text as text, and stays below a megabyte."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import drifted, make_pass
from test_terminal import DRIFT, SAME, case, report_of

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.golden.document import decode
from pytest_nnsight.report import page
from pytest_nnsight.report.page import render_page
from pytest_nnsight.report.record import build_detail
from pytest_nnsight.run import Summary
from pytest_nnsight.summary.packing import pack, read_norms, unpack


def detailed(golden: dict[str, Any], start: str = "model.layers.1.mlp.up_proj") -> dict[str, Any]:
    before, now = make_pass(), drifted(start, 1e-2)
    return {**golden, "detail": build_detail(before, now, compare(before, now))}


def document(*tests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    more = {"versions": {"torch": "2.13.0"}, "models": ["gpt2"], "started": 0.0, "seconds": 3.0}
    return {**report_of(*tests), **more, **changes}


def view_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_verdict_is_the_title_and_the_heading() -> None:
    text = render_page(document(case("test_a", DRIFT), case("test_b", SAME)))
    assert "<title>2 tests: 1 drift, 1 same</title>" in text
    assert '<h1 id="headline">2 tests: 1 drift, 1 same</h1>' in text
    assert "1970-01-01 00:00 UTC" in text


def test_page_fetches_nothing_and_forbids_it() -> None:
    text = render_page(document(case("test_a", detailed(DRIFT))))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("evil", ["</script><script>alert(1)</script>", "<!--", "\u2028", "$title"])
def test_text_of_tests_stays_text(evil: str) -> None:
    clean = render_page(document(case("test_a", DRIFT)))
    text = render_page(document(case(f"test_{evil}", {**DRIFT, "line": evil}, text=evil)))
    assert text.count("<script") == clean.count("<script")
    assert text.count("<!--") == clean.count("<!--")
    assert view_of(text)["sessions"][0]["tests"][0]["text"] == evil


def test_details_that_do_not_fit_are_dropped_from_good_tests_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 30_000)
    tests = [case("same", detailed(SAME)), *(case(f"t{i}", detailed(DRIFT)) for i in range(9))]
    text = render_page(document(*tests))
    assert len(text) < 30_000 + 60_000  # styles and scripts
    goldens = [test["goldens"][0] for test in view_of(text)["sessions"][0]["tests"]]
    assert goldens[0]["left_out"]
    assert goldens[0]["detail"] is None
    assert goldens[1]["detail"] is not None
    assert goldens[-1]["left_out"]


def test_grid_by_version_shows_combinations_that_did_not_run() -> None:
    entries = [
        {"combination": ["a==1"], "label": "a==1", "worst": "drift", "failure": "", "results": []},
        {"combination": ["a==2"], "label": "a==2", "worst": "not installed", "results": []},
    ]
    entries[0]["report"] = document(case("test_a", DRIFT))
    entries[1] |= {"report": None, "failure": "cannot be installed: no such version"}
    text = render_page({"format": 1, "kind": "upgrade", "trials": entries})
    grid = view_of(text)["grid"]
    assert grid["columns"] == ["a==1", "a==2"]
    assert [row["name"] for row in grid["rows"]] == ["the whole session", "test_it.py::test_a"]
    assert grid["rows"][0]["cells"] == [
        None,
        {"session": 1, "test": None, "verdict": "not installed"},
    ]
    assert grid["rows"][1]["cells"][0]["verdict"] == "drift"
    assert "2 combinations: 1 test: 1 drift" in text


def test_grid_by_model() -> None:
    tests = [case(f"t[{m}]", {**SAME, "model": m}) for m in ("gpt2", "bert")]
    grid = view_of(render_page(document(*tests)))["grid"]
    assert grid["columns"] == ["gpt2", "bert"]
    assert [row["name"] for row in grid["rows"]] == ["test_it.py::t"]
    assert view_of(render_page(document(tests[0])))["grid"] is None


def test_page_of_a_golden_alone() -> None:
    text = render_page(
        {"kind": "golden", "golden": "test_a.json", "detail": build_detail(make_pass())}
    )
    assert "<title>trace of tiny:gpt2</title>" in text
    assert view_of(text)["is_golden"]


def test_name_of_a_model_stays_text() -> None:
    run = make_pass(model={"spec": "<b>&me"})
    text = render_page({"kind": "golden", "golden": "a.json", "detail": build_detail(run)})
    assert "<title>trace of &lt;b&gt;&amp;me</title>" in text
    assert "<b>" not in text


def test_headline_counts_collection_errors_and_tests_that_did_not_run() -> None:
    errors = [{"file": "test_b.py", "line": "SyntaxError"}]
    text = render_page(document(case("test_a", SAME), errors=errors, not_run=["test_c"]))
    assert "3 tests: 1 error, 1 not run, 1 same" in text


def changed(summary: Summary) -> Summary:
    """Return a summary in which every number differs."""
    if not summary.sketch or summary.mean is None or summary.std is None:
        return summary
    numbers = unpack([(summary.norms, summary.sketch)])[1] * 1.0012345
    norms, sketch = pack(read_norms(summary.norms)[None], numbers)[0]
    changes = {"mean": summary.mean * 1.01234, "std": summary.std * 1.01234, "digest": "other"}
    return summary._replace(norms=norms, sketch=sketch, **changes)


def test_ten_traces_of_the_trained_model_stay_below_a_megabyte() -> None:
    """Each with 256 tokens and 396 calls, all of which drift."""
    name = "tests/models/test_smollm2/test_every_module_on_256_tokens.json"
    text = (Path(__file__).parents[2] / "golden/smollm2/cpu-float32" / name).read_text()
    golden = decode(text, name)
    calls = tuple(
        call._replace(leaves=tuple(x._replace(summary=changed(x.summary)) for x in call.leaves))
        for call in golden.calls
    )
    received = replace(golden, calls=calls)
    comparison = compare(golden, received)
    record = {**DRIFT, "detail": build_detail(golden, received, comparison)}
    made = render_page(document(*(case(f"test_{i}", record) for i in range(10))))
    assert len(made.encode()) < 1_000_000
    goldens = [test["goldens"][0] for test in view_of(made)["sessions"][0]["tests"]]
    assert not any("left_out" in golden for golden in goldens)
    assert (
        sum(rel is not None and float(rel) > 0 for rel in record["detail"]["modules"]["rel"]) > 390
    )
