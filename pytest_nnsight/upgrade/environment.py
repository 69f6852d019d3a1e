"""Make a virtual environment for each combination, and use it again.

It sees the packages of the running environment and holds only those that differ, so that making
one takes seconds. If this process is killed, no other uses its unfinished environment.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_nnsight.errors import NnsightPluginError, hide_home, one_line
from pytest_nnsight.upgrade.requirements import Combination, is_open

_READY = "pytest-nnsight-ready"
_ERROR = "ERROR: "
Progress = Callable[[str], None]  # takes text about what is going on


class InstallError(NnsightPluginError):
    """A combination cannot be installed; the message is one line of pip's output."""


def make_environment(
    combination: Combination, pins: Sequence[str], cache: Path, progress: Progress
) -> Path:
    """Return the Python executable of an environment that has a combination installed.

    A finished environment in ``cache`` is used again, and updated if a requirement is open. Two
    processes that need the same one wait for each other. Raise `InstallError` if pip fails.
    """
    home = cache / _environment_name(combination, pins)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _creation_error(cache, error) from error
    with _lock(f"{home}.lock", progress):
        ready = next(home.glob(f"*/{_READY}"), None)
        if ready is None or any(map(is_open, combination)):
            progress(f"installing {', '.join(combination)} ... ")
            try:
                ready = ready or _create(home, pins) / _READY
                ready.unlink(missing_ok=True)  # if this process is killed, pip has not finished
                _install(ready.parent, combination)
            except InstallError:
                shutil.rmtree(home, ignore_errors=True)
                raise
            ready.touch()
            for other in home.iterdir():
                if other != ready.parent:
                    shutil.rmtree(other, ignore_errors=True)
    return _python(ready.parent)


def _lock(path: str, progress: Progress) -> AbstractContextManager[object]:
    """Lock a file; the end of the ``with`` statement releases it."""
    lock = FileLock(path)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        progress("waiting for another process that makes it ... ")
        return lock.acquire()


def _create(home: Path, pins: Sequence[str]) -> Path:
    """Create it in a new folder, since the pip of a killed process may write to an old one."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="", dir=home))
        venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        packages.mkdir(parents=True, exist_ok=True)
        running = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        lines = [f"import site; site.addsitedir({path!r})\n" for path in running]
        (packages / "_running_environment.pth").write_text("".join(lines))
        (folder / "constraints.txt").write_text("\n".join(pins) + "\n")
    except OSError as error:
        raise _creation_error(home, error) from error
    return folder


def _creation_error(folder: Path, error: OSError) -> InstallError:
    return InstallError(f"cannot create {hide_home(str(folder))}: {error.strerror}")


def _install(folder: Path, combination: Combination) -> None:
    command = [*pip_command(), "--python", str(_python(folder)), "install", "--no-input"]
    command += ["--upgrade", "--disable-pip-version-check"]
    command += ["--constraint", str(folder / "constraints.txt"), *combination]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith(_ERROR)]
        reason = errors[0].removeprefix(_ERROR) if errors else done.stderr or "pip gave no reason"
        raise InstallError(one_line(reason))


def pip_command() -> list[str]:
    """Return the command that runs pip: of this environment, else through uv.

    uv itself does not count the packages of the running environment as installed; pip does.
    """
    # Not `find_spec`, which warns through setuptools if torch's compiler has loaded distutils.
    if any(metadata.distributions(name="pip")):
        return [sys.executable, "-m", "pip"]
    if shutil.which("uvx"):
        return ["uvx", "pip"]
    raise InstallError("there is neither pip in this environment nor uv on the path; install pip")


def _python(folder: Path) -> Path:
    scripts = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
    return scripts / Path(sys.executable).name


def _environment_name(combination: Combination, pins: Sequence[str]) -> str:
    """Return a folder name that changes with everything that an environment depends on."""
    running = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    parts = [sys.version, sys.prefix, *running, *combination, *pins]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    names = "-".join(requirement.replace("==", "-") for requirement in combination)
    return "".join(c if c.isalnum() or c in "-." else "_" for c in names)[:80] + "-" + digest
