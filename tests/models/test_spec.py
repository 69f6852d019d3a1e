"""Parsing of model specs and load options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.models.spec import BUILT_INS, DTYPES, LoadOptions, ModelSpec, parse_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with ``saved/`` (a model), ``empty/`` and ``file.gguf``, and enter it."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.Q4_K.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", BUILT_INS)
def test_built_in(source: str) -> None:
    assert parse_spec(source) == ModelSpec(source.replace(":", "-"), source, "built-in")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", ModelSpec("gpt2", "gpt2", "hub")),
        (" gpt2 ", ModelSpec("gpt2", "gpt2", "hub")),
        ("gpt2@main", ModelSpec("gpt2", "gpt2", "hub", "main")),
        ("owner/Name-1.5_b", ModelSpec("owner--Name-1.5_b", "owner/Name-1.5_b", "hub")),
        ("owner/name@1f2e3d", ModelSpec("owner--name", "owner/name", "hub", "1f2e3d")),
    ],
)
def test_hub_id(text: str, expected: ModelSpec) -> None:
    assert parse_spec(text) == expected


def test_folder(folder: Path) -> None:
    for text in ("saved", "./saved", "saved/", str(folder / "saved")):
        spec = parse_spec(text)
        assert (spec.name, spec.kind, spec.revision) == ("saved", "directory", None)
        assert Path(spec.source).samefile(folder / "saved")


def test_gguf_file(folder: Path) -> None:
    spec = parse_spec(str(folder / "file.Q4_K.gguf"))
    assert (spec.name, spec.kind) == ("file.Q4_K", "gguf")


def test_folder_of_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert parse_spec("~/saved") == ModelSpec("saved", str(folder / "saved"), "directory")


@pytest.mark.parametrize(
    ("text", "name", "source", "kind"),
    [
        ("base=gpt2", "base", "gpt2", "hub"),
        ("a.b-c_1= gpt2", "a.b-c_1", "gpt2", "hub"),
        ("mine=tiny:t5", "mine", "tiny:t5", "built-in"),
        ("mine=saved", "mine", "saved", "directory"),
        ("mine=file.Q4_K.gguf", "mine", "file.Q4_K.gguf", "gguf"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_named_model(text: str, name: str, source: str, kind: str) -> None:
    assert parse_spec(text) == ModelSpec(name, source, kind)


def test_folder_with_an_equals_sign_needs_a_name(folder: Path) -> None:
    (folder / "saved").rename(folder / "lr=3")
    spec = parse_spec("mine=lr=3")
    assert (spec.name, spec.source, spec.kind) == ("mine", "lr=3", "directory")


@pytest.mark.parametrize("text", ["saved", "./saved", "mine=saved", "saved/", "file.Q4_K.gguf"])
def test_local_path_never_leaks(folder: Path, text: str) -> None:
    name, separator, source = text.rpartition("=")
    spec = parse_spec(f"{name}{separator}{folder / source}")
    assert spec.public in ("saved", "file.Q4_K.gguf")
    assert str(folder) not in f"{spec.public} {spec.name}"


def test_small_model_of_a_type_or_a_folder(folder: Path) -> None:
    assert parse_spec("tiny:qwen3") == ModelSpec("tiny-qwen3", "tiny:qwen3", "built-in")
    for text in ("tiny:saved", "tiny:./saved", f"tiny:{folder / 'saved'}"):
        spec = parse_spec(text)
        assert spec == ModelSpec("tiny-saved", f"tiny:{folder.resolve() / 'saved'}", "built-in")
        assert spec.public == "tiny:saved"


def test_parsing_does_not_import_torch() -> None:
    code = (
        "import sys; from pytest_nnsight.models.spec import parse_spec; parse_spec('tiny:qwen3'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_other_specs_are_public_as_they_are() -> None:
    assert parse_spec("owner/name@main").public == "owner/name"
    assert parse_spec("mine=tiny:gpt2").public == "tiny:gpt2"


WRONG = {
    "tiny:gtp2": "there is no built-in model 'tiny:gtp2'; nearest: tiny:gpt2",
    "tiny:lama": "there is no built-in model 'tiny:lama'; nearest: tiny:llama",
    "tiny:qwen33": "there is no built-in model 'tiny:qwen33'; nearest: tiny:qwen3",
    "x=tiny:": "there is no built-in model 'tiny:'; nearest: tiny:",
    "tiny:./nowhere": "there is no folder ./nowhere; give tiny:TYPE or tiny:FOLDER",
    "tiny:empty": "empty holds no config.json; give a folder that save_pretrained wrote",
    "": "model spec '' is empty; try tiny:gpt2, ",
    "   ": "model spec '   ' is empty; try tiny:gpt2, ",
    "x=": "model spec 'x=' is empty; try tiny:gpt2, ",
    "x= ": "model spec 'x= ' is empty; try tiny:gpt2, ",
    "=gpt2": "model name '' in '=gpt2' cannot be a folder; give NAME=SPEC, ",
    "..=gpt2": "model name '..' in '..=gpt2' cannot be a folder; give NAME=SPEC, ",
    "a/b=gpt2": "model name 'a/b' in 'a/b=gpt2' cannot be a folder; give NAME=SPEC, ",
    "a\\b=gpt2": "model name 'a\\\\b' in 'a\\\\b=gpt2' cannot be a folder; give NAME=SPEC, ",
    "a b=gpt2": "model name 'a b' in 'a b=gpt2' cannot be a folder; give NAME=SPEC, ",
    "a:b=gpt2": "model name 'a:b' in 'a:b=gpt2' cannot be a folder; give NAME=SPEC, ",
    "./nowhere": "there is no folder ./nowhere; give a model folder, a hub id or a built-in",
    "/no/where": "there is no folder /no/where; give a model folder, a hub id or a built-in",
    "~/nowhere": "there is no folder ~/nowhere; give a model folder, a hub id or a built-in",
    "no/where/else": "there is no folder no/where/else; give a model folder, a hub id",
    "empty": "empty holds no config.json; give a folder that save_pretrained wrote",
    "nowhere.gguf": "there is no file nowhere.gguf; give the path of a .gguf file",
    "my model": "'my model' is not a model spec; give a hub id (gpt2, owner/name@revision), ",
    "gpt2@": "'gpt2@' is not a model spec; give a hub id",
    "@main": "'@main' is not a model spec; give a hub id",
    "a=b=c": "'b=c' is not a model spec; give a hub id",
    "gpt2:main": "'gpt2:main' is not a model spec; give a hub id",
}


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.usefixtures("folder")
def test_wrong_spec(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert str(caught.value).startswith(WRONG[text])


@pytest.mark.parametrize("dtype", DTYPES)
def test_known_dtype(dtype: str) -> None:
    assert LoadOptions(dtype=dtype).dtype == dtype


def test_unknown_dtype_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^dtype 'float31' is unknown; nearest: float32"):
        LoadOptions(dtype="float31")


def test_unknown_attention_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^attention 'spda' is unknown; nearest: sdpa"):
        LoadOptions(attn="spda")


def test_equal_options_share_a_model() -> None:
    assert LoadOptions(dtype="float32") == LoadOptions(dtype="float32") != LoadOptions()
    assert len({LoadOptions(), LoadOptions()}) == 1
