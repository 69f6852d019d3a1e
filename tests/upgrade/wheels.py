"""Make releases of a package that exists only in these tests."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

NAME = "drifty"


def make_wheel(
    folder: Path, version: str, code: str, requires: str = "", parts: int = 0, year: int = 2025
) -> Path:
    """Write a wheel of ``drifty``: one module, and a package of ``parts`` more."""
    info = f"{NAME}-{version}.dist-info"
    need = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        **{f"{NAME}_parts/part_{number}.py": f"NUMBER = {number}\n" for number in range(parts)},
        f"{NAME}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n{need}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 3, 4, 5, 6, 7)), text)
    return path


MARCH = 1741064767  # 2025-03-04
BACKEND = """
import os, time
from pathlib import Path
from wheels import make_wheel

def build_wheel(folder, *arguments):
    hold = os.environ.get("DRIFTY_HOLD")
    if hold:
        Path(f"{hold}.begun").touch()
        while Path(hold).exists():
            time.sleep(0.05)
    return make_wheel(Path(folder), "2.0", "FACTOR = 1.0\\n").name
"""


def make_slow_sdist(folder: Path, version: str) -> None:
    """Write a source archive of ``drifty``, whose build waits while ``$DRIFTY_HOLD`` exists.

    The build creates ``$DRIFTY_HOLD.begun`` when it begins.
    """
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": project + f'[project]\nname = "{NAME}"\nversion = "{version}"\n',
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        "backend.py": BACKEND,
        "wheels.py": Path(__file__).read_text(),
    }
    with tarfile.open(folder / f"{NAME}-{version}.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{NAME}-{version}/{name}")
            entry.size, entry.mtime = len(text.encode()), MARCH
            archive.addfile(entry, io.BytesIO(text.encode()))
