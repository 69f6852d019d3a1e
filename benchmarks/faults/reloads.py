"""Memory layout, loading and earlier runs: changes that no test should find."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.fault import benign
from benchmarks.faults.interventions import scaled
from benchmarks.faults.probe import SENTENCE, Probe
from benchmarks.faults.variant import Variant
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec

_CAUSAL = ("gpt2", "llama")


def change_weights(variant: Variant, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the memory layout of the matrices, and keep their values."""
    for parameter in variant.module.parameters():
        if parameter.ndim == 2:
            parameter.data = change(parameter.data)


def options(variant: Variant) -> LoadOptions:
    """Return the options that the clean model was loaded with."""
    return LoadOptions(dtype=str(variant.clean.dtype).removeprefix("torch."))


def load_saved(variant: Variant, **keywords: Any) -> None:
    """Save the model, load it with nnsight, and use that."""
    folder = tempfile.TemporaryDirectory()
    variant.on_exit(folder.cleanup)
    variant.module.save_pretrained(folder.name, **keywords)
    variant.tokenizer.save_pretrained(folder.name)
    variant.wrapped = load(parse_spec(f"saved={folder.name}"), options(variant), lambda text: None)


def probe_before(variant: Variant, probe: Probe) -> None:
    """Run another probe on the wrapped model first."""
    variant.prepare.append(
        lambda model: probe.of(Capture(model, lambda: identify(model, variant.spec)))
    )


@benign()
def another_seed(variant: Variant) -> None:
    """Seed torch with another number."""
    torch.manual_seed(1234)


@benign()
def garbage_collected(variant: Variant) -> None:
    """Collect garbage first."""
    gc.collect()


@benign()
def weights_in_column_order(variant: Variant) -> None:
    """Store matrices in column order."""
    change_weights(variant, lambda weight: weight.t().contiguous().t())


@benign()
def weights_in_every_other_place(variant: Variant) -> None:
    """Store matrices with gaps between the values."""
    change_weights(variant, lambda weight: weight.repeat_interleave(2, 1)[:, ::2])


@benign()
def weights_copied(variant: Variant) -> None:
    """Copy the weights to other memory."""
    for parameter in variant.module.parameters():
        parameter.data = torch.cat([parameter.data.flatten(), torch.zeros(3)])[:-3].view_as(
            parameter
        )


@benign()
def weights_in_shared_memory(variant: Variant) -> None:
    """Store the weights in shared memory."""
    change_weights(variant, lambda weight: weight.clone().share_memory_())


@benign()
def the_model_copied(variant: Variant) -> None:
    """Run a deep copy."""
    variant.module = copy.deepcopy(variant.module)


@benign()
def weights_that_need_no_gradient(variant: Variant) -> None:
    """Freeze the weights."""
    variant.module.requires_grad_(False)


@benign()
def a_tokenizer_copied(variant: Variant) -> None:
    """Use a copy of the tokenizer."""
    variant.tokenizer = copy.deepcopy(variant.tokenizer)


@benign()
def loaded_again(variant: Variant) -> None:
    """Load the model a second time."""
    variant.wrapped = load(variant.spec, options(variant), lambda text: None)


@benign()
def saved_and_loaded(variant: Variant) -> None:
    """Save the model to a folder and load it from there."""
    load_saved(variant)


@benign()
def saved_in_pieces_and_loaded(variant: Variant) -> None:
    """Save the model in several files and load it from there."""
    size = sum(p.nbytes for p in variant.clean.parameters())
    load_saved(variant, max_shard_size=size // 3)


@benign()
def pickled_and_loaded(variant: Variant) -> None:
    """Save and load the weights with ``torch.save``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(variant.module.state_dict(), path)
        state = torch.load(path, weights_only=True)
    variant.module.load_state_dict(state, assign=True, strict=False)
    variant.module.tie_weights()


@benign()
def hooks_that_only_look(variant: Variant) -> None:
    """Register torch hooks that return nothing on all modules."""
    for module in variant.module.modules():
        hook = module.register_forward_hook(lambda *_: None)
        variant.on_exit(hook.remove)


@benign()
def asked_twice(variant: Variant) -> None:
    """Run the same probe before."""
    probe_before(variant, variant.probe)


@benign(families=("gpt2", "llama", "t5"))
def an_intervention_before(variant: Variant) -> None:
    """Run the probe with an intervention before."""
    intervene = scaled(variant.roles.path("mlp middle"), 0.0)
    probe_before(variant, replace(variant.probe, intervene=intervene))


@benign(families=("gpt2", "llama", "t5"))
def sampled_before(variant: Variant) -> None:
    """Sample some text before."""
    probe_before(variant, Probe("before", "generate", SENTENCE, {"do_sample": True, "seed": 3}))


@benign(families=_CAUSAL)
def scanned_before(variant: Variant) -> None:
    """Let nnsight scan the model for shapes before."""

    def scan(model: Any) -> None:
        with model.scan(SENTENCE):
            pass

    variant.prepare.append(scan)
