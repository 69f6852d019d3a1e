"""Build a small model of every model type, and run it on a few tokens."""

from __future__ import annotations

import sys

import torch
import transformers

from pytest_nnsight.errors import NnsightPluginError, one_line
from pytest_nnsight.models.architectures import FAMILIES
from pytest_nnsight.models.shrink import language_models
from pytest_nnsight.models.tiny import build


def failures() -> dict[str, str]:
    """Return why each type cannot be built or run; an empty text if it can."""
    transformers.logging.set_verbosity_error()
    found = {}
    for model_type in sorted({*language_models()} - {*FAMILIES}):
        try:
            run(model_type)
            found[model_type] = ""
        except NnsightPluginError as error:
            found[model_type] = str(error)
        except Exception as error:
            found[model_type] = f"{type(error).__name__}: {one_line(error, 150)}"
        print(model_type, found[model_type], file=sys.stderr, flush=True)
    return found


def run(model_type: str) -> None:
    """Build the model and compute logits; raise if they are not finite."""
    model, _ = build(model_type, torch.float32, None)
    ids = torch.arange(5, 25)[None]
    keywords = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        keywords["decoder_input_ids"] = ids[:, :4]
    with torch.no_grad():
        if not model(**keywords)[0].isfinite().all():
            raise FloatingPointError("the logits are not finite")
