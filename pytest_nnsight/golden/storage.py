"""Names of golden files, reading them, and writing them whole or not at all."""

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
LARGEST_FILE = 128 * 1024 * 1024
"""The largest golden that is read, in bytes; reading takes about ten times as much memory."""
LONGEST_NAME = 160  # characters
HOW_TO_RESTORE = "restore it, or rewrite it with --snapshot-update"


def clean_name(name: str) -> str:
    """Replace all but ASCII letters, digits and ``-_.,=+[]`` by ``_``; cut at 160 characters."""
    return re.sub(r"[^A-Za-z0-9_\-.,=+\[\]]", "_", name)[:LONGEST_NAME]


def file_name(name: str) -> str:
    """Turn a test's name into a file name.

    A name that had to be changed ends in a part of its hash, so that two tests never share a file.
    """
    clean = clean_name(name)
    if clean == name and clean.strip("."):
        return clean
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{clean}-{digest}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step: a reader sees the old file or the new one.

    Raise `GoldenError` if the folder cannot be written or the disk is full.
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
    """Raise `GoldenError` if a symbolic link leads from ``path`` to outside of ``root``."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise GoldenError(f"{hide_home(str(path))} leads out of {root.name}/ by a link; remove it")


def read_text(path: Path) -> str | None:
    """Return the text of a golden, or ``None`` if there is no such file.

    Raise `GoldenError` if it is not text, is too large, or is not a regular file (reading from a
    pipe would never end).
    """
    name = hide_home(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GoldenError(f"cannot read golden {name}: it is not a regular file")
        if status.st_size > LARGEST_FILE:
            most = LARGEST_FILE >> 20
            raise GoldenError(f"{name} is larger than {most} MB; that is not a golden")
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise GoldenError(f"{name} is not text; {HOW_TO_RESTORE}") from error
    except OSError as error:
        raise GoldenError(f"cannot read golden {name}: {error.strerror or error}") from error


def read_weights(folder: Path) -> dict[str, str] | None:
    """Return the fingerprint of each parameter of a golden folder, or ``None`` if unknown.

    A damaged file counts as unknown: it only refines a diagnosis, and must not hide the drift.
    """
    try:
        document = json.loads(read_text(folder / WEIGHTS_FILE) or "{}")
        return {str(name): str(digest) for name, digest in document["parameters"].items()}
    except (GoldenError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def write_weights(folder: Path, parameters: Mapping[str, str]) -> None:
    """Write the fingerprint of each parameter, unless the folder already has the same ones."""
    if read_weights(folder) == dict(parameters):
        return
    document = {"format": 1, "parameters": dict(parameters)}
    write_atomically(folder / WEIGHTS_FILE, json.dumps(document, indent=0) + "\n")
