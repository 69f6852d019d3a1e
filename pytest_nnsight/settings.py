"""Read the options in force: command line before environment before ini, fixed for a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.options import MARKER_KEYS, OPTIONS, Option


class Settings(NamedTuple):  # every pytest session imports this; a dataclass takes 2 ms more
    """The options in force; the marker of a test may replace some of them (`for_marker`)."""

    model: tuple[str, ...] = ()
    device_map: str = "auto"
    dtype: str = "auto"
    attn: str | None = None
    trust_remote_code: bool = False
    remote: str | None = None
    tolerance: float | None = None
    exact: bool = False
    tokens: str = "auto"
    structure: str = "strict"
    store_tensors: bool = False
    calibrate: bool = False
    timeout: float = 600.0
    load_timeout: float = 1800.0
    isolation: str = "auto"
    leaks: str = "warn"
    golden_dir: str = "golden"
    golden_from: str | None = None
    suite: bool = False
    rebaseline: bool = False
    prune: str | None = None
    report: tuple[str, ...] = ()
    update_in_ci: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the model runs on a server, so that its weights are not loaded here."""
        return self.remote not in (None, "local")

    def for_marker(self, arguments: Mapping[str, Any]) -> Settings:
        """Return these settings with the arguments of a marker; raise `UsageError` if wrong."""
        changed = {}
        for name, value in arguments.items():
            if name not in MARKER_KEYS:
                raise UsageError(
                    f"@pytest.mark.nnsight has no argument {name!r}; "
                    f"nearest: {suggest(name, MARKER_KEYS)}"
                )
            option = OPTIONS[Settings._fields.index(name)]
            changed[name] = _parse(option, value, f"@pytest.mark.nnsight({name}=...)")
        return self._replace(**changed)


def read_settings(
    command_line: Mapping[str, Any],
    ini: Callable[[str], Any],
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read every option from its first source that has it; raise `UsageError` for a bad value."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        value, source = command_line.get(option.key), option.flag
        if value is None and environ.get(option.variable):
            value, source = environ[option.variable], option.variable
            value = value.split() if option.is_list else value
        if value is None:
            value, source = ini(option.key) or None, f"ini {option.key}"
        values[option.name] = _parse(option, value, source)
    return Settings(**values)


def _parse(option: Option, value: Any, source: str) -> Any:
    """Parse a value, or the items of a list option; ``source`` names it in the error."""
    if value is None:
        return Settings._field_defaults[option.name]
    try:
        if not option.is_list:
            return option.parse(str(value))
        return tuple(map(option.parse, [value] if isinstance(value, str) else value))
    except ValueError as error:
        raise UsageError(f"{source}: {value!r} is not valid: {error}") from error


def golden_root(root: Path, settings: Settings) -> Path:
    """Return the folder of the goldens; raise `UsageError` if it is outside the root folder."""
    folder = (root / settings.golden_dir).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise UsageError(
            f"--nnsight-golden-dir {settings.golden_dir!r} is outside {root.name}/; "
            "give a folder inside it"
        )
    return folder
