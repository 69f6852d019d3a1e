"""The options in force: command line before environment before ini, frozen for the session."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.options import MARKER_KEYS, OPTIONS, Option


class Settings(NamedTuple):  # every pytest imports this one, and a dataclass takes two milliseconds
    """The options in force; a test's marker may replace some of them (`for_marker`)."""

    model: tuple[str, ...] = ()
    device_map: str = "auto"
    dtype: str = "auto"
    attn: str | None = None
    trust_remote_code: bool = False
    remote: str | None = None
    tolerance: float | None = None
    exact: bool = False
    tokens: str = "auto"
    store_tensors: bool = False
    calibrate: bool = False
    timeout: float = 600.0
    load_timeout: float = 1800.0
    isolation: str = "auto"
    leaks: str = "fail"
    golden_dir: str = "golden"
    golden_from: str | None = None
    suite: bool = False
    rebaseline: bool = False
    prune: str | None = None
    report: tuple[str, ...] = ()
    update_in_ci: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the model runs elsewhere, and has no weights here."""
        return self.remote not in (None, "local")

    def for_marker(self, arguments: Mapping[str, Any]) -> Settings:
        """Return the settings of one test, given ``@pytest.mark.nnsight(...)``'s arguments."""
        for name in arguments:
            if name not in MARKER_KEYS:
                raise UsageError(
                    f"@pytest.mark.nnsight has no argument {name!r}; "
                    f"nearest: {suggest(name, MARKER_KEYS)}"
                )
        checked = {
            name: _marked(_option(name), value, f"@pytest.mark.nnsight({name}=...)")
            for name, value in arguments.items()
        }
        return self._replace(**checked)


def _marked(option: Option, value: Any, source: str) -> Any:
    if not option.is_list:
        return _read(option, value, source)
    return tuple(_read(option, v, source) for v in ([value] if isinstance(value, str) else value))


def _option(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


def read_settings(
    command_line: Mapping[str, Any],
    ini: Callable[[str], Any],
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read every option: command line, else environment, else ini, else its default."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        given = command_line.get(option.key)
        source = option.flag
        if given is None and environ.get(option.variable):
            given, source = environ[option.variable], option.variable
            given = given.split() if option.is_list else given
        if given is None:
            given, source = ini(option.key) or None, f"ini {option.key}"
        if given is None:
            values[option.name] = () if option.is_list else option.default
        elif option.is_list:
            values[option.name] = tuple(_read(option, item, source) for item in given)
        else:
            values[option.name] = _read(option, given, source)
    return Settings(**values)


def _read(option: Option, value: Any, source: str) -> Any:
    if value is None:
        return option.default
    try:
        return option.read(value if isinstance(value, str) else str(value))
    except ValueError as error:
        raise UsageError(f"{source}: {value!r} is not valid: {error}") from error


def golden_root(root: Path, settings: Settings) -> Path:
    """Return the folder of the goldens; it may not leave the project."""
    folder = (root / settings.golden_dir).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise UsageError(f"--nnsight-golden-dir {settings.golden_dir!r} leaves {root.name}/")
    return folder
