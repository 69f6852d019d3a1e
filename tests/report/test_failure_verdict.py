"""The first line of a failure: what differs, where it starts, its size, the cause."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from builders import (
    drifted,
    make_call,
    make_generation,
    make_pass,
    make_run,
    make_summary,
    normal,
    summarize,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.report.failure import (
    LONGEST_EVIDENCE,
    diagnose_finding,
    failure_lines,
    format_size,
)
from pytest_nnsight.run import Prompt, Run


def report(golden: Run, received: Run, **weights: dict[str, str]) -> list[str]:
    comparison = compare(golden, received)
    finding = Finding(
        "test.json", golden=golden, received=received, comparison=comparison, **weights
    )
    return failure_lines(
        finding, diagnose_finding(finding), "pytest --snapshot-update", detailed=True
    )


def drift_text(golden: Run, received: Run) -> str:
    """Return the size of the first drift as a report writes it."""
    return format_size(compare(golden, received).failures[0].rel)


def test_first_line_of_a_weights_drift() -> None:
    start = "model.layers.1.mlp.down_proj"
    before = {f"model.layers.{i}.mlp.down_proj.weight": "aa" for i in range(2)}
    now = {**before, f"{start}.weight": "bb"}
    received = drifted(start, model={"weights": "bbbb"})
    rel = drift_text(make_pass(), received)
    assert 5e-3 < float(rel) < 2e-2
    first = report(make_pass(), received, golden_weights=before, received_weights=now)[0]
    assert first == (
        f"golden drift: 7 of 27 calls, starts at {start} (rel {rel}, allowed 1e-5); "
        f"cause: weights (1 of 2 parameters differ: {start}.weight)"
    )


def test_first_line_of_a_start_in_the_code_of_a_module() -> None:
    received = drifted("model.layers.1.mlp.down_proj in.0")
    rel = drift_text(make_pass(), received)
    assert report(make_pass(), received)[0] == (
        "golden drift: 7 of 27 calls, starts in model.layers.1.mlp, before down_proj "
        f"(rel {rel}, allowed 1e-5); cause: code (same inputs, weights, config and "
        "versions: a patched module, a hook or an edit)"
    )


def test_first_line_of_a_start_in_the_code_of_a_layer() -> None:
    received = drifted("model.layers.1.post_attention_layernorm in.0")
    first = report(make_pass(), received)[0]
    assert "starts in model.layers.1, before post_attention_layernorm (rel " in first


def test_first_line_of_a_start_outside_of_the_captured_modules() -> None:
    def only_mlp(run: Run) -> Run:
        return replace(run, calls=tuple(c for c in run.calls if c.path.endswith(".mlp")))

    received = only_mlp(drifted("model.layers.0.self_attn.q_proj"))
    first = report(only_mlp(make_pass()), received)[0]
    assert "starts in <model>, before model.layers.0.mlp (rel " in first


def test_first_line_of_a_start_that_is_within_the_tolerance() -> None:
    def drift(time: int, label: str) -> float:
        return {"model.layers.0.mlp.act_fn": 6e-7, "lm_head": 1e-3}.get(label, 0.0)

    first = report(make_pass(), make_pass(drift))[0]
    assert re.fullmatch(
        r"golden drift: 2 of 27 calls, starts at model\.layers\.0\.mlp\.act_fn "
        r"\(rel [4-9](\.\d)?e-7, over 1e-5 from lm_head on\); cause: code \(same inputs, .*\)",
        first,
    )


def test_start_within_the_tolerance_names_the_first_drift_above_it() -> None:
    """Not another kind of failure that comes later, such as a renamed class."""

    def drift(time: int, label: str) -> float:
        return {"model.layers.0.mlp.act_fn": 6e-7, "model.norm": 1e-3}.get(label, 0.0)

    received = make_pass(drift)
    head = received.calls[-2]._replace(module_class="Head")
    received = replace(received, calls=(*received.calls[:-2], head, received.calls[-1]))
    assert ", over 1e-5 from model.norm on)" in report(make_pass(), received)[0]


def test_first_line_of_a_drift_of_one_token_names_it() -> None:
    """The drift over all tokens is within the tolerance."""
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 5] += 1.7e-5 * normal(64, seed=1)
    pieces = (("The", " Eiffel", " Tower", " was", " built", " over", " there"),)
    prompt = Prompt("The Eiffel Tower", (tuple(range(7)),), pieces)
    golden, received = (make_run(make_call(summary=summarize(z)), prompt=prompt) for z in (x, y))
    (drift,) = compare(golden, received).failures
    assert drift.distance.rms < 1e-5 < drift.distance.worst
    first = report(golden, received)[0]
    assert (
        f"h.0 (rel {format_size(drift.distance.worst)} at token 5 ' over', allowed 1e-5)" in first
    )


def test_first_line_of_a_likely_cause() -> None:
    received = drifted(size=5e-5, environment={"threads": 8})
    first = report(make_pass(), received)[0]
    assert first.endswith("; likely cause: numerics (threads 2 -> 8)")


def test_first_line_of_many_modules_that_start_a_drift() -> None:
    received = make_pass(lambda time, label: 1e-2 if label.endswith("norm") else 0.0)
    first = report(make_pass(), received)[0]
    assert "starts at model.layers.0.input_layernorm, 5 of 5 LlamaRMSNorm (rel " in first


def test_first_line_of_bits_that_should_be_equal() -> None:
    received = drifted(size=1e-7, is_exact=True)
    rel = drift_text(make_pass(), received)
    first = report(make_pass(), received)[0]
    assert first.startswith(
        "golden drift: bits differ, within tolerance: "
        f"19 of 27 calls, starts at model.layers.0.mlp.up_proj (rel {rel}, allowed 0); cause: code"
    )
    assert "within tolerance" not in report(make_pass(), drifted(is_exact=True))[0]


def test_first_line_of_a_new_nan() -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 3, 5] = math.nan
    golden, received = (make_run(make_call(summary=summarize(z))) for z in (x, y))
    lines = report(golden, received)
    assert "starts at h.0 (rel inf, allowed 1e-5); cause: code" in lines[0]
    assert lines[1] == "h.0: rel inf, 0 NaN, 0 Inf -> 1 NaN, 0 Inf"


def test_first_line_of_another_mask() -> None:
    prompts = [
        Prompt("Hello", ((1, 2, 3),), tensors={"attention_mask": ((first, 1, 1),)})
        for first in (1, 0)
    ]
    golden, received = (make_run(prompt=prompt) for prompt in prompts)
    assert report(golden, received)[0] == (
        "golden drift: attention_mask 3 values, at 0: 1 -> 3 values, at 0: 0; "
        "cause: mask (the model is given other attention_mask)"
    )


def test_first_line_of_an_added_call() -> None:
    run = make_run(make_call("h.0"), make_call("h.1"))
    golden = replace(run, calls=run.calls[:1])
    assert report(golden, run)[0] == (
        "golden drift: 1 of 2 calls, starts at h.1 (added absent -> tensor); "
        "cause: structure (same weights, config and versions)"
    )


def test_first_line_of_a_missing_call() -> None:
    golden = make_run(make_call("h.0"), make_call("h.1"))
    assert report(golden, make_run(make_call("h.0")))[0] == (
        "golden drift: 1 of 2 calls, starts at h.1 (missing tensor -> absent); "
        "cause: structure (same weights, config and versions)"
    )


def test_first_line_of_another_prompt() -> None:
    received = make_run(prompt=Prompt("Bye", ((1, 2),)))
    assert report(make_run(), received)[0] == (
        "golden drift: prompt 3 ids, at 2: 3 -> 2 ids, at 2: end; "
        "cause: prompt (the test asks for another prompt than the golden's)"
    )


def test_first_line_of_other_generated_ids() -> None:
    lines = report(make_generation(5, 6, margin=0.5), make_generation(5, 7, margin=0.5))
    assert lines[0] == (
        "golden drift: generated 2 ids, at 1: 6 -> 2 ids, at 1: 7; likely cause: code "
        "(step 1: ' 6' -> ' 7', though the logits agree: the token is selected differently)"
    )


def test_long_evidence_is_shortened() -> None:
    versions = {f"package{i}": "1" for i in range(40)}
    newer = dict.fromkeys(versions, "2")
    first = report(
        make_run(environment={"versions": versions}),
        make_run(make_call(output="(tensor,)"), environment={"versions": newer}),
    )[0]
    evidence = first.partition("cause: structure (")[2].removesuffix(")")
    assert len(evidence) == LONGEST_EVIDENCE
    assert evidence.endswith("...")


def test_first_line_of_a_renamed_output_is_short() -> None:
    before, now = (
        f"BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=tensor, {name}=DynamicCache)"
        for name in ("past_key_values", "cache")
    )
    assert report(make_run(make_call(output=before)), make_run(make_call(output=now)))[0] == (
        "golden structure changed, all values equal: 1 of 1 calls, starts at h.0 (container "
        "past_key_values -> cache); cause: structure (same weights, config and versions)"
    )


def test_a_long_container_is_shown_by_its_difference() -> None:
    before, now = (
        f"BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=tensor{more})"
        for more in (", hidden_states=None", "")
    )
    first = report(make_run(make_call(output=before)), make_run(make_call(output=now)))[0]
    assert "(container hidden_states=None -> absent)" in first


def test_values_within_the_tolerance_are_not_called_equal() -> None:
    other = make_call(summary=make_summary(1e-7), output="(tensor,)")
    first = report(make_run(make_call()), make_run(other))[0]
    assert first.startswith("golden structure changed, all values within tolerance: 1 of 1 calls, ")
