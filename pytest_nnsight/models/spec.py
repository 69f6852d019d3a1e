"""Parse model specs and load options; without torch, so that a wrong option fails fast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.models.architectures import FAMILIES
from pytest_nnsight.models.placement import parse_map

BUILT_INS = tuple(f"tiny:{family}" for family in FAMILIES)
DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: ``name`` is the name of its golden folder, ``source`` is what is loaded.

    ``kind`` is ``built-in``, ``directory``, ``gguf`` or ``hub``. The source of a built-in model is
    ``tiny:`` and a model type, or the path of a folder, which then has a slash.
    """

    name: str
    source: str
    kind: str
    revision: str | None = None

    @property
    def public(self) -> str:
        """The spec as it is written to files: of a local path only the last part."""
        if self.kind in ("directory", "gguf"):
            return Path(self.source).resolve().name
        if self.kind == "built-in" and "/" in self.source:
            return f"tiny:{Path(self.source.removeprefix('tiny:')).resolve().name}"
        return self.source


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded; tests share a model if its spec and options are equal."""

    device_map: str = "auto"
    dtype: str = "auto"
    attn: str | None = None
    trust_remote_code: bool = False
    is_remote: bool = False
    """The model runs on a server; only its modules are here, without weights."""

    def __post_init__(self) -> None:
        parse_map(self.device_map)
        if self.dtype not in DTYPES:
            raise UsageError(
                f"dtype {self.dtype!r} is unknown; nearest: {suggest(self.dtype, DTYPES)}"
            )
        if self.attn is not None and self.attn not in ATTENTIONS:
            raise UsageError(
                f"attention {self.attn!r} is unknown; nearest: {suggest(self.attn, ATTENTIONS)}"
            )


def parse_spec(text: str) -> ModelSpec:
    """Parse ``[NAME=]SPEC``; raise `UsageError` if it is wrong in a way that needs no loading."""
    name, separator, source = text.partition("=")
    if not separator:
        name, source = "", text
    elif not name or name in (".", "..") or re.search(r'[\\/:*?"<>|\s]', name):
        raise UsageError(
            f"model name {name!r} in {text!r} cannot be a folder; give NAME=SPEC, "
            "with a name of letters, digits and -_."
        )
    if not source.strip():
        raise UsageError(f"model spec {text!r} is empty; try {', '.join(BUILT_INS)} or a hub id")
    return _classify(name, source.strip())


def _classify(name: str, source: str) -> ModelSpec:
    if source.startswith("tiny:"):
        return _classify_tiny(name, source)
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise UsageError(f"there is no file {source}; give the path of a .gguf file")
        return ModelSpec(name or path.stem, str(path), "gguf")
    if path.is_dir():
        _check_config(path, source)
        return ModelSpec(name or path.resolve().name, str(path), "directory")
    if source.startswith((".", "/", "~")) or source.partition("@")[0].count("/") > 1:
        raise UsageError(
            f"there is no folder {source}; give a model folder, a hub id or a built-in"
        )
    if not _HUB_ID.fullmatch(source):
        raise UsageError(
            f"{source!r} is not a model spec; give a hub id (gpt2, owner/name@revision), "
            f"a folder, a .gguf file or one of {', '.join(BUILT_INS)}"
        )
    repository, _, revision = source.partition("@")
    return ModelSpec(name or repository.replace("/", "--"), repository, "hub", revision or None)


def _classify_tiny(name: str, source: str) -> ModelSpec:
    """Parse ``tiny:TYPE`` or ``tiny:PATH``."""
    rest = source.removeprefix("tiny:")
    path = Path(rest).expanduser()
    if "/" in rest or (rest and path.is_dir() and source not in BUILT_INS):
        if not path.is_dir():
            raise UsageError(f"there is no folder {rest}; give tiny:TYPE or tiny:FOLDER")
        _check_config(path, rest)
        folder = path.resolve()
        return ModelSpec(name or f"tiny-{folder.name}", f"tiny:{folder}", "built-in")
    if source not in BUILT_INS and source not in (types := _model_types()):
        raise UsageError(
            f"there is no built-in model {source!r}; nearest: {suggest(source, types)}"
        )
    return ModelSpec(name or source.replace(":", "-"), source, "built-in")


def _model_types() -> list[str]:
    """Return ``tiny:TYPE`` for each type in the source of transformers, whose import is slow."""
    found = find_spec("transformers")
    root = Path(found.origin).parent if found and found.origin else Path()
    files = root.glob("models/auto/*auto*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    types = re.findall(r'"([\w.-]+)"[,:] "\w+Config"', text)
    return [*dict.fromkeys([*BUILT_INS, *(f"tiny:{name}" for name in sorted(types))])]


def _check_config(folder: Path, source: str) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give a folder that save_pretrained wrote")
