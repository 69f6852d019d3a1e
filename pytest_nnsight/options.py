"""Define every option: its name, help text and parser. `settings` has the defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


def _parse_bool(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "on": True}
    values |= {"0": False, "false": False, "no": False, "off": False, "": False}
    if text.strip().lower() not in values:
        raise ValueError("expected true or false")
    return values[text.strip().lower()]


def _number_below(limit: float, expected: str) -> Callable[[str], float]:
    """Return a parser of numbers from 0 to below ``limit``."""

    def parse(text: str) -> float:
        value = float(text)
        if not 0 <= value < limit:
            raise ValueError(f"expected {expected}")
        return value

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    """Return a parser that accepts some words only."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text

    return parse


def _parse_host(text: str) -> str:
    if text not in ("ndif", "local") and not text.startswith(("http://", "https://")):
        raise ValueError("expected ndif, local or a host that begins with http:// or https://")
    return text


class Option(NamedTuple):  # every pytest session imports this; a dataclass takes a millisecond more
    """One option: ``--nnsight-NAME``, ``PYTEST_NNSIGHT_NAME`` and ini key ``nnsight_name``.

    ``parse`` converts its text and raises `ValueError` with what it expects. ``in_marker`` says
    that ``@pytest.mark.nnsight(NAME=...)`` can set it for one test. ``bare_value`` is the value of
    the option when it is given without one, ``None`` if it needs a value.
    """

    name: str
    help: str
    parse: Callable[[str], Any] = str
    metavar: str | None = None
    is_list: bool = False
    in_marker: bool = False
    bare_value: str | None = None

    @property
    def flag(self) -> str:
        """The command line option."""
        return "--nnsight-" + self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """The ini key, which is also the name in pytest's ``config.option``."""
        return f"nnsight_{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"PYTEST_NNSIGHT_{self.name.upper()}"

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.parse is _parse_bool


_parse_seconds = _number_below(1e6, "seconds below a million, 0 for no limit")
OPTIONS = (
    Option(
        "model",
        "the model to test: a hub id (gpt2), a folder, a .gguf file or a built-in (tiny:gpt2); "
        "NAME=SPEC names it. Give the option several times to run each test on each model",
        metavar="SPEC",
        is_list=True,
        in_marker=True,
    ),
    Option(
        "device_map",
        "the device of the model: cpu, cuda, auto or another device_map of accelerate; meta loads "
        "no weights (default: auto)",
        metavar="MAP",
        in_marker=True,
    ),
    Option(
        "dtype",
        "load weights as float32, float64, bfloat16 or float16 (default: auto, as they are saved)",
        in_marker=True,
    ),
    Option(
        "attn",
        "the attention implementation of transformers: eager, sdpa, ... (default: the one that "
        "transformers chooses for the model)",
        in_marker=True,
    ),
    Option(
        "trust_remote_code",
        "run Python code that is saved with the model; use it only for models whose authors you "
        "trust (default: no)",
        _parse_bool,
        in_marker=True,
    ),
    Option(
        "remote",
        "run the model on NDIF, or on another nnsight server with --nnsight-remote=http://...; "
        "--nnsight-remote=local runs the same code path on this machine (default: run here)",
        _parse_host,
        metavar="ndif|local|URL",
        in_marker=True,
        bare_value="ndif",
    ),
    Option(
        "tolerance",
        "how much a value may differ from its golden, relative to the norm of each token "
        "(default: by dtype, 1e-5 for float32)",
        _number_below(1, "a number in [0, 1), like 1e-4"),
        metavar="REL",
        in_marker=True,
    ),
    Option(
        "exact",
        "fail if any bit differs from the golden, where model, versions and hardware are the same "
        "(default: no)",
        _parse_bool,
        in_marker=True,
    ),
    Option(
        "tokens",
        "how to compare generated tokens: exact; close, which accepts another token where the two "
        "best logits are nearly equal; or auto: close for half-precision dtypes on other kernels, "
        "else exact (default: auto)",
        _one_of("auto", "exact", "close"),
        "RULE",
        in_marker=True,
    ),
    Option(
        "structure",
        "if outputs have other containers or names, or modules another class: strict, fail; or "
        "values, accept it where all values are equal and no tensor is missing (default: strict)",
        _one_of("strict", "values"),
        "RULE",
        in_marker=True,
    ),
    Option(
        "store_tensors",
        "with --snapshot-update, also store the tensors of keep=... in a .safetensors file next to "
        "each golden (default: no)",
        _parse_bool,
        in_marker=True,
    ),
    Option(
        "calibrate",
        "rewrite the goldens with the noise of this machine: run each capture with other numbers "
        "of threads, kernels and attention, and allow 5 times the differences (default: no)",
        _parse_bool,
    ),
    Option(
        "timeout",
        "seconds that the setup, call and teardown of a test may each take, 0 for no limit; then "
        "the test fails with its stack, and its process is killed if it still hangs (default: 600)",
        _parse_seconds,
        "SECONDS",
        in_marker=True,
    ),
    Option(
        "load_timeout",
        "seconds that loading a model or collecting tests may take, 0 for no limit (default: 1800)",
        _parse_seconds,
        "SECONDS",
    ),
    Option(
        "isolation",
        "run tests in a worker process, so that a crash or a hang ends one test only: auto, on or "
        "off (default: auto, which is on unless an option such as --pdb forbids it)",
        _one_of("auto", "on", "off"),
        "MODE",
    ),
    Option(
        "leaks",
        "if a test leaves the shared model changed: warn, restore it and warn, and fail the test "
        "only if something cannot be restored; fail, also fail the test for what was restored; or "
        "off, neither check nor restore anything (default: warn)",
        _one_of("warn", "fail", "off"),
        "MODE",
        in_marker=True,
    ),
    Option(
        "golden_dir",
        "the folder of the goldens, relative to pytest's root folder (default: golden)",
    ),
    Option(
        "golden_from",
        "compare with the goldens of another device and dtype, such as cpu-float32 "
        "(default: those of the model's own device and dtype)",
        metavar="VARIANT",
    ),
    Option(
        "suite", "also run the built-in suite, which needs no test files (default: no)", _parse_bool
    ),
    Option(
        "rebaseline",
        "update the goldens as --snapshot-update does, and also rewrite those that differ within "
        "tolerance (default: no)",
        _parse_bool,
    ),
    Option(
        "prune",
        "run no test and list the goldens that have no test; --nnsight-prune=remove deletes them",
        _one_of("list", "remove"),
        metavar="list|remove",
        bare_value="list",
    ),
    Option(
        "report",
        "write the results of all tests to a file: .json for data, .html for a page; give the "
        "option twice for both",
        metavar="FILE.json|.html",
        is_list=True,
    ),
    Option(
        "update_in_ci",
        "allow --snapshot-update when the environment variable CI is set (default: no)",
        _parse_bool,
    ),
)
MARKER_KEYS = tuple(option.name for option in OPTIONS if option.in_marker)
