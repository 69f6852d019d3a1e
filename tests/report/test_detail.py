"""The detail of a comparison: rows of modules, maps of token by layer, generated tokens."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from builders import (
    drifted,
    make_call,
    make_generation,
    make_pass,
    make_run,
    make_steps,
    make_summary,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.report.maps import (
    DRIFT_DECADES,
    MOST_TOKENS,
    NORM_DECADES,
    encode_map,
    token_maps,
)
from pytest_nnsight.report.modules import (
    drift_over_depth,
    json_number,
    module_rows,
    part_of,
    worst_modules,
)
from pytest_nnsight.report.record import build_detail
from pytest_nnsight.run import Prompt, Run
from pytest_nnsight.summary.packing import pack, read_norms, unpack

START = "model.layers.1.mlp.up_proj"


def detail_of(golden: Run, received: Run) -> dict[str, Any]:
    return build_detail(golden, received, compare(golden, received))


def rows_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    columns = found["modules"]
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return {row["path"]: row for row in rows}


def read_map(text: str, rows: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(rows, -1)


def test_rows_hold_the_state_and_statistics_of_modules() -> None:
    rows = rows_of(detail_of(make_pass(), drifted(START, 1e-2)))
    assert rows["model.embed_tokens"]["state"] == "same"
    assert rows["model.embed_tokens"]["now"] is None
    assert rows[START]["state"] == "drift"
    assert rows[START]["rel"] == pytest.approx(1e-2, rel=0.3)
    assert rows[START]["now"][4] != rows[START]["then"][4]
    assert rows[START]["part"] == "mlp"


def test_detail_is_strict_json() -> None:
    broken = make_run(make_call("h.0", make_summary(float("nan"))))
    found = detail_of(make_run(make_call("h.0")), broken)
    assert json.loads(json.dumps(found, allow_nan=False))["modules"]["rel"] == ["Infinity"]


def test_changed_structure_is_a_state() -> None:
    golden = make_run(make_call("h.0"), make_call("h.1"))
    rows = rows_of(detail_of(golden, make_run(make_call("h.0", output="(tensor,)"))))
    assert rows["h.0"]["state"] == "structure"
    assert rows["h.1"]["state"] == "structure"


def test_row_shows_the_worst_visit_of_a_module() -> None:
    before, now = make_steps(4), list(make_steps(4))
    now[2] = make_steps(4, 1e-3)[2]._replace()
    golden = make_generation(1, 2, 3, 4, calls=before)
    rows = rows_of(detail_of(golden, make_generation(1, 2, 3, 4, calls=tuple(now))))
    assert (rows["lm_head"]["visit"], rows["lm_head"]["visits"]) == (2, 4)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("transformer.h.0.attn.c_proj", "attention"),
        ("encoder.block.0.layer.0.SelfAttention.q", "attention"),
        ("model.layers.3.mlp.act_fn", "mlp"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", "mlp"),
        ("transformer.ln_f", "norm"),
        ("model.layers.0.input_layernorm", "norm"),
        ("bert.encoder.layer.0.attention.output.LayerNorm", "norm"),
        ("model.layers.0", "other"),
    ],
)
def test_part_of_a_module_follows_from_its_path(path: str, part: str) -> None:
    assert part_of(path) == part


def test_drift_over_depth_is_the_largest_of_each_group() -> None:
    golden, received = make_pass(layers=4), drifted(START, 1e-2, layers=4)
    rows = module_rows(golden, received, compare(golden, received))
    found = drift_over_depth(rows, bars=4)
    assert len(found) == 4
    assert found[0] == 0
    assert max(float(value or 0) for value in found) == json_number(max(row.rel for row in rows), 2)
    assert drift_over_depth([]) == []


def test_worst_modules_come_first_without_equal_ones() -> None:
    golden, received = make_pass(), drifted(START, 1e-2)
    rows = module_rows(golden, received, compare(golden, received))
    sizes = [float(call["rel"]) for call in worst_modules(rows)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5
    assert worst_modules(module_rows(golden, golden, compare(golden, golden))) == []


def test_map_has_a_row_for_each_layer_and_a_column_for_each_token() -> None:
    golden, received = make_pass(layers=3), drifted(START, 1e-2, layers=3)
    found = token_maps(golden, compare(golden, received))[0]
    assert found["rows"].count("model.layers.1") == 1
    assert not any(name.endswith("mlp") for name in found["rows"])
    drift = read_map(found["drift"], len(found["rows"]))
    assert drift.shape[1] == len(found["tokens"])
    assert not drift[found["rows"].index("model.layers.0")].any()
    assert drift[found["rows"].index("model.layers.1")].all()


def test_single_drifting_token_is_one_column() -> None:
    before = make_summary(shape=(1, 7, 64))
    numbers = unpack([(before.norms, before.sketch)])[1][0]
    numbers[3] *= 1.5
    _, sketch = pack(read_norms(before.norms)[None], numbers[None])[0]
    now = before._replace(sketch=sketch, digest="other")
    golden, received = make_run(make_call("h.0", before)), make_run(make_call("h.0", now))
    found = token_maps(golden, compare(golden, received))[0]
    assert np.flatnonzero(read_map(found["drift"], 1)[0]).tolist() == [3]


def test_map_of_many_tokens_joins_neighbours() -> None:
    long = make_summary(shape=(1, 600, 8))
    golden = make_run(make_call("h.0", long), prompt=Prompt("x", (tuple(range(600)),)))
    found = token_maps(golden)[0]
    assert found["each"] == 3
    assert len(found["tokens"]) == 200 <= MOST_TOKENS
    assert "drift" not in found


def test_bytes_of_a_map_encode_zero_nan_and_the_logarithm() -> None:
    low, high = DRIFT_DECADES
    numbers = np.array([0.0, np.nan, 10.0**low, 10.0**high, np.inf, 1e-30])
    found = np.frombuffer(base64.b64decode(encode_map(numbers, DRIFT_DECADES)), np.uint8)
    assert found.tolist() == [0, 255, 1, 254, 254, 1]


def test_detail_holds_generated_tokens_and_the_first_that_differs() -> None:
    golden = make_generation(1, 2, 3, margin=0.5, calls=make_steps(3))
    received = make_generation(1, 9, 3, margin=0.5, calls=make_steps(3))
    found = detail_of(golden, received)["generated"]
    assert [row["pieces"] for row in found["then"]] == [[" 1", " 2", " 3"]]
    assert found["then"][0]["margins"] == [0.5, 0.5, 0.5]
    assert (found["flip"]["step"], found["flip"]["then"], found["flip"]["now"]) == (
        1,
        "' 2'",
        "' 9'",
    )
    assert found["flip"]["is_near_tie"] is False


def test_golden_alone_has_norms_and_no_drift() -> None:
    found = build_detail(make_pass())
    assert found["now"] is None
    assert all(row["rel"] is None for row in rows_of(found).values())
    assert all("drift" not in each for each in found["maps"])
    assert found["prompt"] == "Hello"


def test_joined_neighbours_show_the_largest_norm() -> None:
    golden = make_run(make_call("h.0", make_summary(shape=(1, 600, 8))))
    norms = np.frombuffer(golden.calls[0].leaves[0].summary.norms, "<u2").astype("<u4") << 16
    largest = norms.view("<f4").reshape(200, 3).max(1)
    found = token_maps(golden)[0]
    assert found["norm"] == encode_map(largest.astype(float), NORM_DECADES)
