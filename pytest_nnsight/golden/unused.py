"""Find goldens without a test, and delete them: the only place where a golden is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pytest_nnsight.errors import GoldenError, hide_home
from pytest_nnsight.golden.storage import LONGEST_NAME, WEIGHTS_FILE, clean_name
from pytest_nnsight.golden.stored_tensors import tensors_path

_INDEX = re.compile(r"$|\.|\[")  # after the name of the test: nothing, a number, or a name
_HASH = re.compile(r"-[0-9a-f]{8}$")
_INTERRUPTED_WRITE = re.compile(r"\..+\.tmp")


def without_test(
    folder: Path, tests: Collection[str], is_complete: Callable[[str], bool]
) -> Iterator[Path]:
    """Yield the goldens of a model that no test can ask for, and files of interrupted writes.

    ``tests`` are the paths of all collected tests, below ``golden/<model>/<variant>``.
    ``is_complete`` tells whether all tests of a test file were collected; goldens of other files
    are left out. A golden that a test may name (``nnsight_golden(name=...)``) has a test.
    """
    names: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.rpartition("/")
        names.setdefault(file, []).append(name)
    for variant in sorted(path for path in folder.glob("*-*") if path.is_dir()):
        for path in sorted(variant.rglob("*")):
            file = path.parent.relative_to(variant).as_posix()
            if _INTERRUPTED_WRITE.fullmatch(path.name) and path.is_file():
                yield path
            elif path.suffix != ".json" or path == variant / WEIGHTS_FILE or not is_complete(file):
                continue
            elif not any(belongs_to(path.stem, name) for name in names.get(file, ())):
                yield path


def belongs_to(golden: str, test: str) -> bool:
    """Tell from the names of a golden and a test whether the golden is one of the test's."""
    clean = clean_name(test)
    if not golden.startswith(clean):
        return False
    rest = golden.removeprefix(clean)
    may_be_hashed = clean != test or len(clean) == LONGEST_NAME
    return bool(_INDEX.match(rest)) or (may_be_hashed and bool(_HASH.fullmatch(rest)))


def remove(golden: Path, folder: Path) -> None:
    """Delete a golden with its tensors, and the folders below ``folder`` that are empty then.

    Raise `GoldenError` if it cannot be deleted.
    """
    try:
        golden.unlink()
        tensors_path(golden).unlink(missing_ok=True)
        for parent in golden.parents:
            if parent == folder or {path.name for path in parent.iterdir()} - {WEIGHTS_FILE}:
                break
            (parent / WEIGHTS_FILE).unlink(missing_ok=True)
            parent.rmdir()
    except OSError as error:
        raise GoldenError(f"cannot remove {hide_home(str(golden))}: {error.strerror}") from error
