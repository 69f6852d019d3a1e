"""Another first token of a decoder: its cause is the config, the prompt or the code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import CONFIG, NEWER, drifted, find, make_pass

from pytest_nnsight.compare.model_changes import changed_start_token
from pytest_nnsight.run import Prompt

IDS = "decoder_input_ids"
OTHER = "the model is given other decoder_input_ids"


def prompted(*first: int, text: str | None = "Hello", name: str = IDS) -> Prompt:
    return Prompt(text, ((1, 2, 3),), tensors={name: (first,)})


def config(**changes: int | None) -> dict[str, Any]:
    return {"config": {**CONFIG, **changes}}


@pytest.mark.parametrize(
    ("before", "now", "evidence"),
    [
        ({"decoder_start_token_id": 0}, {"decoder_start_token_id": 2}, "0 -> 2"),
        ({"decoder_start_token_id": None}, {"decoder_start_token_id": 2}, "None -> 2"),
        ({}, {"decoder_start_token_id": 2}, "None -> 2"),
    ],
)
def test_changed_start_token_of_the_config_has_the_cause_config(
    before: dict[str, Any], now: dict[str, Any], evidence: str
) -> None:
    golden = make_pass(prompt=prompted(0), model=config(**before))
    found = find(golden, drifted(prompt=prompted(2), model=config(**now)))
    assert (found.cause, found.is_certain) == ("config", True)
    assert found.evidence == f"decoder_start_token_id {evidence}"


def test_config_is_only_likely_if_the_test_gives_token_ids() -> None:
    """The test itself may have made the same change."""
    golden = make_pass(prompt=prompted(0, text=None), model=config(decoder_start_token_id=0))
    received = drifted(prompt=prompted(2, text=None), model=config(decoder_start_token_id=2))
    found = find(golden, received)
    assert (found.cause, found.is_certain) == ("config", False)


@pytest.mark.parametrize(
    ("before", "now", "keys"),
    [
        ((3,), (4,), (0, 2)),  # not the tokens of the config
        ((0, 5), (2, 6), (0, 2)),  # not only the first id differs
        ((0,), (2,), (0, 0)),  # the same config
        ((0,), (2, 2), (0, 2)),  # one id more
    ],
)
def test_other_decoder_ids_of_a_test_have_the_cause_prompt(
    before: tuple[int, ...], now: tuple[int, ...], keys: tuple[int, int]
) -> None:
    golden = make_pass(
        prompt=prompted(*before, text=None), model=config(decoder_start_token_id=keys[0])
    )
    received = drifted(
        prompt=prompted(*now, text=None), model=config(decoder_start_token_id=keys[1])
    )
    found = find(golden, received)
    assert (found.cause, found.evidence, found.is_certain) == ("prompt", OTHER, True)


def test_changed_start_token_with_the_same_config_is_likely_code() -> None:
    found = find(make_pass(prompt=prompted(0)), drifted(prompt=prompted(2), environment=NEWER))
    assert (found.cause, found.is_certain) == ("code", False)
    assert found.evidence.startswith(f"{OTHER}; ")


def test_other_tensors_of_a_dict_have_the_cause_prompt() -> None:
    golden = make_pass(prompt=prompted(0, text=None, name="token_type_ids"))
    found = find(golden, drifted(prompt=prompted(1, text=None, name="token_type_ids")))
    assert (found.cause, found.evidence) == ("prompt", "the model is given other token_type_ids")


def test_generation_config_comes_before_the_model_config() -> None:
    golden, received = make_pass(), make_pass()
    both = [
        replace(
            run,
            kind="generate",
            model=replace(
                run.model,
                config={"decoder": {"decoder_start_token_id": token}},
                generation={"decoder_start_token_id": token, "bos_token_id": 7},
            ),
        )
        for run, token in ((golden, 0), (received, 2))
    ]
    changed = changed_start_token(both[0], both[1], (0, 2))
    assert changed == ["generation decoder_start_token_id 0 -> 2"]
    assert changed_start_token(both[0], both[1], (0, 3)) == []
    traces = [replace(run, kind="trace") for run in both]
    changed = changed_start_token(traces[0], traces[1], (0, 2))
    assert changed == ["decoder.decoder_start_token_id 0 -> 2"]
