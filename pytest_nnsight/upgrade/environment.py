"""An environment for each combination: made once, used again, safe against being killed.

It lies over the running one: what is in both is the same, and only what differs is installed. So an
unchanged torch is not fetched again, and making one takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_nnsight.errors import NnsightPluginError, hide_home, one_line
from pytest_nnsight.upgrade.combination import Combination, is_open, label

_READY = "pytest-nnsight-ready"
_ERROR = "ERROR: "


class InstallError(NnsightPluginError):
    """A combination that cannot be installed; the message is one line of the installer's."""


def make_environment(
    combination: Combination, pins: Sequence[str], cache: Path, say: Callable[[str], None]
) -> Path:
    """Return the Python of an environment with a combination; make it where there is none.

    Two processes that want the same one wait for each other. One that was not finished is made
    anew; one with a wish for the newest is brought up to date. Raise `InstallError` where the
    combination cannot be installed.
    """
    home = cache / _key(combination, pins)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(cache, error) from error
    with _alone(Path(f"{home}.lock"), say):
        ready = next(home.glob(f"*/{_READY}"), None)
        if ready is None or any(map(is_open, combination)):
            say(f"installing {label(combination)} ... ")
            try:
                ready = ready or _make(home, pins) / _READY
                ready.unlink(missing_ok=True)  # it is not while pip is at work
                _install(ready.parent, combination)
            except InstallError:
                shutil.rmtree(home, ignore_errors=True)
                raise
            ready.touch()
            _remove_all_but(ready.parent)
    return _python(ready.parent)


@contextmanager
def _alone(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say("another process is making it, waiting ... ")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(home: Path, pins: Sequence[str]) -> Path:
    """Make an empty environment in a folder of its own.

    Where a process was killed, its pip may still be at work in another, and finish it by halves.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="", dir=home))
        venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
        below = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        own.mkdir(parents=True, exist_ok=True)
        lines = [f"import site; site.addsitedir({path!r})\n" for path in below]
        (own / "_below.pth").write_text("".join(lines))
        (folder / "constraints.txt").write_text("\n".join(pins) + "\n")
    except OSError as error:
        raise _cannot_make(home, error) from error
    return folder


def _cannot_make(folder: Path, error: OSError) -> InstallError:
    return InstallError(f"cannot make {hide_home(str(folder))}: {error.strerror}")


def _remove_all_but(folder: Path) -> None:
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _install(folder: Path, combination: Combination) -> None:
    command = [*installer(), "--python", str(_python(folder)), "install", "--no-input", "--upgrade"]
    command += ["--disable-pip-version-check", "--constraint", str(folder / "constraints.txt")]
    done = subprocess.run(
        [*command, *combination], capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith(_ERROR)]
        told = errors[0].removeprefix(_ERROR) if errors else done.stderr or "pip gave no reason"
        raise InstallError(one_line(Exception(told)))


def installer() -> list[str]:
    """Return the command of pip: of this environment, or the one that uv brings.

    What is installed below must count as there, which pip knows and uv does not.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if shutil.which("uvx"):
        return ["uvx", "pip"]
    raise InstallError("there is neither pip in this environment nor uv on the path; install pip")


def _python(folder: Path) -> Path:
    scripts = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
    return scripts / Path(sys.executable).name


def _key(combination: Combination, pins: Sequence[str]) -> str:
    """Return a name that changes with anything that an environment depends on."""
    below = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    told = [sys.version, sys.prefix, *below, *combination, *pins]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
    names = "-".join(wish.replace("==", "-") for wish in combination)
    return "".join(c if c.isalnum() or c in "-." else "_" for c in names)[:80] + "-" + digest
