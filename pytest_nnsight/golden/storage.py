"""Where goldens lie and how they are written: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pytest_nnsight.errors import GoldenError, hide_home

WEIGHTS_FILE = "weights.json"
LARGEST_FILE = 128 * 1024 * 1024  # bytes; reading takes some ten times as much memory
LONGEST_NAME = 160  # characters


def clean_name(name: str) -> str:
    """Keep of a test's name ASCII letters, digits and ``-_.,=+[]``, at most 160 of them."""
    return re.sub(r"[^A-Za-z0-9_\-.,=+\[\]]", "_", name)[:LONGEST_NAME]


def file_name(name: str) -> str:
    """Make a test's name a file name.

    A name that had to be changed gets a part of its hash, so that two names have two files.
    """
    clean = clean_name(name)
    if clean == name and clean.strip("."):
        return clean
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{clean}-{digest}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one.

    Raise `GoldenError` where the folder cannot be written or the disk is full.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp"
        )
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, str):
                content = content.encode("utf-8", "backslashreplace")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise GoldenError(
            f"cannot write golden {hide_home(str(path))}: {error.strerror or error}; "
            "make its folder writable, nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_inside(path: Path, root: Path) -> None:
    """Raise `GoldenError` where links lead from a path below ``root`` to somewhere else."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise GoldenError(f"{hide_home(str(path))} leads out of {root.name}/ by a link; remove it")


def read_text(path: Path) -> str | None:
    """Return the text of a golden, ``None`` where there is none.

    Raise `GoldenError` for what is no text, no file (a pipe would never end) or too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GoldenError(f"cannot read golden {hide_home(str(path))}: it is no file")
        if status.st_size > LARGEST_FILE:
            raise GoldenError(
                f"{hide_home(str(path))} is larger than {LARGEST_FILE >> 20} MB; "
                "that is not a golden"
            )
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise GoldenError(
            f"{hide_home(str(path))} is not text; restore it, or rewrite it with --snapshot-update"
        ) from error
    except OSError as error:
        raise GoldenError(
            f"cannot read golden {hide_home(str(path))}: {error.strerror or error}"
        ) from error


def read_weights(folder: Path) -> dict[str, str] | None:
    """Return the fingerprints per parameter of a golden folder, ``None`` where unknown."""
    try:
        document = json.loads(read_text(folder / WEIGHTS_FILE) or "{}")
        return {str(name): str(digest) for name, digest in document["parameters"].items()}
    except (GoldenError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # it only refines a diagnosis; a damaged one must not hide the drift itself


def write_weights(folder: Path, parameters: Mapping[str, str]) -> None:
    """Write the fingerprints per parameter, once a model, where they are not there already."""
    if read_weights(folder) == dict(parameters):
        return
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in parameters.items())
    write_atomically(
        folder / WEIGHTS_FILE, f'{{\n"format": 1,\n"parameters": {{\n{lines}\n}}\n}}\n'
    )
