"""Draw the pictures of report pages in docs/images: ``make pages``.

They show real sessions of the trained model. Needs Debian's chromium, the extra ``page``, and for
the grid the output of ``make upgrade-matrix``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SHORT = "#session=0&test=nnsight-suite%3A%3Atest_short_prompt"
CHANGE = """
import os, pytest

@pytest.fixture(scope="session", autouse=True)
def one_weight(nnsight_model):
    if "CHANGE" in os.environ:
        nnsight_model._module.model.layers[12].mlp.down_proj.weight.data[3, 5] += 0.5
    yield
"""


def main(model: str) -> None:
    """Run the suite, change a weight, run it again, and take pictures of the pages."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "conftest.py").write_text(CHANGE)
        pytest(folder, model, "--snapshot-update")
        pytest(folder, model, "--nnsight-report=clean.html")
        pytest(folder, model, "--nnsight-report=drift.html", CHANGE="1")
        take(folder / "clean.html", SHORT, "clean.png", 1250)
        take(folder / "drift.html", SHORT, "drift.png", 1480)
    grid = ROOT / "build" / "upgrade-tiny.json"
    if grid.is_file():
        page = grid.with_suffix(".html")
        command = [sys.executable, "-c", "from pytest_nnsight.cli import main; main()"]
        subprocess.run([*command, "report", grid, "--html", page], check=True)
        take(page, "", "upgrade.png", 900)


def pytest(folder: Path, model: str, *arguments: str, **environ: str) -> None:
    """Run the built-in suite in a folder."""
    command = [sys.executable, "-m", "pytest", f"--nnsight-model=smollm2={model}"]
    known = {name: value for name, value in os.environ.items() if name != "CI"}
    subprocess.run(
        [*command, "--nnsight-suite", "--nnsight-leaks=off", *arguments],
        cwd=folder,
        env=known | environ,
        stdout=subprocess.DEVNULL,
        check=False,
    )


def take(page: Path, test: str, name: str, height: int) -> None:
    """Take a picture of the top of a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1200, "height": height})
        tab.goto(page.as_uri() + test)
        tab.evaluate("scrollTo(0, 0)")
        tab.wait_for_timeout(300)
        tab.screenshot(path=IMAGES / name)
        browser.close()
    print(f"wrote docs/images/{name}, {(IMAGES / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1])
