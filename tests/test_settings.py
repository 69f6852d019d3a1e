"""Options are read from the command line, else the environment, else ini, else the default."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import MARKER_KEYS, OPTIONS, Option
from pytest_nnsight.settings import Settings, golden_root, read_settings

# option: default, then the text in ini, environment and command line, each with its parsed value
CASES: dict[str, tuple[Any, tuple[str, Any], tuple[str, Any], tuple[str, Any]]] = {
    "device_map": ("auto", ("cpu", "cpu"), ("cuda", "cuda"), ("mps", "mps")),
    "dtype": ("auto", ("float16", "float16"), ("float32", "float32"), ("float64", "float64")),
    "attn": (None, ("eager", "eager"), ("sdpa", "sdpa"), ("flash", "flash")),
    "trust_remote_code": (False, ("true", True), ("no", False), ("1", True)),
    "remote": (None, ("ndif", "ndif"), ("local", "local"), ("http://a", "http://a")),
    "tolerance": (None, ("0.1", 0.1), ("0.2", 0.2), ("3e-1", 0.3)),
    "exact": (False, ("yes", True), ("no", False), ("1", True)),
    "tokens": ("auto", ("close", "close"), ("exact", "exact"), ("close", "close")),
    "structure": ("strict", ("values", "values"), ("strict", "strict"), ("values", "values")),
    "store_tensors": (False, ("on", True), ("off", False), ("true", True)),
    "calibrate": (False, ("yes", True), ("0", False), ("on", True)),
    "timeout": (600.0, ("1", 1.0), ("2", 2.0), ("3.5", 3.5)),
    "load_timeout": (1800.0, ("1", 1.0), ("0", 0.0), ("3.5", 3.5)),
    "isolation": ("auto", ("on", "on"), ("off", "off"), ("auto", "auto")),
    "prune": (None, ("list", "list"), ("remove", "remove"), ("list", "list")),
    "report": (
        (),
        (["a.json", "b.html"], ("a.json", "b.html")),
        ("b.json", ("b.json",)),
        (["c.json"], ("c.json",)),
    ),
    "leaks": ("warn", ("fail", "fail"), ("off", "off"), ("warn", "warn")),
    "golden_dir": ("golden", ("a", "a"), ("b", "b"), ("c", "c")),
    "golden_from": (None, ("a", "a"), ("b", "b"), ("c", "c")),
    "suite": (False, ("yes", True), ("off", False), ("on", True)),
    "rebaseline": (False, ("yes", True), ("0", False), ("true", True)),
    "update_in_ci": (False, ("on", True), ("false", False), ("TRUE", True)),
}
OPTION = {option.name: option for option in OPTIONS}


def read(
    command_line: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, Any] | None = None,
) -> Settings:
    """Read settings from the values that pytest gives: ini keys that are not set are empty."""
    values = ini or {}
    empty = {option.key: [] if option.is_list else "" for option in OPTIONS}
    return read_settings(command_line or {}, lambda key: values.get(key, empty[key]), environ or {})


def test_every_option_has_a_field_and_a_case() -> None:
    assert [option.name for option in OPTIONS] == list(Settings._fields)
    assert {"model", *CASES} == set(OPTION)


@pytest.mark.parametrize("name", CASES)
def test_command_line_beats_environment_beats_ini_beats_default(name: str) -> None:
    option = OPTION[name]
    default, ini, environment, command_line = CASES[name]
    in_ini = {option.key: ini[0]}
    in_environment = {option.variable: environment[0]}
    on_command_line = {option.key: command_line[0]}
    assert getattr(read(), name) == default == getattr(Settings(), name)
    assert getattr(read(ini=in_ini), name) == ini[1]
    assert getattr(read(environ=in_environment, ini=in_ini), name) == environment[1]
    everything = read(on_command_line, in_environment, in_ini)
    assert getattr(everything, name) == command_line[1]


def test_models_are_a_list_from_every_source() -> None:
    ini, environ = {"nnsight_model": ["a", "b"]}, {"PYTEST_NNSIGHT_MODEL": "c d=e"}
    assert read().model == ()
    assert read(ini=ini).model == ("a", "b")
    assert read(environ=environ, ini=ini).model == ("c", "d=e")
    assert read({"nnsight_model": ["f"]}, environ, ini).model == ("f",)


def test_an_option_missing_on_the_command_line_is_read_from_the_environment() -> None:
    given = {option.key: None for option in OPTIONS}
    assert read(given, {"PYTEST_NNSIGHT_DTYPE": "float16"}).dtype == "float16"


def test_an_option_has_a_flag_an_ini_key_and_a_variable() -> None:
    option = Option("golden_dir", "help", str)
    assert (option.flag, option.key, option.variable) == (
        "--nnsight-golden-dir",
        "nnsight_golden_dir",
        "PYTEST_NNSIGHT_GOLDEN_DIR",
    )


@pytest.mark.parametrize("value", ["-1", "1", "1e3", "nan", "inf", "small", ""])
def test_invalid_tolerance_names_its_source(value: str) -> None:
    sources = {
        "--nnsight-tolerance": lambda: read({"nnsight_tolerance": value}),
        "PYTEST_NNSIGHT_TOLERANCE": lambda: read(environ={"PYTEST_NNSIGHT_TOLERANCE": value}),
        "ini nnsight_tolerance": lambda: read(ini={"nnsight_tolerance": value}),
        "@pytest.mark.nnsight(tolerance=...)": lambda: Settings().for_marker({"tolerance": value}),
    }
    if not value:  # an empty ini key or variable is one that is not set
        del sources["ini nnsight_tolerance"], sources["PYTEST_NNSIGHT_TOLERANCE"]
    for source, attempt in sources.items():
        with pytest.raises(UsageError) as caught:
            attempt()
        assert str(caught.value).startswith(f"{source}: {value!r} is not valid: ")


@pytest.mark.parametrize("value", ["0", "0.0", "1e-5", "0.999"])
def test_valid_tolerance(value: str) -> None:
    assert read({"nnsight_tolerance": value}).tolerance == float(value)


@pytest.mark.parametrize(("key", "value"), [("timeout", "-1"), ("timeout", "soon")])
def test_invalid_timeout_is_a_usage_error(key: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"^--nnsight-timeout: "):
        read({f"nnsight_{key}": value})


@pytest.mark.parametrize("value", ["", "near", "Exact", "close "])
def test_invalid_tokens_rule_lists_the_valid_ones(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read({"nnsight_tokens": value})
    assert str(caught.value) == (
        f"--nnsight-tokens: {value!r} is not valid: expected auto, exact or close"
    )


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.is_flag])
def test_flag_that_is_neither_true_nor_false_is_a_usage_error(name: str) -> None:
    variable = OPTION[name].variable
    with pytest.raises(UsageError, match=f"^{variable}: 'maybe' is not valid: expected true or"):
        read(environ={variable: "maybe"})


def test_a_marker_changes_only_the_settings_that_it_names() -> None:
    settings = Settings(model=("gpt2",), tolerance=0.1, timeout=5.0)
    changed = settings.for_marker({"tolerance": 1e-4, "trust_remote_code": True})
    assert (changed.tolerance, changed.trust_remote_code) == (1e-4, True)
    assert (changed.model, changed.timeout) == (("gpt2",), 5.0)
    assert settings.tolerance == 0.1


def test_a_marker_accepts_every_option_that_is_marked_so() -> None:
    arguments = {
        "tolerance": 0.5,
        "timeout": 60,
        "dtype": "float64",
        "device_map": "cpu",
        "attn": "eager",
        "trust_remote_code": True,
        "exact": True,
        "tokens": "close",
        "structure": "values",
        "leaks": "warn",
        "store_tensors": True,
        "model": ("gpt2",),
        "remote": "local",
    }
    assert set(arguments) == set(MARKER_KEYS)
    changed = Settings().for_marker(arguments)
    assert {key: getattr(changed, key) for key in arguments} == arguments


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("tolerence", "tolerance"), ("time_out", "timeout"), ("attention", "attn"), ("d", "dtype")],
)
def test_unknown_marker_argument_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings().for_marker({wrong: 1})
    message = str(caught.value)
    assert message.startswith(f"@pytest.mark.nnsight has no argument {wrong!r}; nearest: ")
    assert nearest in message.partition("nearest: ")[2]


@pytest.mark.parametrize("name", sorted({*OPTION} - {*MARKER_KEYS}))
def test_a_marker_refuses_the_options_of_the_session(name: str) -> None:
    with pytest.raises(UsageError, match=r"^@pytest\.mark\.nnsight has no argument "):
        Settings().for_marker({name: "x"})


@pytest.mark.parametrize("folder", ["golden", "tests/golden", "a/../golden", "."])
def test_golden_folder_is_inside_the_project(tmp_path: Path, folder: str) -> None:
    root = golden_root(tmp_path, Settings(golden_dir=folder))
    assert root == (tmp_path / folder).resolve()


@pytest.mark.parametrize("folder", ["..", "../golden", "a/../../golden", "/", "/tmp/golden"])
def test_golden_folder_cannot_leave_the_project(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UsageError) as caught:
        golden_root(tmp_path, Settings(golden_dir=folder))
    assert str(caught.value) == (
        f"--nnsight-golden-dir {folder!r} is outside {tmp_path.name}/; give a folder inside it"
    )


def test_golden_folder_cannot_leave_the_project_by_a_link(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "golden").symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"^--nnsight-golden-dir 'golden' is outside project/; "):
        golden_root(project, Settings())


def test_golden_folder_cannot_be_a_neighbour_with_a_longer_name(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    with pytest.raises(UsageError):
        golden_root(tmp_path / "project", Settings(golden_dir="../project-golden"))


@given(st.text(max_size=40), st.sampled_from(OPTIONS))
def test_any_text_is_a_setting_or_a_usage_error(value: str, option: Option) -> None:
    given = [value] if option.is_list else value
    for command_line, environ in (({option.key: given}, {}), ({}, {option.variable: value})):
        with contextlib.suppress(UsageError):
            read(command_line, environ)
