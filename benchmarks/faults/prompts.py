"""Faults in the input: another prompt, another tokenizer, another chat template."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
from tokenizers import normalizers, processors

from benchmarks.faults.fault import fault
from benchmarks.faults.probe import Probe
from benchmarks.faults.variant import Variant

asked = functools.partial(fault, starts="prompt", causes="prompt")
tokenized = functools.partial(fault, starts="prompt", causes="tokenizer")
_CAUSAL = ("gpt2", "llama")


def as_ids(variant: Variant) -> Probe:
    """Use token ids instead of text."""
    return replace(
        variant.probe, prompt=torch.tensor([variant.tokenizer(variant.probe.prompt)["input_ids"]])
    )


def as_chat(variant: Variant) -> Probe:
    """Use chat messages, from which the template makes the prompt."""
    return replace(variant.probe, prompt=[{"role": "user", "content": variant.probe.prompt}])


def copy_tokenizer(variant: Variant) -> Any:
    """Copy the variant's tokenizer, and return its rules, which may be changed."""
    variant.tokenizer = copy.deepcopy(variant.tokenizer)
    return variant.tokenizer.backend_tokenizer


def change_template(variant: Variant, old: str, new: str) -> None:
    """Replace a piece of the chat template."""
    copy_tokenizer(variant)
    template = variant.tokenizer.chat_template
    assert old in template, f"{old} is not in {template}"
    variant.tokenizer.chat_template = template.replace(old, new)


def prepend_normalizer(rules: Any, normalizer: Any) -> None:
    """Normalise text before all other steps of the tokenizer."""
    rest = [rules.normalizer] if rules.normalizer is not None else []
    rules.normalizer = normalizers.Sequence([normalizer, *rest])


@asked(golden=as_ids)
def two_tokens_swapped(variant: Variant) -> None:
    """Swap two neighbouring tokens."""
    ids = variant.probe.prompt.clone()
    ids[0, [2, 3]] = ids[0, [3, 2]]
    variant.probe = replace(variant.probe, prompt=ids)


@asked(golden=as_ids)
def one_other_token(variant: Variant) -> None:
    """Replace one token by its neighbour in the vocabulary."""
    ids = variant.probe.prompt.clone()
    ids[0, -2] += 1
    variant.probe = replace(variant.probe, prompt=ids)


@asked(golden=as_ids)
def tokens_in_reverse(variant: Variant) -> None:
    """Reverse the prompt."""
    variant.probe = replace(variant.probe, prompt=variant.probe.prompt.flip(1))


@asked()
def one_more_space(variant: Variant) -> None:
    """End the prompt with a space and a full stop."""
    variant.probe = replace(variant.probe, prompt=variant.probe.prompt + " .")


@asked()
def a_shorter_prompt(variant: Variant) -> None:
    """Leave out the last word."""
    variant.probe = replace(variant.probe, prompt=variant.probe.prompt.rstrip().rpartition(" ")[0])


@tokenized()
def a_start_token_added(variant: Variant) -> None:
    """Put another special token before the prompt."""
    rules, token = copy_tokenizer(variant), variant.tokenizer.unk_token
    rules.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, variant.tokenizer.unk_token_id)]
    )


@tokenized()
def an_end_token_added(variant: Variant) -> None:
    """Put a special token after the prompt, and none before it."""
    rules, token = copy_tokenizer(variant), variant.tokenizer.pad_token
    rules.post_processor = processors.TemplateProcessing(
        single=f"$A {token}", special_tokens=[(token, variant.tokenizer.pad_token_id)]
    )


@tokenized(families=(*_CAUSAL, "t5"))
def text_in_lower_case(variant: Variant) -> None:
    """Normalise the text to lower case."""
    prepend_normalizer(copy_tokenizer(variant), normalizers.Lowercase())


@tokenized()
def another_normaliser(variant: Variant) -> None:
    """Replace one word before the text is cut into tokens."""
    prepend_normalizer(copy_tokenizer(variant), normalizers.Replace("the", "a"))


@tokenized(families=_CAUSAL)
def a_space_before_the_text(variant: Variant) -> None:
    """Add a space before the first word."""
    prepend_normalizer(copy_tokenizer(variant), normalizers.Prepend(" "))


@tokenized(families=("llama", "bert"))
def no_special_tokens(variant: Variant) -> None:
    """Leave out the special tokens; SmolLM2 adds none, so it gets one."""
    rules = copy_tokenizer(variant)
    if rules.post_processor is None or not rules.encode("a").special_tokens_mask[0]:
        token = variant.tokenizer.bos_token
        rules.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, variant.tokenizer.bos_token_id)]
        )
    else:
        rules.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])


@tokenized(golden=as_chat, families=_CAUSAL)
def no_turn_for_the_answer(variant: Variant) -> None:
    """Let the chat template leave out the beginning of the answer."""
    change_template(variant, "add_generation_prompt", "false")


@tokenized(golden=as_chat, families=_CAUSAL)
def a_role_of_another_name(variant: Variant) -> None:
    """Let the chat template write roles in capitals."""
    change_template(variant, "message['role']", "message['role'] | upper")


@tokenized(golden=as_chat, families=_CAUSAL)
def one_more_line_in_the_template(variant: Variant) -> None:
    """Let the chat template begin with an empty line."""
    copy_tokenizer(variant)
    variant.tokenizer.chat_template = "\n\n{{ '\n' }}" + variant.tokenizer.chat_template
