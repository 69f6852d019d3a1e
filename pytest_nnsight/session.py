"""What the hooks and fixtures of `plugin` do with the rooms below: the wiring of one session.

Imports the services when they are needed, never with this module.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import OPTIONS
from pytest_nnsight.settings import Settings, golden_root, read_settings

if TYPE_CHECKING:
    from pytest_nnsight.models.spec import ModelSpec

SETTINGS = pytest.StashKey[Settings]()
GOLDENS = pytest.StashKey[Any]()
PASSED = pytest.StashKey[bool]()
WATCH = pytest.StashKey[Any]()
SPECS = pytest.StashKey[dict[int, Any]]()
"""Where each loaded model came from."""
SHARED = pytest.StashKey[dict[int, Any]]()
"""The models that tests share, see `shared_model`."""
CHANGING = pytest.StashKey[Any]()
"""The models that change in place what their modules gave."""
COLLECTED = pytest.StashKey[list[tuple[str, Path]]]()
"""The node id and the path of every collected test, see `naming`."""
FIXTURE = "nnsight_model"
SUITE_NODE = "nnsight-suite"


def add_options(parser: pytest.Parser) -> None:
    """Offer every option on the command line and as ini key."""
    group = parser.getgroup("nnsight", "testing the insides of a model (pytest-nnsight)")
    for option in OPTIONS:
        keywords: dict[str, Any] = {"dest": option.key, "default": None, "help": option.help}
        if option.is_flag:
            keywords["action"] = "store_true"
        else:
            keywords["metavar"] = option.metavar or option.name.upper()
            keywords["action"] = "append" if option.is_list else "store"
        if option.bare is not None:
            keywords |= {"nargs": "?", "const": option.bare}
        group.addoption(option.flag, **keywords)
        if option.is_list:
            parser.addini(option.key, option.help, type="args")
        else:
            parser.addini(option.key, option.help, type="string")


def check(config: pytest.Config, settings: Settings) -> None:
    """Raise `UsageError` for settings that cannot work, before anything is collected."""
    if not settings.model:
        if settings.suite:
            raise UsageError("--nnsight-suite needs a model; add --nnsight-model gpt2 or tiny:gpt2")
        return
    from pytest_nnsight.away import check_remote
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    specs = [parse_spec(text) for text in settings.model]
    _check_root(config, specs)
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models share the golden folder {max(names, key=names.count)!r}; "
            "name them: --nnsight-model NAME=SPEC"
        )
    LoadOptions(settings.device_map, settings.dtype, settings.attn, settings.trust_remote_code)
    check_remote(settings, specs)
    golden_root(config.rootpath, settings)
    if settings.rebaseline or settings.calibrate:
        config.option.update_snapshots = True
    updating = config.option.update_snapshots or config.option.update_new_snapshots_only
    if updating and os.environ.get("CI") and not settings.update_in_ci:
        raise UsageError(
            "--snapshot-update is refused under CI, where a golden would follow whatever broke; "
            "update on your own machine, or add --nnsight-update-in-ci"
        )
    if updating and settings.golden_from is not None:
        raise UsageError(
            "--nnsight-golden-from compares across variants, --snapshot-update writes; use one"
        )
    if settings.suite and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def _check_root(config: pytest.Config, specs: list[ModelSpec]) -> None:
    """Refuse a model's path that pytest took for a test path, losing the project's root.

    pytest finds its root before plugins can say which options take a value: a path behind a space
    counts as one of tests.
    """
    given = [str(argument) for argument in config.invocation_params.args]
    if any(argument.startswith(("--rootdir", "-c", "--config-file")) for argument in given):
        return
    for spec in specs:
        outside = not Path(spec.source).resolve().is_relative_to(config.invocation_params.dir)
        if spec.kind in ("directory", "gguf") and spec.source in given and outside:
            raise UsageError(
                f"write --nnsight-model={spec.source} with an equals sign: behind a space pytest "
                "takes a path for one of tests, and would look for your ini file and goldens there"
            )


def _early_settings(config: pytest.Config) -> Settings:
    """Read the settings that are known before conftest files are loaded."""
    try:
        return read_settings(vars(config.known_args_namespace), config.getini)
    except UsageError:  # it is raised again once all options are read
        return Settings()


@contextmanager
def conftest_loading(config: pytest.Config) -> Iterator[None]:
    """Prepare for a worker, and load conftest files within a time limit.

    Where one hangs or crashes, the process ends with its stack and exit code 1.
    """
    settings = _early_settings(config)
    if not settings.model:
        yield
        return
    from pytest_nnsight.isolation.faults import named_faults
    from pytest_nnsight.isolation.limits import hard_limit, terminal
    from pytest_nnsight.isolation.mode import announce_worker

    announce_worker(config, settings)
    where, stderr = "while loading conftest files", terminal()
    try:
        with (
            hard_limit(f"HUNG {where}", settings.load_timeout, stderr),
            named_faults(where, stderr),
        ):
            yield
    finally:
        os.close(stderr)


def watch(config: pytest.Config) -> None:
    """Let tests run in workers where they may, and within their time; take hold of stderr."""
    settings = config.stash[SETTINGS]
    config.stash[COLLECTED] = []
    config.pluginmanager.register(CollectedTests(config.stash[COLLECTED]), "nnsight-collected")
    if settings.prune:
        from pytest_nnsight.pruning import Prune

        config.pluginmanager.register(Prune(config, settings), "nnsight-prune")
    if not hasattr(config, "workerinput") and (settings.report or not config.option.collectonly):
        from pytest_nnsight.reporting import Reporter

        config.pluginmanager.register(Reporter(config, settings.report), "nnsight-report")
    if settings.report:
        from pytest_nnsight.records import Details

        config.pluginmanager.register(Details(), "nnsight-details")
    if not settings.model:
        return
    from pytest_nnsight.isolation.limits import terminal
    from pytest_nnsight.isolation.mode import isolate
    from pytest_nnsight.progress import TERMINAL

    config.stash[TERMINAL] = terminal()
    config.add_cleanup(lambda: os.close(config.stash[TERMINAL]))
    workers = isolate(config, settings)
    if workers:
        from pytest_nnsight.isolation.control import Control

        control = Control(config, is_own=workers == "own")
        config.pluginmanager.register(control, "nnsight-control")
    else:
        from pytest_nnsight.isolation.watch import Watch

        config.stash[WATCH] = Watch(config, settings, partial(_seconds_of, settings))
        config.pluginmanager.register(config.stash[WATCH], "nnsight-watch")


class CollectedTests:
    """The plugin object that notes every collected test, deselected ones included."""

    def __init__(self, tests: list[tuple[str, Path]]) -> None:
        self._tests = tests

    @pytest.hookimpl(wrapper=True, trylast=True)  # before --lf leaves tests out
    def pytest_make_collect_report(self) -> Iterator[None]:
        """Note the tests of one file or class."""
        report: Any = yield
        tests = (node for node in report.result or () if isinstance(node, pytest.Item))
        self._tests += ((test.nodeid, test.path) for test in tests)
        return report  # type: ignore[no-any-return]


def _seconds_of(settings: Settings, item: pytest.Item) -> float:
    """Return the time that each phase of a test may take."""
    try:
        return settings_of(item, settings).timeout
    except UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def header(settings: Settings) -> list[str]:
    """Return the lines for pytest's header; none where no model is configured."""
    if not settings.model:
        return []
    packages = ("nnsight", "torch", "transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return [f"nnsight: models {', '.join(settings.model)}; {versions}"]


def settings_of(item: pytest.Item | pytest.Session, settings: Settings) -> Settings:
    """Return the settings of one test, its markers' arguments among them."""
    for marker in reversed(list(item.iter_markers("nnsight"))):
        if marker.args:
            raise UsageError("@pytest.mark.nnsight takes named arguments only, like timeout=60")
        settings = settings.for_marker(marker.kwargs)
    return settings


def test_id(root: Path, nodeid: str, code_file: str) -> str:
    """Return the id of a reported test by its file from the root folder, outside of it too.

    There pytest's node id depends on its arguments, and may lack the file. ``code_file`` is where
    the code of the test is, which may also be another file, such as that of a base class.
    """
    file, _, name = nodeid.partition("::")
    is_outside = file != SUITE_NODE and code_file.startswith("..") and not (root / file).is_file()
    return f"{code_file}::{name}" if is_outside else nodeid


def command_of(config: pytest.Config, test: str) -> str:
    """Return the command that runs one test again, on the same model loaded in the same way."""
    words = ["pytest"]
    for option in OPTIONS:
        given = config.getoption(option.key) if option.name in _THAT_LOAD else None
        for value in given if isinstance(given, list) else [given] if given is not None else ():
            told = "" if option.is_flag else f" {shlex.quote(str(value))}"
            words.append(f"{option.flag}{told}")
    if test.startswith(SUITE_NODE):
        name = test.rpartition("::")[2].partition("[")[0]
        words.append(f"--nnsight-suite -k {shlex.quote(name)}")
    elif test.startswith(".."):
        folder = config.invocation_params.dir
        root, path = (os.path.relpath(p, folder) for p in (config.rootpath, config.rootpath / test))
        words += ["--rootdir", shlex.quote(root), shlex.quote(path)]
    else:
        words.append(shlex.quote(test))
    return " ".join(words)


_THAT_LOAD = ("model", "device_map", "dtype", "attn", "trust_remote_code", "remote", "golden_dir")


def collect_suite(session: pytest.Session) -> Iterator[pytest.Item]:
    """Collect the tests of `suite` under a node id that is the same wherever it is installed."""
    path = Path(__file__).with_name("suite.py")
    module = pytest.Module.from_parent(session, path=path, nodeid=SUITE_NODE)
    # Imported by pytest, its folder would come first on the import path: all that is installed
    # beside it before what an environment of `upgrade` has above.
    module.obj = importlib.import_module(f"{__package__}.suite")
    yield from session.genitems(module)
