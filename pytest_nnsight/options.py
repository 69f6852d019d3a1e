"""Every option once: its name, its help, how its text is read, its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Option(NamedTuple):  # every pytest imports this one, and a dataclass takes a millisecond
    """One option: ``--nnsight-NAME``, ``PYTEST_NNSIGHT_NAME`` and ini key ``nnsight_name``."""

    name: str
    help: str
    read: Callable[[str], Any]
    default: Any = None
    metavar: str | None = None
    is_flag: bool = False
    is_list: bool = False
    in_marker: bool = False
    bare: str | None = None
    """What it means to give the option without a value, where that may be left out."""

    @property
    def flag(self) -> str:
        """The command line option."""
        return "--nnsight-" + self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """The ini key, also the destination of the command line option."""
        return f"nnsight_{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"PYTEST_NNSIGHT_{self.name.upper()}"


def _boolean(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False, "": False}
    if text.strip().lower() not in known:
        raise ValueError("expected true or false")
    return known[text.strip().lower()]


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError("expected a number in [0, 1)")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    """Return a reader that takes one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return text

    return read


def _place(text: str) -> str:
    if text not in ("ndif", "local") and not text.startswith(("http://", "https://")):
        raise ValueError("expected ndif, local or a host that begins with http:// or https://")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise ValueError("expected seconds below a million, 0 for no limit")
    return value


OPTIONS = (
    Option(
        "model",
        "model to test: hub id, folder, .gguf file or built-in (tiny:gpt2), optionally NAME=SPEC; "
        "give it several times to run each test on each model",
        str,
        metavar="SPEC",
        is_list=True,
        in_marker=True,
    ),
    Option(
        "device_map",
        "where the model goes, as accelerate takes it, or meta for no weights (default: auto)",
        str,
        "auto",
        "MAP",
        in_marker=True,
    ),
    Option(
        "dtype",
        "dtype of the weights: float32, bfloat16, ... (default: auto, as saved)",
        str,
        "auto",
        in_marker=True,
    ),
    Option(
        "attn",
        "attention implementation: eager, sdpa, ... (default: the model's own)",
        str,
        in_marker=True,
    ),
    Option(
        "trust_remote_code",
        "run code that comes with the model (default: no)",
        _boolean,
        False,
        is_flag=True,
        in_marker=True,
    ),
    Option(
        "remote",
        "run on NDIF (or another host, --nnsight-remote=http://...), where summaries are made and "
        "sent back; =local rehearses that here (default: no)",
        _place,
        metavar="ndif|local|URL",
        in_marker=True,
        bare="ndif",
    ),
    Option(
        "tolerance",
        "allowed relative drift per token (default: by dtype, 1e-5 for float32)",
        _tolerance,
        metavar="REL",
        in_marker=True,
    ),
    Option(
        "exact",
        "fail on any bit that differs where nothing that moves numbers does (default: no)",
        _boolean,
        False,
        is_flag=True,
        in_marker=True,
    ),
    Option(
        "tokens",
        "generated tokens: exact, close where a near tie may fall the other way, or auto: close in "
        "half types on other kernels, else exact (default: auto)",
        _one_of("auto", "exact", "close"),
        "auto",
        "RULE",
        in_marker=True,
    ),
    Option(
        "store_tensors",
        "with --snapshot-update, store the tensors that tests keep beside their goldens",
        _boolean,
        False,
        is_flag=True,
        in_marker=True,
    ),
    Option(
        "calibrate",
        "rewrite goldens with the noise of this machine: each capture runs under other threads, "
        "kernels and attention, and 5 times what that moves is allowed",
        _boolean,
        False,
        is_flag=True,
    ),
    Option(
        "timeout",
        "seconds that a test's setup, call and teardown may each take, 0 for no limit; then it "
        "fails with its stack, and its process is ended where that does not help (default: 600)",
        _seconds,
        600.0,
        "SECONDS",
        in_marker=True,
    ),
    Option(
        "load_timeout",
        "seconds that loading a model, or collecting tests, may take (default: 1800)",
        _seconds,
        1800.0,
        "SECONDS",
    ),
    Option(
        "isolation",
        "run tests in a worker, so that a crash or hang ends one test: auto, on or off (default: "
        "auto, where pytest's other options allow it)",
        _one_of("auto", "on", "off"),
        "auto",
        "MODE",
    ),
    Option(
        "leaks",
        "what a test leaves changed on the shared model is put back and: fail, warn or off, which "
        "neither looks nor puts back (default: fail)",
        _one_of("fail", "warn", "off"),
        "fail",
        "MODE",
        in_marker=True,
    ),
    Option("golden_dir", "folder of the goldens, from the root (default: golden)", str, "golden"),
    Option(
        "golden_from",
        "compare with the goldens of another device and dtype, like cpu-float32",
        str,
        metavar="VARIANT",
    ),
    Option("suite", "also run the built-in suite on the model", _boolean, False, is_flag=True),
    Option(
        "rebaseline",
        "with --snapshot-update, rewrite goldens that are within tolerance too",
        _boolean,
        False,
        is_flag=True,
    ),
    Option(
        "prune",
        "run no test; list the goldens without a test, or remove them with --nnsight-prune=remove",
        _one_of("list", "remove"),
        metavar="list|remove",
        bare="list",
    ),
    Option(
        "report",
        "write what every test found to a file, as JSON or as a page; may be given twice",
        str,
        (),
        metavar="FILE.json|.html",
        is_list=True,
    ),
    Option(
        "update_in_ci",
        "allow --snapshot-update where the environment variable CI is set",
        _boolean,
        False,
        is_flag=True,
    ),
)
MARKER_KEYS = tuple(option.name for option in OPTIONS if option.in_marker)
