"""Which goldens have no test any more, and the only place where a golden is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pytest_nnsight.errors import GoldenError, hide_home
from pytest_nnsight.golden.storage import LONGEST_NAME, WEIGHTS_FILE, clean_name
from pytest_nnsight.golden.stored_tensors import tensors_path

# What may stand in a golden's name behind that of its test: nothing, a number, a name. Where a name
# had to be changed to be one of a file, a hash stands behind it.
_BEHIND = re.compile(r"$|\.|\[")
_HASH = re.compile(r"-[0-9a-f]{8}$")
_CUT_OFF = re.compile(r"\..+\.tmp")


def without_test(
    folder: Path, tests: Collection[str], is_known: Callable[[str], bool]
) -> Iterator[Path]:
    """Yield the files below a model's folder that no test can ask for, and writes cut off.

    ``tests`` are the paths of all tests below ``golden/<model>/<variant>``; ``is_known`` says of a
    test file's path there whether all of its tests are among them. A golden that a test may name
    (``nnsight_golden(name=...)``) has a test.
    """
    names: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.rpartition("/")
        names.setdefault(file, []).append(name)
    for variant in sorted(path for path in folder.glob("*-*") if path.is_dir()):
        for path in sorted(variant.rglob("*")):
            file = path.parent.relative_to(variant).as_posix()
            if _CUT_OFF.fullmatch(path.name) and path.is_file():
                yield path
            elif path.suffix != ".json" or path == variant / WEIGHTS_FILE or not is_known(file):
                continue
            elif not any(_belongs(path.stem, name) for name in names.get(file, ())):
                yield path


def _belongs(golden: str, test: str) -> bool:
    """Tell whether a golden is one of a test, by the names of both."""
    clean = clean_name(test)
    behind = golden.removeprefix(clean)
    if not golden.startswith(clean):
        return False
    may_be_hashed = clean != test or len(clean) == LONGEST_NAME
    return bool(_BEHIND.match(behind)) or (may_be_hashed and bool(_HASH.fullmatch(behind)))


def remove(golden: Path, folder: Path) -> None:
    """Delete a golden with its tensors, and the folders below ``folder`` that this leaves empty.

    Raise `GoldenError` where it cannot be deleted.
    """
    try:
        golden.unlink()
        tensors_path(golden).unlink(missing_ok=True)
        for parent in golden.parents:
            if parent == folder:
                break
            left = {path.name for path in parent.iterdir()}
            if left - {WEIGHTS_FILE}:
                break
            (parent / WEIGHTS_FILE).unlink(missing_ok=True)
            parent.rmdir()
    except OSError as error:
        raise GoldenError(f"cannot remove {hide_home(str(golden))}: {error.strerror}") from error
